"""Word times of transcribed texts equal plain implementations and those of CTranslate2."""

import functools

import ctranslate2
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

import jaxasr
from experiments.data import real_speech
from jaxasr.alignment.punctuation import merge_punctuation
from jaxasr.alignment.released_heads import ALIGNMENT_HEADS, check_heads, default_heads
from jaxasr.alignment.time_warping import alignment_matrix, dtw
from jaxasr.alignment.words import align
from jaxasr.audio import n_frames
from jaxasr.transcript import Word

load = functools.cache(jaxasr.load)


@functools.cache
def demo():
    audio = jaxasr.load_audio(real_speech.DEMO)[: 30 * 16_000]
    return audio, load("tiny.en").transcribe(audio, timestamps=False).segments[0].tokens


def encode(asr, *audios):
    return asr.model.encode(jnp.stack([jaxasr.log_mel(a, asr.config.n_mels) for a in audios]))[0]


def dtw_by_cells(cost):
    """Computes openai/whisper's `timing.dtw_cpu` cell by cell."""
    n, m = cost.shape
    total, trace = np.full((n + 1, m + 1), np.inf), np.zeros((n + 1, m + 1), int)
    total[0, 0] = 0
    for j in range(1, m + 1):
        for i in range(1, n + 1):
            c0, c1, c2 = total[i - 1, j - 1], total[i - 1, j], total[i, j - 1]
            c, trace[i, j] = (
                (c0, 0) if c0 < c1 and c0 < c2 else (c1, 1) if c1 < c0 and c1 < c2 else (c2, 2)
            )
            total[i, j] = cost[i - 1, j - 1] + c
    trace[0, :], trace[:, 0] = 2, 1
    path, i, j = [], n, m
    while i > 0 or j > 0:
        path.append((i - 1, j - 1))
        i, j = {0: (i - 1, j - 1), 1: (i - 1, j), 2: (i, j - 1)}[trace[i, j]]
    return np.array(path[::-1]).T


@settings(deadline=None, max_examples=200)
@given(n=st.integers(1, 17), m=st.integers(1, 23), seed=st.integers(0, 2**32 - 1))
def test_dtw_equals_the_recurrence_of_openai(n, m, seed):
    cost = np.random.default_rng(seed).normal(size=(n, m))
    rows, columns = dtw(cost)
    np.testing.assert_array_equal(np.array([rows, columns]), dtw_by_cells(cost))


def test_the_alignment_matrix_equals_a_plain_implementation():
    scores = np.random.default_rng(0).normal(size=(3, 5, 29)).astype(np.float32) * 4
    weights = np.exp(scores.astype(np.float64))
    weights /= weights.sum(-1, keepdims=True)
    weights = (weights - weights.mean(1, keepdims=True)) / weights.std(1, keepdims=True)
    padded = np.pad(weights, ((0, 0), (0, 0), (3, 3)), mode="reflect")
    expected = np.median(
        np.lib.stride_tricks.sliding_window_view(padded, 7, axis=-1), axis=-1
    ).mean(0)
    np.testing.assert_allclose(alignment_matrix(scores), expected, atol=1e-6)
    assert np.isfinite(alignment_matrix(scores[..., :1])).all()


def words_of(*texts):
    return [Word(text, i, i + 1, 0.5, (i,)) for i, text in enumerate(texts)]


@pytest.mark.parametrize(
    ("texts", "merged"),
    [
        ((" Hi", ",", " you", "!", "?"), [(" Hi,", 0), (" you!?", 2)]),
        ((" (", "so", ")", " it"), [(" (so)", 1), (" it", 3)]),
        ((' "', " What", '."'), [(' " What', 1), ('."', 2)]),
        ((), []),
    ],
)
def test_punctuation_joins_its_word_and_keeps_the_word_s_times(texts, merged):
    assert [(w.text, w.start) for w in merge_punctuation(words_of(*texts))] == merged


def test_words_of_the_demo_are_in_order_and_cover_the_text():
    asr = load("tiny.en")
    audio, tokens = demo()
    words = align(
        asr.model,
        asr.tokenizer,
        encode(asr, audio),
        [tokens],
        [n_frames(len(audio))],
        heads=asr.alignment_heads,
    )[0]
    assert "".join(w.text for w in words) == asr.tokenizer.decode(tokens)
    assert [i for w in words for i in w.tokens] == [
        i for i in tokens if i < asr.tokenizer.special.eot
    ]
    times = np.array([(w.start, w.end) for w in words])
    assert (np.diff(times.ravel()[::2]) >= 0).all()
    assert (times[:, 0] <= times[:, 1]).all()
    assert times.max() <= n_frames(len(audio)) / 50
    assert all(0 < w.probability <= 1 for w in words)


def test_padded_rows_of_a_batch_equal_separate_windows():
    asr = load("tiny.en")
    audio, tokens = demo()
    half = audio[: len(audio) // 2]
    audios, texts = [audio, half, half], [tokens, tokens[:5], []]
    frames = [n_frames(len(a)) for a in audios]
    align_texts = functools.partial(align, asr.model, asr.tokenizer, heads=asr.alignment_heads)
    batched = align_texts(encode(asr, *audios), texts, frames)
    assert batched[2] == []
    for i in range(2):
        separate = align_texts(encode(asr, audios[i]), [texts[i]], [frames[i]])[0]
        assert [(w.text, w.start, w.end) for w in batched[i]] == [
            (w.text, w.start, w.end) for w in separate
        ]
        np.testing.assert_allclose(
            [w.probability for w in batched[i]], [w.probability for w in separate], atol=1e-5
        )


def test_pattern_and_queries_give_the_same_times_and_edits_of_either_act():
    """If an edit acts on the pattern, word times use the pattern instead of queries and keys."""
    asr = load("tiny.en")
    audio, tokens = demo()
    align_texts = functools.partial(
        align,
        asr.model,
        asr.tokenizer,
        encode(asr, audio),
        [tokens],
        [n_frames(len(audio))],
        heads=asr.alignment_heads,
    )
    plain, same = (
        align_texts()[0],
        align_texts(edits={"decoder.cross_attn.pattern": lambda x, at: x})[0],
    )
    assert [(w.text, w.start, w.end) for w in plain] == [(w.text, w.start, w.end) for w in same]
    uniform = align_texts(
        edits={"decoder.cross_attn.pattern": lambda x, at: jnp.full_like(x, 1 / x.shape[-1])}
    )[0]
    assert [w.start for w in uniform] != [w.start for w in plain]
    without_queries = align_texts(edits={"decoder.cross_attn.q": lambda x, at: 0 * x})[0]
    assert [w.start for w in without_queries] != [w.start for w in plain]


def clips():
    """Returns the demo recording, and those recordings of the data folder that exist."""
    folder = real_speech.folder()
    names = [
        "classic/jfk.flac",
        "classic/libri_3436-172162-0000.flac",
        "ljspeech/LJ001-0001.flac",
        "odd/wt_words.flac",
    ]
    return [real_speech.DEMO] + (
        [folder / name for name in names if (folder / name).is_file()] if folder else []
    )


@pytest.mark.parametrize("path", clips(), ids=lambda p: p.stem)
def test_times_equal_ctranslate2(path):
    """CTranslate2 has its own model, filter and path. Weights and features are the same."""
    asr = load("tiny.en")
    audio = jaxasr.load_audio(path)[: 30 * 16_000]
    frames = n_frames(len(audio))
    tokens = [
        i
        for s in asr.transcribe(audio, timestamps=False, no_speech_threshold=None).segments
        for i in s.tokens
    ]
    features = np.array(jaxasr.log_mel(audio, 80))[None]
    oracle = ctranslate2.models.Whisper(
        str(asr.checkpoint.source), compute_type="float32", intra_threads=2
    )
    theirs = oracle.align(
        oracle.encode(ctranslate2.StorageView.from_array(features)),
        asr.tokenizer.sot_sequence(),
        [tokens],
        2 * frames,
    )[0]
    rows, columns = np.array(theirs.alignments).T
    starts = columns[np.diff(rows, prepend=-1) > 0] / 50
    words = align(
        asr.model, asr.tokenizer, encode(asr, audio), [tokens], [frames], heads=asr.alignment_heads
    )[0]
    bounds = np.cumsum([0] + [len(ids) for _, ids in asr.tokenizer.split_words(tokens)])
    allowed = {round(float(s), 2) for s in starts[bounds]}
    assert len(words) > 3
    assert {round(w.start, 2) for w in words} <= allowed
    assert {round(w.end, 2) for w in words} <= allowed


def test_published_heads_exist_in_their_models_and_equal_those_of_the_package():
    for name, heads in ALIGNMENT_HEADS.items():
        assert check_heads(jaxasr.SIZES[name], heads) == heads
    assert load("tiny.en").alignment_heads == ALIGNMENT_HEADS["tiny.en"]
    assert default_heads(jaxasr.SIZES["tiny"]) == tuple(
        (layer, head) for layer in (2, 3) for head in range(6)
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"heads": ((4, 0),)}, r"heads.*4 layers.*\(4, 0\)"),
        ({"heads": ()}, "heads.*none"),
        ({"texts": [[1]] * 2}, "expected 1 of each"),
        ({"n_frames": [0]}, "1 to 1500 encoder frames, got 0"),
        ({"texts": [[1] * 446]}, "at most 445 tokens.*446"),
    ],
)
def test_errors_name_the_argument(change, message):
    asr = load("tiny.en")
    memory = encode(asr, np.zeros(16_000, np.float32))
    arguments = {"texts": [[1]], "n_frames": [50], "heads": asr.alignment_heads} | change
    with pytest.raises(ValueError, match=message):
        align(asr.model, asr.tokenizer, memory, **arguments)
