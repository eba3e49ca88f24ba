"""A store holds the activations of plain passes, bitwise the same after a kill, and is checked."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import xarray
import zarr
from small_speech import SMALL, small_recogniser, tone, tones

import jaxasr
from experiments import store
from experiments.data.corpora import Corpus, Utterance
from experiments.store import StoreError, pools

SITE, LENGTHS = "encoder.resid_post", [0.5, 1.01, 0.3, 2.0, 0.7]
# Encoder frames of the recordings with `LENGTHS` seconds.
FRAMES = [25, 51, 15, 100, 35]
ALL_SITES_AND_POOLS = {
    "sites": (SITE, "encoder.mlp.post", "encoder.ln_post"),
    "pool": ("speech", "all", "last", 3, "frames"),
    "batch": 2,
}


@pytest.fixture(scope="module")
def small():
    return small_recogniser()


@pytest.fixture(scope="module")
def complete_store(small, tmp_path_factory):
    """Returns a store with every kind of variable. No test changes it."""
    return store.extract(
        small, tones(LENGTHS), tmp_path_factory.mktemp("full") / "store", **ALL_SITES_AND_POOLS
    )


def files(path: Path) -> dict[str, bytes]:
    """Returns the files of all variables, without the group's attributes (times and commands)."""
    return {
        str(file.relative_to(path)): file.read_bytes()
        for file in path.rglob("*")
        if file.is_file() and file.parent != path
    }


def test_pools_and_frames_equal_those_of_a_plain_pass(small, complete_store):
    assert complete_store.ids == ["u2", "u0", "u4", "u1", "u3"]  # by length, since frames are kept
    row_of = {name: row for row, name in enumerate(complete_store.ids)}
    rows = {name: complete_store.frames(name)[0] for name in ALL_SITES_AND_POOLS["sites"]}
    offsets = complete_store.frames(SITE)[1]
    for i, utterance in enumerate(tones(LENGTHS).utterances):
        row = row_of[utterance.id]
        mel = jaxasr.log_mel(utterance.samples(), 80)
        _, acts = small.model.encode(
            mel[None], readout=jaxasr.select(*ALL_SITES_AND_POOLS["sites"])
        )
        for site in ALL_SITES_AND_POOLS["sites"]:
            x = np.asarray(acts[site]).reshape(-1, 1500, rows[site].shape[-1])
            true = x[:, : FRAMES[i]]
            expected = {
                "speech": true.mean(1),
                "all": x.mean(1),
                "last": true[:, -1],
                "3": true[:, 3],
            }
            for pool, value in expected.items():
                pooled = complete_store.activations(site, pool)[:, row]
                np.testing.assert_allclose(pooled, value, rtol=1e-4, atol=2e-5)
            frames = rows[site][:, offsets[row] : offsets[row + 1]]
            np.testing.assert_allclose(frames, true, rtol=1e-4, atol=2e-5)
        mel_mean = np.asarray(mel)[:, : 2 * FRAMES[i]].mean(1)
        np.testing.assert_allclose(complete_store.mel()[row], mel_mean, rtol=1e-4, atol=1e-5)


def test_chosen_frames_equal_those_among_all(complete_store):
    ids = ["u1", "u3", "u2"]
    every, offsets = complete_store.frames(SITE, ids)
    np.testing.assert_array_equal(complete_store.frame_counts(SITE, ids), np.diff(offsets))
    # The first and last frame of u1, the first and last of u3, and one of u2.
    rows = np.array([0, 50, 51, 150, 160])
    np.testing.assert_array_equal(complete_store.frames(SITE, ids, rows)[0], every[:, rows])
    two = complete_store.frames(SITE, ids, np.array([60, 70]))[0]
    assert two.shape == (every.shape[0], 2, every.shape[2])
    assert complete_store.frames(SITE, ["u1"], rows[:0])[0].shape[1] == 0


def test_xarray_opens_a_store_with_names(complete_store):
    dataset = xarray.open_zarr(complete_store.path, consolidated=False, chunks=None)
    assert dataset[SITE].dims == ("pool", "encoder_layer", "utterance", "feature")
    assert dataset[SITE].sel(pool="last", utterance="u3").shape == (3, 10)
    assert dataset["encoder.mlp.post"].dims[-1] == "feature_40"
    assert dataset["encoder.ln_post.frames"].dims == ("encoder_frame", "feature")
    n_frames = dict(zip(dataset.utterance.values, dataset.n_frames.values))
    assert n_frames == dict(zip(["u0", "u1", "u2", "u3", "u4"], FRAMES))
    assert complete_store.attrs["provenance"]["versions"]["jax"] == jax.__version__


def test_padding_cannot_change_what_is_pooled_over_speech():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 30, 7)).astype(np.float32)
    lengths, names = [11, 23], ("speech", "last", "-2", "all")
    readout = pools.readout(pools.spans(names, [0, 0], lengths, lengths, 30), [SITE])
    before = np.asarray(readout({SITE: jnp.asarray(x)})[SITE])
    for row, n in enumerate(lengths):
        x[row, n:] = rng.choice([1e30, -np.inf, np.nan, 7.0], size=x[row, n:].shape)
    after = np.asarray(readout({SITE: jnp.asarray(x)})[SITE])
    np.testing.assert_array_equal(after[:, :3], before[:, :3])
    assert not np.isfinite(after[:, 3]).any()
    np.testing.assert_array_equal(after[:, 2], [x[0, 9], x[1, 21]])


_KILLED = """
import sys, time, dataclasses
from small_speech import small_recogniser, tones
from experiments import store
corpus = tones({lengths})
def delayed(utterance):
    return dataclasses.replace(utterance, read=lambda: (time.sleep(0.25), utterance.read())[1])
slow = map(delayed, corpus.utterances)
corpus = dataclasses.replace(corpus, utterances=tuple(slow))
store.extract(small_recogniser(), corpus, sys.argv[1], pool=("speech", "frames"), batch=2)
"""


def test_a_killed_and_resumed_store_is_bitwise_the_uninterrupted_one(small, tmp_path):
    lengths, path = [0.2 + 0.1 * i for i in range(12)], tmp_path / "killed"
    options = {"pool": ("speech", "frames"), "batch": 2}
    whole = store.extract(small, tones(lengths), tmp_path / "whole", **options)
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), *sys.path]),
    }
    process = subprocess.Popen(
        [sys.executable, "-c", _KILLED.format(lengths=lengths), str(path)], env=environment
    )
    try:
        status = path / "status" / "c" / "0"  # written with the first batch
        deadline = time.monotonic() + 120
        while not status.exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
    finally:
        process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    half = store.open(path)
    done = len(half.done)
    assert 0 < done < len(lengths)
    assert not half.complete
    chunks = path / SITE / "c" / "0" / "0"
    chunks.mkdir(parents=True, exist_ok=True)
    (chunks / "0.0123456789abcdef.partial").write_bytes(b"an interrupted write")
    progress = []
    resumed = store.extract(
        small, tones(lengths), path, **options, progress=lambda done, total: progress.append(done)
    )
    assert progress[0] == done  # progress starts after the finished batches
    assert resumed.complete
    assert files(path) == files(whole.path)
    assert resumed.attrs["checksums"] == whole.attrs["checksums"]
    resumed.verify()


def test_another_model_corpus_or_setting_is_refused(small, complete_store):
    with pytest.raises(
        StoreError,
        match=r"another model: it has \{'sha256': '\w+'\}, this run has \{'sha256': '\w+'\}",
    ):
        store.extract(
            small_recogniser(2), tones(LENGTHS), complete_store.path, **ALL_SITES_AND_POOLS
        )
    with pytest.raises(StoreError, match=r"another corpus: .*'n': 5.*this run has .*'n': 4"):
        store.extract(small, tones(LENGTHS[:4]), complete_store.path, **ALL_SITES_AND_POOLS)
    with pytest.raises(
        StoreError,
        match=r"another settings: it has \{'dtype': 'float32'\}, this run has \{'dtype': 'float16'",
    ):
        store.extract(
            small, tones(LENGTHS), complete_store.path, **ALL_SITES_AND_POOLS, dtype="float16"
        )
    assert store.covers(complete_store.path, small, tones(LENGTHS), [SITE], ["all"])
    assert not store.covers(
        complete_store.path, small, tones(LENGTHS), ["encoder.resid_mid"], ["all"]
    )
    assert not store.covers(
        complete_store.path, small_recogniser(2), tones(LENGTHS), [SITE], ["all"]
    )


def test_a_folder_without_a_store_is_refused(small, tmp_path):
    (tmp_path / "else").mkdir()
    (tmp_path / "else" / "notes.txt").write_text("mine")
    with pytest.raises(StoreError, match="holds something else"):
        store.extract(small, tones(LENGTHS), tmp_path / "else")
    with pytest.raises(FileNotFoundError, match="found none"):
        store.open(tmp_path / "nowhere")


def test_unreadable_recordings_are_listed_and_change_no_other_row(small, complete_store, tmp_path):
    good = tones(LENGTHS[:3]).utterances
    (tmp_path / "broken.wav").write_bytes(b"RIFFnonsense")
    unreadable = [
        Utterance("gone", tmp_path / "gone.wav"),
        Utterance("broken", tmp_path / "broken.wav"),
    ]
    long = Utterance("long", Path("long"), read=lambda: tone(300, 31.0))
    short = Utterance("short", Path("short"), read=lambda: tone(300, 0.05))
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
    rows = [complete_store.ids.index(name) for name in mixed.ids]
    np.testing.assert_allclose(
        mixed.activations(SITE), complete_store.activations(SITE)[:, rows], rtol=1e-5, atol=1e-6
    )
    with pytest.raises(ValueError, match="all 2 failed"):
        store.extract(small, Corpus("bad", "memory", tuple(unreadable)), tmp_path / "none", batch=2)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_values_are_rounded_to_the_stored_number_format(small, complete_store, tmp_path, dtype):
    rounded = store.extract(small, tones(LENGTHS[:2]), tmp_path / dtype, dtype=dtype, batch=2)
    kind = ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype
    rows = [complete_store.ids.index(name) for name in rounded.ids]
    exact = complete_store.activations(SITE)[:, rows]
    np.testing.assert_allclose(
        rounded.activations(SITE),
        exact.astype(kind).astype(np.float64),
        rtol=1e-2 if dtype == "bfloat16" else 1e-3,
    )
    assert rounded.group[SITE].dtype.itemsize == {"float64": 8}.get(dtype, 2)


def test_shards_hold_all_activations_on_the_device(complete_store):
    shards = list(complete_store.shards(SITE, "speech", 2))
    assert [ids for ids, _ in shards] == [["u2", "u0"], ["u4", "u1"], ["u3"]]
    assert all(isinstance(x, jax.Array) for _, x in shards)
    np.testing.assert_array_equal(
        np.concatenate([x for _, x in shards], axis=1), complete_store.activations(SITE)
    )
    with pytest.raises(ValueError, match="has speech, all, last, 3, got 'first'"):
        complete_store.activations(SITE, "first")
    with pytest.raises(ValueError, match=r"got 'encoder\.attn_out'"):
        complete_store.activations("encoder.attn_out")


@pytest.mark.parametrize(("options", "message"), [
    ({"sites": ["encoder.attn.pattern"]}, "a pattern has two times"),
    ({"sites": ["encoder.resid"]}, "Unknown site"),
    ({"pool": "median"}, "expected 'speech', 'all', 'last', 'frames' or positions"),
    ({"pool": ("last", "last")}, "each once"),
    ({"dtype": "int8"}, "dtype: expected one of float32"),
    ({"text": "own"}, "text: expected one of greedy, transcript"),
])  # fmt: skip
def test_wrong_options_are_refused_before_a_store_is_created(small, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        store.extract(small, tones(LENGTHS), tmp_path / "store", **options)
    assert not (tmp_path / "store").exists()


def test_decoder_sites_are_read_over_the_text(asr, tmp_path):
    """The reference is a teacher-forced pass over prompt, text and end of text."""
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
