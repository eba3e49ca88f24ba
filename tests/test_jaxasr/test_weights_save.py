"""`save` writes complete folders, which `read_checkpoint` reads."""

import json

import checkpoints
import jax
import numpy as np
import pytest

from jaxasr.config import SIZES
from jaxasr.weights import WeightsError, assemble, read_checkpoint, save, saving, tensor_files
from jaxasr.weights.whisper_names import from_openai, to_openai


@pytest.fixture
def read(tmp_path):
    return read_checkpoint(checkpoints.write_ct2(tmp_path / "ct2", checkpoints.random_tensors()))


@pytest.mark.parametrize("param_dtype", ["float32", "float16", "bfloat16"])
def test_saved_weights_are_bitwise_those_of_the_model(read, param_dtype, tmp_path):
    model = assemble(read, param_dtype=param_dtype)
    reloaded = read_checkpoint(save(model, tmp_path / "out"))
    assert {entry.dtype for entry in reloaded.tensors.entries.values()} == {param_dtype}
    assert jax.tree.all(
        jax.tree.map(np.array_equal, model, assemble(reloaded, param_dtype=param_dtype))
    )


def test_heads_suppressed_tokens_and_tokenizer_are_saved(read, tmp_path):
    (read.source / "tokenizer.json").write_text('{"a": 1}')
    read = read_checkpoint(read.source)
    reloaded = read_checkpoint(save(assemble(read), tmp_path / "out", checkpoint=read))
    for field in ("config", "alignment_heads", "suppress_ids", "suppress_ids_begin"):
        assert getattr(reloaded, field) == getattr(read, field), field
    assert reloaded.tokenizer_file.read_text() == '{"a": 1}'


def test_a_recogniser_is_saved_with_its_checkpoint(read, tmp_path):
    class Recogniser:
        model, checkpoint = assemble(read), read

    assert (
        read_checkpoint(save(Recogniser(), tmp_path / "out")).alignment_heads
        == read.alignment_heads
    )


def test_a_folder_with_files_is_not_changed(read, tmp_path):
    (tmp_path / "out").mkdir()
    save(assemble(read), tmp_path / "out")
    before = (tmp_path / "out" / "model.safetensors").stat().st_mtime_ns
    with pytest.raises(WeightsError, match="new or empty folder"):
        save(assemble(read), tmp_path / "out")
    assert (tmp_path / "out" / "model.safetensors").stat().st_mtime_ns == before


def test_a_failure_leaves_no_files(read, tmp_path, monkeypatch):
    def full_disk(*_: object, **__: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(tensor_files, "save_file", full_disk)
    with pytest.raises(OSError, match="No space left"):
        save(assemble(read), tmp_path / "deep" / "out")
    assert list((tmp_path / "deep").iterdir()) == []


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        # openai/whisper-{size}/generation_config.json on the hub
        (
            "tiny.en",
            {
                "decoder_start_token_id": 50257,
                "eos_token_id": 50256,
                "no_timestamps_token_id": 50362,
                "prev_sot_token_id": 50360,
            },
        ),
        (
            "tiny",
            {
                "decoder_start_token_id": 50258,
                "eos_token_id": 50257,
                "no_timestamps_token_id": 50363,
                "prev_sot_token_id": 50361,
            },
        ),
        (
            "large-v3",
            {
                "decoder_start_token_id": 50258,
                "eos_token_id": 50257,
                "no_timestamps_token_id": 50364,
                "prev_sot_token_id": 50362,
            },
        ),
    ],
)
def test_control_tokens_are_the_published_ones(size, expected):
    settings = saving.generation_json(SIZES[size], checkpoint=None)
    assert {key: settings[key] for key in expected} == expected
    assert settings["is_multilingual"] == (size != "tiny.en")
    if size == "large-v3":
        assert (settings["lang_to_id"]["<|en|>"], settings["lang_to_id"]["<|yue|>"]) == (
            50259,
            50358,
        )
        assert settings["task_to_id"] == {"translate": 50359, "transcribe": 50360}


def test_names_convert_in_both_directions():
    names = checkpoints.shapes()
    assert [to_openai(from_openai(name)) for name in names] == list(names)
    assert {from_openai(name) for name in names} == {checkpoints.hf_name(name) for name in names}


def test_saved_settings_are_json(read, tmp_path):
    out = save(assemble(read), tmp_path / "out")
    for file in out.glob("*.json"):
        assert json.loads(file.read_text())
    assert not list(tmp_path.glob(".*"))
