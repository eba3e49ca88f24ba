"""Fine-tuned models load with their own alignment heads and window, or errors name a remedy."""

import json
import shutil

import checkpoints
import numpy as np
import pytest
from checkpoints import TINY
from small_english import ENGLISH_CONFIG, TOKENIZER_FOLDER, write_english

import jaxasr
from jaxasr.alignment.released_heads import default_heads
from jaxasr.weights import WeightsError, read_checkpoint


@pytest.fixture
def folder(tmp_path):
    return write_english(tmp_path / "mine")


@pytest.mark.parametrize(
    ("heads", "expected"), [([[1, 0], [9, 1]], ((1, 0),)), ([[2, 0], [0, 7]], None)]
)
@pytest.mark.parametrize("form", ["huggingface", "ctranslate2"])
def test_alignment_heads_that_do_not_exist_are_left_out(form, heads, expected, tmp_path):
    config = TINY.replace(n_text_layer=2)
    write = checkpoints.write_hf if form == "huggingface" else checkpoints.write_ct2
    folder = write(tmp_path / "m", checkpoints.random_tensors(config), config)
    (folder / ("generation_config.json" if form == "huggingface" else "config.json")).write_text(
        json.dumps({"alignment_heads": heads})
    )
    with pytest.warns(
        UserWarning, match=r"alignment heads \[\[.*do not exist in 2 layers of 2 heads"
    ):
        read = read_checkpoint(folder)
    assert read.alignment_heads == expected


def test_a_checkpoint_without_existing_heads_gets_the_default_heads(folder):
    shutil.copy(TOKENIZER_FOLDER / "tokenizer.json", folder)
    (folder / "generation_config.json").write_text(json.dumps({"alignment_heads": [[9, 1]]}))
    with pytest.warns(UserWarning, match="default heads"):
        asr = jaxasr.load(folder)
    assert asr.alignment_heads == default_heads(ENGLISH_CONFIG)


def test_a_model_with_a_shorter_window_transcribes_the_whole_recording(folder):
    """The window is 0.5 s long, so a recording of 1.2 s has three windows."""
    shutil.copy(TOKENIZER_FOLDER / "tokenizer.json", folder)
    asr = jaxasr.load(folder)
    assert (asr.config.n_mel_frames, asr.config.n_samples) == (50, 8000)
    audio = np.random.default_rng(0).normal(size=19_200).astype(np.float32) * 0.1
    mel = jaxasr.log_mel(audio[:8000], 80, n_frames=50)
    assert mel.shape == (80, 50)
    np.testing.assert_allclose(mel[:, :40], jaxasr.log_mel(audio[:8000], 80)[:, :40], atol=1e-5)
    options = {
        "timestamps": False,
        "logprob_threshold": None,
        "no_speech_threshold": None,
        "max_new_tokens": 4,
    }
    for padding in ("audio", "features"):
        transcript = asr.transcribe(audio, padding=padding, **options)
        assert [segment.seek for segment in transcript.segments] == [0, 0.5, 1.0]
    with pytest.raises(
        ValueError, match=r"expected \[batch, 80 mels, 50 frames\].*n_mels=80, n_frames=50"
    ):
        asr.model.encode(jaxasr.log_mel(audio, 80)[None])
    with pytest.raises(ValueError, match=r"at most 8000 samples \(0.5 s\)"):
        jaxasr.log_mel(audio, 80, n_frames=50)


def test_models_of_other_audio_features_are_refused(folder):
    for name, settings in (
        ("preprocessor_config.json", {"n_fft": 512}),
        ("processor_config.json", {"feature_extractor": {"hop_length": 80}}),
    ):
        (folder / name).write_text(json.dumps(settings))
        with pytest.raises(WeightsError, match=rf"{name}: expected (n_fft|hop_length) = "):
            read_checkpoint(folder)
        (folder / name).unlink()


@pytest.mark.parametrize(
    ("file", "remedy"),
    [
        ("adapter_model.safetensors", "merge_and_unload"),
        ("tf_model.h5", "save_pretrained"),
        ("flax_model.msgpack", "save_pretrained"),
    ],
)
def test_weights_of_other_libraries_name_the_remedy(file, remedy, tmp_path):
    (tmp_path / file).write_bytes(b"")
    with pytest.raises(WeightsError, match=remedy):
        read_checkpoint(tmp_path)


def test_the_given_file_is_read_and_not_another_of_its_folder(tmp_path):
    folder = checkpoints.write_hf(tmp_path / "m", checkpoints.random_tensors(seed=1))
    checkpoints.write_hf(folder, checkpoints.random_tensors(seed=2), pickled=True)
    (folder / "model.safetensors").rename(folder / "model.fp16.safetensors")
    for name, seed in (("model.fp16.safetensors", 1), ("pytorch_model.bin", 2)):
        expected = checkpoints.random_tensors(seed=seed)["encoder.conv1.bias"]
        np.testing.assert_array_equal(
            read_checkpoint(folder / name).tensors["encoder.conv1.bias"], expected
        )
