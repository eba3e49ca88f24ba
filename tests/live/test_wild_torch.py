"""transformers and jaxasr generate the same text from variants of tiny.en.

The variants have the features of fine-tuned models on the Hugging Face hub.
"""

# ruff: noqa: E402 (torch is imported first, because without it this file is skipped)
import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from tokenizers import AddedToken
from transformers import WhisperForConditionalGeneration, WhisperProcessor

import jaxasr
from experiments.data import real_speech

CLIPS = [
    clip.path
    for clip in real_speech.select_evenly(real_speech.recordings(["libri_test_other", "vctk"]), 2)
] or [real_speech.DEMO]
RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    """Returns a folder with tiny.en as transformers saves it, with tokenizer.json."""
    folder = tmp_path_factory.mktemp("wild") / "base"
    jaxasr.save(jaxasr.load("tiny.en"), folder)
    model, processor = (
        WhisperForConditionalGeneration.from_pretrained(folder),
        WhisperProcessor.from_pretrained(folder),
    )
    times = [AddedToken(f"<|{i * 0.02:.2f}|>", special=True) for i in range(1501)]
    processor.tokenizer.add_tokens(times)  # OpenAI's repositories also have timestamps as tokens
    shutil.rmtree(folder)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def _model(folder: Path) -> WhisperForConditionalGeneration:
    return WhisperForConditionalGeneration.from_pretrained(folder)


def _change_json(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def _features(folder: Path, **changes: object) -> None:
    path = folder / "processor_config.json"
    config = json.loads(path.read_text())
    features = config["feature_extractor"] | changes
    path.write_text(json.dumps(config | {"feature_extractor": features}))


def half(folder: Path) -> None:
    _model(folder).half().save_pretrained(folder)


def pickled(folder: Path) -> None:
    model = _model(folder)
    (folder / "model.safetensors").unlink()
    torch.save(model.state_dict(), folder / "pytorch_model.bin")


def pickled_shards(folder: Path) -> None:
    state = _model(folder).state_dict()
    (folder / "model.safetensors").unlink()
    placed = {}
    for i in (1, 2):
        file, names = f"pytorch_model-0000{i}-of-00002.bin", list(state)[i - 1 :: 2]
        torch.save({name: state[name].clone() for name in names}, folder / file)
        placed |= dict.fromkeys(names, file)
    (folder / "pytorch_model.bin.index.json").write_text(
        json.dumps({"metadata": {"total_size": 1}, "weight_map": placed})
    )


def untied(folder: Path) -> None:
    model = _model(folder)
    model.config.tie_word_embeddings = False
    weight = model.proj_out.weight.detach()
    model.proj_out.weight = torch.nn.Parameter(
        weight + 0.005 * torch.tensor(RNG.normal(size=weight.shape), dtype=torch.float32)
    )
    model.save_pretrained(folder)


def older_tokenizer(folder: Path) -> None:
    """Writes vocab.json, merges.txt and added_tokens.json, and swaps the ids of ` the` and ` a`."""
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    vocab = tokenizer["model"]["vocab"]
    vocab["Ġthe"], vocab["Ġa"] = vocab["Ġa"], vocab["Ġthe"]
    (folder / "vocab.json").write_text(json.dumps(vocab))
    merges = [m if isinstance(m, str) else " ".join(m) for m in tokenizer["model"]["merges"]]
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]))
    (folder / "added_tokens.json").write_text(
        json.dumps({token["content"]: token["id"] for token in tokenizer["added_tokens"]})
    )
    names = [token["content"] for token in tokenizer["added_tokens"]]
    (folder / "special_tokens_map.json").write_text(
        json.dumps({"additional_special_tokens": names})
    )
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()


def foreign_heads(folder: Path) -> None:
    _change_json(folder / "generation_config.json", alignment_heads=[[2, 0], [9, 1]])


def short_window(folder: Path) -> None:
    model = _model(folder)
    positions = model.model.encoder.embed_positions.weight.detach()[:500].clone()
    model.model.encoder.embed_positions.weight = torch.nn.Parameter(positions, requires_grad=False)
    model.config.max_source_positions = 500
    model.save_pretrained(folder)
    _features(folder, chunk_length=10, n_samples=160_000, nb_max_frames=1000)


def no_generation_config(folder: Path) -> None:
    (folder / "generation_config.json").unlink()


def added_token(folder: Path) -> None:
    """Adds a word that is more probable than ` the`, and pads rows to a multiple of eight."""
    model, processor = _model(folder), WhisperProcessor.from_pretrained(folder)
    processor.tokenizer.add_tokens([" Grünkohl"])
    model.resize_token_embeddings(
        len(processor.tokenizer), pad_to_multiple_of=8, mean_resizing=False
    )
    weight = model.model.decoder.embed_tokens.weight
    with torch.no_grad():
        weight[51_864] = 1.05 * weight[262]
        weight[51_865:] = 0
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


VARIANTS = [
    half,
    pickled,
    pickled_shards,
    untied,
    older_tokenizer,
    foreign_heads,
    short_window,
    no_generation_config,
    added_token,
]


def _theirs(folder: Path, audio: np.ndarray) -> str:
    model, processor = _model(folder).float().eval(), WhisperProcessor.from_pretrained(folder)
    features = processor(audio, sampling_rate=16_000, return_tensors="pt").input_features
    with torch.no_grad():
        ids = model.generate(features, num_beams=1, do_sample=False, max_new_tokens=100)
    return processor.batch_decode(ids, skip_special_tokens=True)[0].strip()


def _ours(folder: Path, audio: np.ndarray) -> str:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*alignment heads")
        asr = jaxasr.load(folder)
    suppress = None if asr.checkpoint.suppress_ids is None else asr.checkpoint.suppress_ids
    transcript = asr.transcribe(
        audio,
        timestamps=False,
        suppress=suppress,
        suppress_blank=suppress is not None,
        max_new_tokens=100,
    )
    return transcript.text


@pytest.mark.filterwarnings(
    "ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning"
)
@pytest.mark.parametrize("change", VARIANTS, ids=lambda change: change.__name__)
def test_the_text_equals_that_of_transformers(base, change: Callable[[Path], None], tmp_path):
    folder = Path(shutil.copytree(base, tmp_path / "wild"))
    change(folder)
    for path in CLIPS:
        audio = jaxasr.load_audio(path)[: 10 * 16_000]
        theirs, ours = _theirs(folder, audio), _ours(folder, audio)
        print(f"{change.__name__}: {theirs!r}")
        assert ours == theirs
        assert theirs
