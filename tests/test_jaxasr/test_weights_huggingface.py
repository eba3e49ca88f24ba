"""Hugging Face folders load, also with shards. Folders of other models are refused."""

import json

import checkpoints
import pytest

from jaxasr.weights import WeightsError, assemble, read_checkpoint


def test_an_output_projection_that_is_the_embedding_is_tied(tmp_path):
    from safetensors.numpy import load_file, save_file

    folder = checkpoints.write_hf(tmp_path / "hf", checkpoints.random_tensors())
    tensors = load_file(folder / "model.safetensors")
    save_file(
        tensors | {"proj_out.weight": tensors["model.decoder.embed_tokens.weight"]},
        folder / "model.safetensors",
    )
    assert assemble(read_checkpoint(folder)).config == checkpoints.TINY


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "bert"}, "model_type = 'whisper', .*'audioflamingo3', found 'bert'"),
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
def test_the_configuration_of_another_model_is_refused(changes, message, tmp_path):
    folder = checkpoints.write_hf(tmp_path / "hf", checkpoints.random_tensors())
    config = {k: v for k, v in (checkpoints.hf_config() | changes).items() if v is not None}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(WeightsError, match=message):
        read_checkpoint(folder)


def test_ids_outside_of_the_vocabulary_are_left_out(tmp_path):
    folder = checkpoints.write_hf(tmp_path / "hf", checkpoints.random_tensors())
    (folder / "generation_config.json").write_text(
        json.dumps({"suppress_tokens": [-1, 0, 16, 17], "begin_suppress_tokens": [220]})
    )
    read = read_checkpoint(folder)
    assert (read.suppress_ids, read.suppress_ids_begin) == ((0, 16), ())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"suppress_tokens": ["17"]}, "a list of token ids under 'suppress_tokens'"),
        ({"begin_suppress_tokens": 4}, "begin_suppress_tokens"),
        ({"alignment_heads": [[0, 1, 2]]}, "a list of .layer, head."),
    ],
)
def test_damaged_generation_settings_are_refused(settings, message, tmp_path):
    folder = checkpoints.write_hf(tmp_path / "hf", checkpoints.random_tensors())
    (folder / "generation_config.json").write_text(json.dumps(settings))
    with pytest.raises(WeightsError, match=message):
        read_checkpoint(folder)


def test_an_index_that_is_wrong_or_leaves_the_folder_is_refused(tmp_path):
    folder = checkpoints.write_hf(tmp_path / "hf", checkpoints.random_tensors(), shards=2)
    index = folder / "model.safetensors.index.json"
    file_of = json.loads(index.read_text())["weight_map"]
    first = next(iter(file_of))
    for changed, message in (
        ({first: "../elsewhere.safetensors"}, "files of this folder"),
        (
            {first: "model-00002-of-00002.safetensors"},
            "otherwise for .*model.encoder.positional|otherwise for .*embed_positions",
        ),
        ({"model.extra": "model-00001-of-00002.safetensors"}, "otherwise for model.extra"),
        ({first: "model-00003-of-00002.safetensors"}, "none of model-00003-of-00002.safetensors"),
    ):
        index.write_text(json.dumps({"weight_map": file_of | changed}))
        with pytest.raises(WeightsError, match=message):
            read_checkpoint(folder)
