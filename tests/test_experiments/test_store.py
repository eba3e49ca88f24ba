"""The activation store holds what plain passes give, in every pool and number format."""

from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import xarray
import zarr
from small_speech import SMALL, small_recogniser, tone, tones
from small_stores import LENGTHS_S, SITE, STORE_OPTIONS

import jaxasr
from experiments import store
from experiments.data.corpora import Corpus, Utterance
from experiments.store import pools

FRAMES = [25, 51, 15, 100, 35]  # encoder frames of the recordings of `LENGTHS_S`


@pytest.fixture(scope="module")
def small():
    return small_recogniser()


@pytest.fixture(scope="module")
def full(small, tmp_path_factory):
    """A store with every kind of variable, which no test changes."""
    return store.extract(
        small, tones(LENGTHS_S), tmp_path_factory.mktemp("full") / "store", **STORE_OPTIONS
    )


def test_pools_and_frames_equal_those_of_a_plain_pass(small, full):
    assert full.ids == ["u2", "u0", "u4", "u1", "u3"]  # by length, since frames are kept
    row_of = {name: row for row, name in enumerate(full.ids)}
    rows = {name: full.frames(name)[0] for name in STORE_OPTIONS["sites"]}
    offsets = full.frames(SITE)[1]
    for i, utterance in enumerate(tones(LENGTHS_S).utterances):
        row = row_of[utterance.id]
        mel = jaxasr.log_mel(utterance.samples(), 80)
        _, acts = small.model.encode(mel[None], readout=jaxasr.select(*STORE_OPTIONS["sites"]))
        for site in STORE_OPTIONS["sites"]:
            x = np.asarray(acts[site]).reshape(-1, 1500, rows[site].shape[-1])
            true = x[:, : FRAMES[i]]
            expected = {
                "speech": true.mean(1),
                "all": x.mean(1),
                "last": true[:, -1],
                "3": true[:, 3],
            }
            for pool, value in expected.items():
                pooled = full.activations(site, pool)[:, row]
                np.testing.assert_allclose(pooled, value, rtol=1e-4, atol=2e-5)
            frames = rows[site][:, offsets[row] : offsets[row + 1]]
            np.testing.assert_allclose(frames, true, rtol=1e-4, atol=2e-5)
        mel_mean = np.asarray(mel)[:, : 2 * FRAMES[i]].mean(1)
        np.testing.assert_allclose(full.mel()[row], mel_mean, rtol=1e-4, atol=1e-5)


def test_chosen_frames_equal_those_among_all(full):
    ids = ["u1", "u3", "u2"]
    every, offsets = full.frames(SITE, ids)
    np.testing.assert_array_equal(full.frame_counts(SITE, ids), np.diff(offsets))
    # The first and last of u1, the first and last of u3, and one of u2.
    rows = np.array([0, 50, 51, 150, 160])
    np.testing.assert_array_equal(full.frames(SITE, ids, rows)[0], every[:, rows])
    two = full.frames(SITE, ids, np.array([60, 70]))[0]
    assert two.shape == (every.shape[0], 2, every.shape[2])
    assert full.frames(SITE, ["u1"], rows[:0])[0].shape[1] == 0


def test_xarray_opens_a_store_with_names(full):
    dataset = xarray.open_zarr(full.path, consolidated=False, chunks=None)
    assert dataset[SITE].dims == ("pool", "encoder_layer", "utterance", "feature")
    assert dataset[SITE].sel(pool="last", utterance="u3").shape == (3, 10)
    assert dataset["encoder.mlp.post"].dims[-1] == "feature_40"
    assert dataset["encoder.ln_post.frames"].dims == ("encoder_frame", "feature")
    n_frames = dict(zip(dataset.utterance.values, dataset.n_frames.values))
    assert n_frames == dict(zip(["u0", "u1", "u2", "u3", "u4"], FRAMES))
    assert full.attrs["provenance"]["versions"]["jax"] == jax.__version__


def test_padding_cannot_change_what_is_pooled_over_speech():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 30, 7)).astype(np.float32)
    lengths, names = [11, 23], ("speech", "last", "-2", "all")
    readout = pools.readout(pools.spans(names, [0, 0], lengths, lengths, 30), [SITE])
    before = np.asarray(readout({SITE: jnp.asarray(x)})[SITE])
    for row, n in enumerate(lengths):
        # Only the padding changes.
        x[row, n:] = rng.choice([1e30, -np.inf, np.nan, 7.0], size=x[row, n:].shape)
    after = np.asarray(readout({SITE: jnp.asarray(x)})[SITE])
    np.testing.assert_array_equal(after[:, :3], before[:, :3])
    assert not np.isfinite(after[:, 3]).any()
    np.testing.assert_array_equal(after[:, 2], [x[0, 9], x[1, 21]])


def test_unreadable_recordings_are_listed_and_change_no_other_row(small, full, tmp_path):
    good = tones(LENGTHS_S[:3]).utterances
    (tmp_path / "broken.wav").write_bytes(b"RIFFnonsense")
    unreadable = [
        Utterance("gone", tmp_path / "gone.wav"),
        Utterance("broken", tmp_path / "broken.wav"),
    ]
    long = Utterance("long", Path("long"), read=lambda: tone(300, seconds=31.0))
    short = Utterance("short", Path("short"), read=lambda: tone(300, seconds=0.05))
    corpus = Corpus("mixed", "memory", (good[0], *unreadable, good[1], long, short, good[2]))
    mixed = store.extract(
        small, corpus, tmp_path / "store", sites=(SITE,), pool=("speech", 3), batch=2
    )
    assert mixed.ids == ["u0", "u1", "u2"]
    assert (
        set(mixed.problems) == {"gone", "broken", "long", "short"} == set(mixed.attrs["left_out"])
    )
    assert "no such file" in mixed.problems["gone"]
    assert "longer than 30 s: 31.0 s" in mixed.problems["long"]
    assert mixed.problems["short"] == "position 3 lies outside of its 3 frames"
    rows = [full.ids.index(name) for name in mixed.ids]
    np.testing.assert_allclose(
        mixed.activations(SITE), full.activations(SITE)[:, rows], rtol=1e-5, atol=1e-6
    )
    with pytest.raises(ValueError, match="all 2 failed"):
        store.extract(small, Corpus("bad", "memory", tuple(unreadable)), tmp_path / "none", batch=2)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_values_are_rounded_to_the_stored_number_format(small, full, tmp_path, dtype):
    rounded = store.extract(small, tones(LENGTHS_S[:2]), tmp_path / dtype, dtype=dtype, batch=2)
    kind = ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype
    rows = [full.ids.index(name) for name in rounded.ids]
    exact = full.activations(SITE)[:, rows]
    np.testing.assert_allclose(
        rounded.activations(SITE),
        exact.astype(kind).astype(np.float64),
        rtol=1e-2 if dtype == "bfloat16" else 1e-3,
    )
    assert rounded.group[SITE].dtype.itemsize == {"float64": 8}.get(dtype, 2)


def test_shards_hold_all_activations_on_the_device(full):
    shards = list(full.shards(SITE, "speech", 2))
    assert [ids for ids, _ in shards] == [["u2", "u0"], ["u4", "u1"], ["u3"]]
    assert all(isinstance(x, jax.Array) for _, x in shards)
    np.testing.assert_array_equal(
        np.concatenate([x for _, x in shards], axis=1), full.activations(SITE)
    )
    with pytest.raises(ValueError, match="has speech, all, last, 3, got 'first'"):
        full.activations(SITE, "first")
    with pytest.raises(ValueError, match=r"got 'encoder\.attn_out'"):
        full.activations("encoder.attn_out")


@pytest.mark.parametrize(("options", "message"), [
    ({"sites": ["encoder.attn.pattern"]}, "expected sites with one time axis"),
    ({"sites": ["encoder.resid"]}, "Unknown site"),
    ({"pool": "median"}, "expected 'speech', 'audio', 'all', 'last', 'frames' or pos"),
    ({"pool": ("last", "last")}, "each once"),
    ({"dtype": "int8"}, "dtype: expected one of float32"),
    ({"text": "own"}, "text: expected one of greedy, transcript"),
])  # fmt: skip
def test_wrong_options_are_refused_before_a_store_is_created(small, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        store.extract(small, tones(LENGTHS_S), tmp_path / "store", **options)
    assert not (tmp_path / "store").exists()


def test_decoder_sites_are_read_over_the_text(asr, tmp_path):
    """Compares with a teacher-forced pass over prompt, text and end of text."""
    demo = jaxasr.load_audio(Path(__file__).parents[2] / "experiments" / "assets" / "demo.flac")
    demo, text, site = demo[: 4 * 16_000], "The captain read.", "decoder.resid_post"
    utterance = Utterance("d", Path("d"), read=lambda: demo, transcript=text)
    corpus = Corpus("demo", "memory", (utterance,))
    options = {"sites": [site], "pool": ("last", "speech", "all"), "batch": 1}
    greedy = store.extract(asr, corpus, tmp_path / "greedy", **options, max_new_tokens=12)
    forced = store.extract(asr, corpus, tmp_path / "forced", **options, text="transcript")
    memory, _ = asr.model.encode(jaxasr.log_mel(demo, 80)[None])
    prompt, eot = asr.tokenizer.prompt(), asr.tokenizer.special.eot
    generated = asr.generate(memory, max_new_tokens=12).ids[0]
    for opened, ids in ((greedy, generated), (forced, asr.tokenizer.encode(f" {text}"))):
        tokens = jnp.array([[*prompt, *ids, eot]])
        _, acts = asr.model.decode(tokens, memory, readout=jaxasr.select(site))
        x = np.asarray(acts[site])[:, 0]
        expected = {"last": x[:, -1], "speech": x[:, len(prompt) : -1].mean(1), "all": x.mean(1)}
        for pool, value in expected.items():
            pooled = opened.activations(site, pool)[:, 0]
            np.testing.assert_allclose(pooled, value, atol=1e-4 * np.abs(x).max())
    assert SMALL.n_text_layer != greedy.activations(site, "last").shape[0]
    assert zarr.open_group(greedy.path)[site].metadata.dimension_names[1] == "decoder_layer"
