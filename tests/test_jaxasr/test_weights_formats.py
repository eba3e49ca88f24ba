"""Every format of checkpoint gives the same tensors and the same model."""

import dataclasses
import json
from pathlib import Path

import checkpoints
import jax
import ml_dtypes
import numpy as np
import pytest
from checkpoints import DTYPES, TINY, WRITERS

from jaxasr.encoder import sinusoids
from jaxasr.weights import Checkpoint, WeightsError, assemble, read_checkpoint
from jaxasr.weights.assemble import leaves

GOLDEN = Path(__file__).parents[1] / "golden"


def _read(written: Path) -> Checkpoint:
    return read_checkpoint(written)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("form", WRITERS)
def test_round_trip_is_bitwise(form, dtype, tmp_path):
    tensors = checkpoints.random_tensors(dtype=DTYPES[dtype])
    read = _read(WRITERS[form](tmp_path / "tiny", tensors))
    assert read.config == TINY
    assert set(read.tensors) == set(tensors)
    for name, expected in tensors.items():
        found = read.tensors[name]
        assert found.dtype == expected.dtype == read.tensors.entries[name].dtype
        np.testing.assert_array_equal(found, expected)
    assert read.tensors.nbytes == sum(t.nbytes for t in tensors.values())


def test_every_format_assembles_to_the_same_model(tmp_path):
    tensors = checkpoints.random_tensors(dtype=np.float16)
    models = [assemble(_read(write(tmp_path / form, tensors))) for form, write in WRITERS.items()]
    for model in models[1:]:
        assert jax.tree.all(jax.tree.map(np.array_equal, models[0], model))


def test_assembled_layout(tmp_path):
    """Stacked over layers; linear kernels [in, out]; convolutions [width, in, out]."""
    tensors = checkpoints.random_tensors()
    found = leaves(assemble(_read(checkpoints.write_hf(tmp_path / "hf", tensors))))
    for layer in range(TINY.n_text_layer):
        block = f"decoder.blocks.{layer}"
        np.testing.assert_array_equal(
            found["decoder.blocks.cross_attn.value.kernel"][layer],
            tensors[f"{block}.cross_attn.value.weight"].T,
        )
        np.testing.assert_array_equal(
            found["decoder.blocks.mlp.fc1.bias"][layer], tensors[f"{block}.mlp.0.bias"]
        )
        np.testing.assert_array_equal(
            found["decoder.blocks.mlp_ln.scale"][layer], tensors[f"{block}.mlp_ln.weight"]
        )
    conv = np.asarray(found["encoder.conv1.kernel"])
    for out, into, width in ((11, 4, 2), (0, 3, 1)):
        assert conv[width, into, out] == tensors["encoder.conv1.weight"][out, into, width]
    np.testing.assert_array_equal(
        found["decoder.token_embedding"], tensors["decoder.token_embedding.weight"]
    )
    np.testing.assert_array_equal(
        found["encoder.positional_embedding"], tensors["encoder.positional_embedding"]
    )


@pytest.mark.parametrize("param_dtype", ["float32", "bfloat16"])
def test_param_dtype(param_dtype, tmp_path):
    model = assemble(
        _read(checkpoints.write_ct2(tmp_path / "m", checkpoints.random_tensors())),
        "bfloat16",
        param_dtype,
    )
    assert (model.config.dtype, model.config.param_dtype) == ("bfloat16", param_dtype)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(model)} == {param_dtype}


@pytest.mark.parametrize("form", ["huggingface", "ctranslate2"])
def test_what_a_folder_says_of_itself(form, tmp_path):
    folder = WRITERS[form](tmp_path / "my-model", checkpoints.random_tensors())
    (folder / "tokenizer.json").write_text("{}")
    read = _read(folder)
    assert (read.name, read.format, read.source) == ("my-model", form, folder)
    assert read.tokenizer_file == folder / "tokenizer.json"
    assert read.alignment_heads == ((2, 0), (0, 1))
    assert (read.suppress_ids, read.suppress_ids_begin) == ((3,), (4,))
    assert len(read.sha256) == 64


def test_files_inside_a_folder_mean_the_folder(tmp_path):
    tensors = checkpoints.random_tensors()
    for form, file in (
        ("huggingface", "model.safetensors"),
        ("sharded", "model.safetensors.index.json"),
        ("ctranslate2", "model.bin"),
    ):
        assert set(_read(WRITERS[form](tmp_path / form, tensors) / file).tensors) == set(tensors)
    checkpoints.write_pt(tmp_path / "folder" / "only.pt", tensors)
    assert _read(tmp_path / "folder").format == "openai"


@pytest.mark.parametrize("form", WRITERS)
def test_absent_encoder_positions_are_the_sinusoids(form, tmp_path):
    tensors = checkpoints.random_tensors()
    if form == "ctranslate2":
        variables = checkpoints.ct2_variables(tensors)
        del variables["encoder/position_encodings/encodings"]
        read = _read(checkpoints.write_ct2_variables(tmp_path / "m", variables))
        assert read.config == TINY.replace(n_audio_ctx=1500)  # nothing else in the file tells
    else:
        del tensors["encoder.positional_embedding"]
        read = _read(WRITERS[form](tmp_path / "m", tensors))
    expected = sinusoids(read.config.n_audio_ctx, TINY.n_audio_state)
    np.testing.assert_array_equal(read.tensors["encoder.positional_embedding"], expected)
    assemble(read)


def test_sinusoids_by_hand():
    """openai/whisper: sin(t / 10000^(i / (half - 1))) for the first half of the channels, cos for the second."""
    found = sinusoids(4, 6)
    for t in range(4):
        for i in range(3):
            angle = t / 10_000 ** (i / 2)
            np.testing.assert_allclose(
                found[t, [i, 3 + i]], [np.sin(angle), np.cos(angle)], rtol=1e-6
            )


# --- CTranslate2 ---


def test_ctranslate2_int8_is_dequantized_by_row(tmp_path):
    tensors = checkpoints.random_tensors()
    variables = checkpoints.ct2_variables(tensors)
    for name in [n for n, v in variables.items() if n.endswith("/weight") and np.ndim(v) == 2]:
        scale = (127 / np.abs(variables[name]).max(axis=1)).astype(np.float32)
        variables[name] = np.round(variables[name] * scale[:, None]).astype(np.int8)
        variables[name + "_scale"] = scale
    read = _read(checkpoints.write_ct2_variables(tmp_path / "int8", variables))
    for name, expected in tensors.items():
        step = np.abs(expected).max() / 127
        np.testing.assert_allclose(read.tensors[name], expected, atol=0.51 * step, rtol=0)
    assemble(read)


def test_ctranslate2_int16_has_one_scale(tmp_path):
    tensors = checkpoints.random_tensors()
    variables = checkpoints.ct2_variables(tensors)
    name = "decoder/layer_1/self_attention/linear_0/weight"
    scale = np.float32(1000)
    variables |= {name: np.round(variables[name] * scale).astype(np.int16), name + "_scale": scale}
    read = _read(checkpoints.write_ct2_variables(tmp_path / "int16", variables))
    np.testing.assert_allclose(
        read.tensors["decoder.blocks.1.attn.value.weight"],
        tensors["decoder.blocks.1.attn.value.weight"],
        atol=6e-4,
    )


def _spoil(variables: dict, **changes: object) -> dict:
    return {k: v for k, v in (variables | changes).items() if v is not None}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"decoder/pre_norm": np.int8(0)}, "decoder/pre_norm = 1, found 0"),
        ({"decoder/alibi": np.int8(1)}, "decoder/alibi = 0, found 1"),
        ({"decoder/surprise/weight": np.zeros((2, 2), np.float32)}, "decoder/surprise/weight"),
        (
            {"decoder/embeddings/weight": np.zeros((17, 12), np.int8)},
            "decoder/embeddings/weight_scale",
        ),
        (
            {"encoder/layer_0/self_attention/linear_0/bias": np.ones(36, np.float32)},
            "key projection has no bias",
        ),
        ({"encoder/conv1/weight": None}, "encoder/conv1/weight"),
        (
            {"decoder/num_heads": np.int16(5)},
            "n_text_head: expected a divisor of n_text_state 12, got 5",
        ),
    ],
)
def test_ctranslate2_of_another_model(changes, message, tmp_path):
    variables = _spoil(checkpoints.ct2_variables(checkpoints.random_tensors()), **changes)
    with pytest.raises(WeightsError, match=message):
        _read(checkpoints.write_ct2_variables(tmp_path / "m", variables))


@pytest.mark.parametrize("header", [{"version": 7}, {"version": 2}, {"spec": "TransformerSpec"}])
def test_ctranslate2_of_another_version_or_kind(header, tmp_path):
    variables = checkpoints.ct2_variables(checkpoints.random_tensors())
    with pytest.raises(WeightsError, match=r"expected .* found"):
        _read(checkpoints.write_ct2_variables(tmp_path / "m", variables, **header))


# --- Hugging Face ---


def test_an_output_projection_that_is_the_embedding_is_tied(tmp_path):
    from safetensors.numpy import load_file, save_file

    folder = checkpoints.write_hf(tmp_path / "hf", checkpoints.random_tensors())
    held = load_file(folder / "model.safetensors")
    save_file(
        held | {"proj_out.weight": held["model.decoder.embed_tokens.weight"]},
        folder / "model.safetensors",
    )
    assert assemble(_read(folder)).config == TINY


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "bert"}, "model_type = 'whisper', found 'bert'"),
        ({"activation_function": "relu"}, "activation_function"),
        ({"d_model": None}, "none of d_model"),
        ({"d_model": "12"}, "n_audio_state between 1 and"),
        ({"vocab_size": 1 << 40}, "n_vocab between 1 and"),
        ({"encoder_layers": -1}, "n_audio_layer"),
        (
            {"encoder_attention_heads": 5},
            "n_audio_head: expected a divisor of n_audio_state 12, got 5",
        ),
        ({"decoder_layers": True}, "n_text_layer"),
    ],
)
def test_configuration_of_another_model(changes, message, tmp_path):
    folder = checkpoints.write_hf(tmp_path / "hf", checkpoints.random_tensors())
    (folder / "config.json").write_text(json.dumps(_spoil(checkpoints.hf_config(), **changes)))
    with pytest.raises(WeightsError, match=message):
        _read(folder)


def test_ids_that_the_vocabulary_does_not_have_are_left_out(tmp_path):
    folder = checkpoints.write_hf(tmp_path / "hf", checkpoints.random_tensors())
    (folder / "generation_config.json").write_text(
        json.dumps({"suppress_tokens": [-1, 0, 16, 17], "begin_suppress_tokens": [220]})
    )
    read = _read(folder)
    assert (read.suppress_ids, read.suppress_ids_begin) == ((0, 16), ())


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"suppress_tokens": ["17"]}, "a list of token ids under 'suppress_tokens'"),
        ({"begin_suppress_tokens": 4}, "begin_suppress_tokens"),
        ({"alignment_heads": [[0, 1, 2]]}, "a list of .layer, head."),
    ],
)
def test_generation_settings_of_another_model(said, message, tmp_path):
    folder = checkpoints.write_hf(tmp_path / "hf", checkpoints.random_tensors())
    (folder / "generation_config.json").write_text(json.dumps(said))
    with pytest.raises(WeightsError, match=message):
        _read(folder)


def test_index_that_leaves_the_folder_or_lies(tmp_path):
    folder = checkpoints.write_hf(tmp_path / "hf", checkpoints.random_tensors(), shards=2)
    index = folder / "model.safetensors.index.json"
    placed = json.loads(index.read_text())["weight_map"]
    first = next(iter(placed))
    for changed, message in (
        ({first: "../elsewhere.safetensors"}, "files of this folder"),
        (
            {first: "model-00002-of-00002.safetensors"},
            "otherwise for .*model.encoder.positional|otherwise for .*embed_positions",
        ),
        ({"model.extra": "model-00001-of-00002.safetensors"}, "otherwise for model.extra"),
        ({first: "model-00003-of-00002.safetensors"}, "none of model-00003-of-00002.safetensors"),
    ):
        index.write_text(json.dumps({"weight_map": placed | changed}))
        with pytest.raises(WeightsError, match=message):
            _read(folder)


# --- OpenAI ---


def test_a_file_of_torch_itself():
    """Half, bfloat16, double, transposed, offset, strided, Parameter, scalar: as torch saw them when it saved."""
    from jaxasr.weights import openai

    read = openai.read(GOLDEN / "torch_checkpoint.pt", "golden")
    expected = np.load(GOLDEN / "torch_checkpoint.npz")
    assert read.config == dataclasses.replace(
        read.config, n_mels=5, n_audio_state=6, n_text_head=2, n_vocab=11
    )
    assert set(read.tensors) == {*expected.files, "encoder.positional_embedding"}
    for name in expected.files:
        np.testing.assert_array_equal(read.tensors[name].astype(np.float64), expected[name])
    assert read.tensors["half"].dtype == np.float16
    assert read.tensors["bfloat"].dtype == ml_dtypes.bfloat16


@pytest.mark.parametrize(
    "wrong",
    [
        {"shape": (1 << 30, 12), "stride": (0, 1)},  # a broadcast that would fill the memory
        {"shape": (18, 12), "stride": (12, 1)},
        {"offset": 1},
        {"stride": (-1, 1)},
        {"stride": (12,)},
        {"shape": (-17, 12)},
    ],
)
def test_openai_tensor_outside_its_storage(wrong, tmp_path):
    tensors = checkpoints.random_tensors()
    state = {
        name: checkpoints.p_tensor(str(i), array) for i, (name, array) in enumerate(tensors.items())
    }
    at = list(tensors).index("decoder.token_embedding.weight")
    state["decoder.token_embedding.weight"] = checkpoints.p_tensor(
        str(at), tensors["decoder.token_embedding.weight"], **wrong
    )
    storages = {str(i): array.tobytes() for i, array in enumerate(tensors.values())}
    path = checkpoints.write_pt_raw(tmp_path / "m.pt", checkpoints.p_checkpoint(state), storages)
    with pytest.raises(
        WeightsError, match=r"decoder.token_embedding.weight: a (tensor within|size)"
    ):
        _read(path)
