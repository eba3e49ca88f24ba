"""Audio language models load from folders of transformers, and are saved for them."""

import json

import jax
import language_checkpoints as tiny
import numpy as np
import pytest
from safetensors.numpy import load_file

import jaxasr
from jaxasr.language.sizes import AUDIO_LANGUAGE_SIZES
from jaxasr.weights import WeightsError, assemble, read_checkpoint, save
from jaxasr.weights.assemble import parameters_by_name
from jaxasr.weights.language_settings import config_json, read_config

both = pytest.mark.parametrize("family", tiny.ALL_FAMILIES)


@pytest.fixture
def folder(family, tmp_path):
    return tiny.write(tmp_path / family, family)


def change(folder, part, **changes):
    settings = json.loads((folder / "config.json").read_text())
    (settings[part] if part else settings).update(changes)
    (folder / "config.json").write_text(json.dumps(settings))


@both
def test_every_tensor_becomes_the_parameter_of_its_name(family, folder):
    tensors = load_file(folder / "model.safetensors")
    parameters = parameters_by_name(assemble(read_checkpoint(folder)))
    for layer in range(2):
        block = f"language_model.model.layers.{layer}"
        for name, parameter in (
            ("self_attn.q_proj", "attn.query"),
            ("self_attn.k_proj", "attn.key"),
            ("self_attn.v_proj", "attn.value"),
            ("self_attn.o_proj", "attn.out"),
            ("mlp.gate_proj", "mlp.gate"),
            ("mlp.up_proj", "mlp.up"),
            ("mlp.down_proj", "mlp.down"),
        ):
            ours = parameters[f"decoder.blocks.{parameter}.kernel"][layer]
            np.testing.assert_array_equal(ours, tensors[f"{block}.{name}.weight"].T)
        for name, parameter in (("input", "attn_ln"), ("post_attention", "mlp_ln")):
            ours = parameters[f"decoder.blocks.{parameter}.scale"][layer]
            np.testing.assert_array_equal(ours, tensors[f"{block}.{name}_layernorm.weight"])
    for name, parameter in (
        ("language_model.model.embed_tokens.weight", "decoder.token_embedding"),
        ("language_model.lm_head.weight", "decoder.projection"),
        ("language_model.model.norm.weight", "decoder.ln.scale"),
        ("audio_tower.embed_positions.weight", "encoder.positional_embedding"),
        ("audio_tower.layer_norm.bias", "encoder.ln_post.bias"),
    ):
        np.testing.assert_array_equal(parameters[parameter], tensors[name])
    projector = "linear" if family == "qwen2_audio" else "linear_1"
    np.testing.assert_array_equal(
        parameters["encoder.projector.fc1.kernel"],
        tensors[f"multi_modal_projector.{projector}.weight"].T,
    )


@both
@pytest.mark.parametrize("shards", [1, 3])
def test_names_in_the_memory_of_transformers_are_read(family, shards, tmp_path):
    expected = assemble(read_checkpoint(tiny.write(tmp_path / "files", family)))
    folder = tiny.write(tmp_path / "memory", family)
    (folder / "model.safetensors").unlink()
    renamed = {}
    for name, tensor in tiny.random_tensors(family).items():
        name = name.replace("language_model.model.", "language_model.")
        name = name if ".lm_head" in name else f"model.{name}"
        renamed[name.replace("language_model.lm_head", "lm_head")] = tensor
    assert "lm_head.weight" in renamed
    assert "model.language_model.embed_tokens.weight" in renamed
    tiny.write_tensors(folder, renamed, shards)
    model = assemble(read_checkpoint(folder))
    assert jax.tree.all(jax.tree.map(np.array_equal, model, expected))


@both
@pytest.mark.parametrize("shard_bytes", [20_000, 10**9])
def test_a_saved_model_is_bitwise_the_same(family, folder, shard_bytes, tmp_path):
    asr = jaxasr.load(folder)
    saved = save(asr, tmp_path / "saved", shard_bytes=shard_bytes)
    again = jaxasr.load(saved)
    assert again.config == asr.config
    assert jax.tree.all(jax.tree.map(np.array_equal, again.model, asr.model))
    audio = np.zeros(8000, np.float32)
    np.testing.assert_array_equal(
        again.inputs([audio], "What?").tokens, asr.inputs([audio], "What?").tokens
    )
    names = set()
    for path in saved.glob("*.safetensors"):
        names |= set(load_file(path))
    assert names == set(tiny.shapes(family))


@both
def test_a_tied_model_needs_no_output_projection(family, folder):
    tensors = tiny.random_tensors(family)
    del tensors["language_model.lm_head.weight"]
    tiny.write_tensors(folder, tensors)
    with pytest.raises(WeightsError, match=r"missing \(1\): decoder\.projection\.weight"):
        assemble(read_checkpoint(folder))
    change(folder, "text_config", tie_word_embeddings=True)
    model = assemble(read_checkpoint(folder))
    assert model.config.tied
    np.testing.assert_array_equal(
        model.decoder.unembedding, tensors["language_model.model.embed_tokens.weight"]
    )


@both
def test_errors_name_the_family(family, folder):
    tensors = tiny.random_tensors(family)
    del tensors["language_model.model.norm.weight"]
    tiny.write_tensors(folder, tensors)
    with pytest.raises(WeightsError, match=f"of a model of the family '{family}'") as error:
        assemble(read_checkpoint(folder))
    assert "Whisper" not in str(error.value)
    (folder / "preprocessor_config.json").write_text(json.dumps({"n_fft": 512}))
    with pytest.raises(WeightsError, match=f"features of the family '{family}', found 512"):
        read_checkpoint(folder)


@pytest.mark.parametrize(
    ("family", "part", "changes", "message"),
    [
        ("voxtral", None, {"model_type": "bert"}, "'voxtral', 'audioflamingo3', found 'be"),
        ("voxtral", None, {"model_type": "glmasr"}, "its encoder has rotary positions"),
        ("audioflamingo3", None, {"projector_bias": False}, "projector_bias = True"),
        ("voxtral", "text_config", {"model_type": "gemma"}, "model_type = 'llama' in text_config"),
        ("voxtral", "text_config", {"mlp_bias": True}, "mlp_bias = False"),
        ("voxtral", "text_config", {"rope_scaling": {"type": "yarn"}}, "type 'default', found"),
        ("voxtral", "text_config", {"rope_theta": "1e6"}, "rope_theta above 0"),
        ("voxtral", "audio_config", {"intermediate_size": 32}, "intermediate_size = 64"),
        ("voxtral", None, {"audio_token_id": None}, "audio_token"),
        ("qwen2_audio", None, {"text_config": 3}, "an object under 'text_config'"),
        ("qwen2_audio", "text_config", {"use_sliding_window": True}, "use_sliding_window = False"),
        ("qwen2_audio", "text_config", {"num_key_value_heads": 3}, "divisor of n_text_head 4"),
        ("qwen2_audio", "text_config", {"hidden_size": 1 << 40}, "n_text_state between 1 and"),
        ("qwen2_audio", "text_config", {"eos_token_id": "x"}, "list of token ids under 'eos_tok"),
    ],
)
def test_a_configuration_that_is_not_supported_is_refused(family, part, changes, message, tmp_path):
    folder = tiny.write(tmp_path / family, family)
    change(folder, part, **changes)
    with pytest.raises(WeightsError, match=message):
        read_checkpoint(folder)


@both
def test_the_error_names_tensors_of_another_shape_and_left_over_ones(family, folder):
    tensors = tiny.random_tensors(family)
    tensors["language_model.model.norm.weight"] = np.ones(31, np.float32)
    tensors["language_model.model.layers.0.self_attn.rotary_emb.inv_freq"] = np.ones(4, np.float32)
    tiny.write_tensors(folder, tensors)
    with pytest.raises(WeightsError) as caught:
        assemble(read_checkpoint(folder))
    message = str(caught.value)
    assert "(language_model.model.norm.weight of model.safetensors)" in message
    assert "left over (1): language_model.model.layers.0.self_attn.rotary_emb.inv_freq" in message


def test_the_released_sizes_follow_from_their_published_configurations(tmp_path):
    # The settings that Qwen/Qwen2-Audio-7B and mistralai/Voxtral-Mini-3B-2507 publish. Others are
    # omitted there or have these defaults.
    qwen = {
        "model_type": "qwen2_audio",
        "audio_token_index": 151_646,
        "text_config": {
            "model_type": "qwen2",
            "intermediate_size": 11_008,
            "max_position_embeddings": 8192,
            "rope_theta": 10_000,
            "rms_norm_eps": 1e-5,
            "sliding_window": 32_768,
            "vocab_size": 156_032,
        },
    }
    path, sizes = tmp_path / "config.json", AUDIO_LANGUAGE_SIZES
    eos = sizes["qwen2-audio-7b"].eos
    assert read_config(qwen, path).replace(tied=False, eos=eos) == sizes["qwen2-audio-7b"]
    voxtral = {"model_type": "voxtral", "audio_token_id": 24}
    assert read_config(voxtral, path).replace(tied=False, eos=(2,)) == sizes["voxtral-mini-3b"]
    for config in sizes.values():
        again = read_config(config_json(config), path)
        assert again.replace(tied=config.tied, eos=config.eos) == config


@both
def test_the_ids_that_end_a_text_come_from_either_file(family, folder):
    assert read_checkpoint(folder).config.eos == ((2,) if family == "voxtral" else (258,))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [7, 5]}))
    assert read_checkpoint(folder).config.eos == (7, 5)
