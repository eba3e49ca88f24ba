"""The activation store: what it holds, that a kill changes no bit of it, and what it refuses."""

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
from experiments.store import StoreError, layout, pools
from jaxasr.rules import rules_for

SITE, LENGTHS = "encoder.resid_post", [0.5, 1.01, 0.3, 2.0, 0.7]
FRAMES = [25, 51, 15, 100, 35]
EVERY = {
    "sites": (SITE, "encoder.mlp.post", "encoder.ln_post"),
    "pool": ("speech", "all", "last", 3, "frames"),
    "batch": 2,
}


@pytest.fixture(scope="module")
def small():
    return small_recogniser()


@pytest.fixture(scope="module")
def made(small, tmp_path_factory):
    """A store of everything, left alone by the tests."""
    return store.extract(small, tones(LENGTHS), tmp_path_factory.mktemp("made") / "store", **EVERY)


def files(path: Path) -> dict[str, bytes]:
    """All that a store holds, but for what says when and how it was made."""
    return {
        str(file.relative_to(path)): file.read_bytes()
        for file in path.rglob("*")
        if file.is_file() and file.parent != path
    }


def test_pools_and_frames_are_those_of_the_plain_pass(small, made):
    assert made.ids == ["u2", "u0", "u4", "u1", "u3"]  # by length, since frames are kept
    where = {name: i for i, name in enumerate(made.ids)}
    rows = {name: made.frames(name)[0] for name in EVERY["sites"]}
    offsets = made.frames(SITE)[1]
    for i, one in enumerate(tones(LENGTHS).utterances):
        mel = jaxasr.log_mel(one.samples(), 80)
        _, acts = small.model.encode(mel[None], readout=jaxasr.select(*EVERY["sites"]))
        for site in EVERY["sites"]:
            x = np.asarray(acts[site]).reshape(-1, 1500, rows[site].shape[-1])
            true = x[:, : FRAMES[i]]
            expected = {
                "speech": true.mean(1),
                "all": x.mean(1),
                "last": true[:, -1],
                "3": true[:, 3],
            }
            for pool, value in expected.items():
                np.testing.assert_allclose(
                    made.activations(site, pool)[:, where[one.id]], value, rtol=1e-4, atol=2e-5
                )
            a, b = offsets[where[one.id]], offsets[where[one.id] + 1]
            np.testing.assert_allclose(rows[site][:, a:b], true, rtol=1e-4, atol=2e-5)
        heard = np.asarray(mel)[:, : 2 * FRAMES[i]].mean(1)
        np.testing.assert_allclose(made.mel()[where[one.id]], heard, rtol=1e-4, atol=1e-5)


def test_some_frames_are_those_of_all(made):
    every, offsets = made.frames(SITE, ["u1", "u3", "u2"])
    np.testing.assert_array_equal(made.frame_counts(SITE, ["u1", "u3", "u2"]), np.diff(offsets))
    rows = np.array(
        [0, 50, 51, 150, 160]
    )  # the first and last of u1, the first and last of u3, one of u2
    np.testing.assert_array_equal(made.frames(SITE, ["u1", "u3", "u2"], rows)[0], every[:, rows])
    assert made.frames(SITE, ["u1", "u3", "u2"], np.array([60, 70]))[0].shape == (
        every.shape[0],
        2,
        every.shape[2],
    )
    assert made.frames(SITE, ["u1"], rows[:0])[0].shape[1] == 0


def test_xarray_opens_it_with_names(made):
    dataset = xarray.open_zarr(made.path, consolidated=False, chunks=None)
    assert dataset[SITE].dims == ("pool", "encoder_layer", "utterance", "feature")
    assert dataset[SITE].sel(pool="last", utterance="u3").shape == (3, 10)
    assert dataset["encoder.mlp.post"].dims[-1] == "feature_40"
    assert dataset["encoder.ln_post.frames"].dims == ("encoder_frame", "feature")
    assert dict(zip(dataset.utterance.values, dataset.n_frames.values)) == dict(
        zip(["u0", "u1", "u2", "u3", "u4"], FRAMES)
    )
    assert made.attrs["provenance"]["versions"]["jax"] == jax.__version__


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
slow = [dataclasses.replace(one, read=lambda one=one: (time.sleep(0.25), one.read())[1]) for one in corpus.utterances]
store.extract(small_recogniser(), dataclasses.replace(corpus, utterances=tuple(slow)), sys.argv[1], pool=("speech", "frames"), batch=2)
"""


def test_killed_and_resumed_is_bitwise_what_it_would_have_been(small, tmp_path):
    lengths, path = [0.2 + 0.1 * i for i in range(12)], tmp_path / "killed"
    how = {"pool": ("speech", "frames"), "batch": 2}
    whole = store.extract(small, tones(lengths), tmp_path / "whole", **how)
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), *sys.path]),
    }
    process = subprocess.Popen(
        [sys.executable, "-c", _KILLED.format(lengths=lengths), str(path)], env=environment
    )
    try:
        there = path / "status" / "c" / "0"  # written with the first batch
        deadline = time.monotonic() + 120
        while not there.exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
    finally:
        process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    half = store.open(path)
    done = len(half.done)
    assert 0 < done < len(lengths)
    assert not half.complete
    (path / SITE / "c" / "0" / "0").mkdir(parents=True, exist_ok=True)
    (path / SITE / "c" / "0" / "0" / "0.0123456789abcdef.partial").write_bytes(
        b"a write that was cut short"
    )
    seen = []
    resumed = store.extract(
        small, tones(lengths), path, **how, progress=lambda done, total: seen.append(done)
    )
    assert seen[0] == done  # nothing that was there is computed again
    assert resumed.complete
    assert files(path) == files(whole.path)
    assert resumed.attrs["checksums"] == whole.attrs["checksums"]
    resumed.verify()


def test_a_store_is_of_one_model_one_corpus_and_one_setting(small, made):
    with pytest.raises(
        StoreError,
        match=r"another model: it has \{'sha256': '\w+'\}, this run has \{'sha256': '\w+'\}",
    ):
        store.extract(small_recogniser(2), tones(LENGTHS), made.path, **EVERY)
    with pytest.raises(StoreError, match=r"another corpus: .*'n': 5.*this run has .*'n': 4"):
        store.extract(small, tones(LENGTHS[:4]), made.path, **EVERY)
    with pytest.raises(
        StoreError,
        match=r"another settings: it has \{'dtype': 'float32'\}, this run has \{'dtype': 'float16'\}",
    ):
        store.extract(small, tones(LENGTHS), made.path, **EVERY, dtype="float16")
    assert store.covers(made.path, small, tones(LENGTHS), [SITE], ["all"])
    assert not store.covers(made.path, small, tones(LENGTHS), ["encoder.resid_mid"], ["all"])
    assert not store.covers(made.path, small_recogniser(2), tones(LENGTHS), [SITE], ["all"])


def test_half_written_by_another_version(small, made, tmp_path, monkeypatch):
    monkeypatch.setattr(layout, "versions", lambda: {"jaxasr": "0.0.9"})
    with monkeypatch.context() as stopped:
        stopped.setattr("experiments.store.writing.Writer.finish", lambda *_: None)
        store.extract(small, tones(LENGTHS[:2]), tmp_path / "half", batch=2)
    monkeypatch.undo()
    with pytest.raises(
        StoreError, match=r"another versions: .*'jaxasr': '0\.0\.9'.*this run has .*half-written"
    ):
        store.extract(small, tones(LENGTHS[:2]), tmp_path / "half", batch=2)
    (tmp_path / "else").mkdir()
    (tmp_path / "else" / "notes.txt").write_text("mine")
    with pytest.raises(StoreError, match="holds something else"):
        store.extract(small, tones(LENGTHS), tmp_path / "else")
    with pytest.raises(FileNotFoundError, match="found none"):
        store.open(tmp_path / "nowhere")


def test_what_cannot_be_read_is_listed_and_changes_no_other_row(small, made, tmp_path):
    good = tones(LENGTHS[:3]).utterances
    (tmp_path / "broken.wav").write_bytes(b"RIFFnonsense")
    bad = [Utterance("gone", tmp_path / "gone.wav"), Utterance("broken", tmp_path / "broken.wav")]
    long = Utterance("long", Path("long"), read=lambda: tone(300, 31.0))
    nan = Utterance("short", Path("short"), read=lambda: tone(300, 0.05))
    corpus = Corpus("mixed", "memory", (good[0], bad[0], bad[1], good[1], long, nan, good[2]))
    found = store.extract(
        small, corpus, tmp_path / "store", sites=(SITE,), pool=("speech", 3), batch=2
    )
    assert found.ids == ["u0", "u1", "u2"]
    assert (
        set(found.problems) == {"gone", "broken", "long", "short"} == set(found.attrs["left_out"])
    )
    assert "no such file" in found.problems["gone"]
    assert "longer than 30 s: 31.0 s" in found.problems["long"]
    assert found.problems["short"] == "position 3 lies outside of its 3 frames"
    rows = [made.ids.index(name) for name in found.ids]
    np.testing.assert_allclose(
        found.activations(SITE), made.activations(SITE)[:, rows], rtol=1e-5, atol=1e-6
    )
    with pytest.raises(ValueError, match="all 2 failed"):
        store.extract(small, Corpus("bad", "memory", tuple(bad)), tmp_path / "none", batch=2)


def test_damage_is_found(small, tmp_path):
    found = store.extract(small, tones(LENGTHS[:2]), tmp_path / "store", batch=2)
    chunk = next(file for file in (tmp_path / "store" / SITE / "c").rglob("*") if file.is_file())
    damaged = bytearray(chunk.read_bytes())
    damaged[5] ^= 1
    chunk.write_bytes(bytes(damaged))
    with pytest.raises(StoreError, match=rf"'{SITE}' is damaged"):
        found.verify()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_number_formats(small, made, tmp_path, dtype):
    found = store.extract(small, tones(LENGTHS[:2]), tmp_path / dtype, dtype=dtype, batch=2)
    kind = ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype
    rows = [made.ids.index(name) for name in found.ids]
    exact = made.activations(SITE)[:, rows]
    np.testing.assert_allclose(
        found.activations(SITE),
        exact.astype(kind).astype(np.float64),
        rtol=1e-2 if dtype == "bfloat16" else 1e-3,
    )
    assert found.group[SITE].dtype.itemsize == {"float64": 8}.get(dtype, 2)


def test_back_on_to_the_device_in_shards(made):
    shards = list(made.shards(SITE, "speech", 2))
    assert [ids for ids, _ in shards] == [["u2", "u0"], ["u4", "u1"], ["u3"]]
    assert all(isinstance(x, jax.Array) for _, x in shards)
    np.testing.assert_array_equal(
        np.concatenate([x for _, x in shards], axis=1), made.activations(SITE)
    )
    with pytest.raises(ValueError, match="has speech, all, last, 3, got 'first'"):
        made.activations(SITE, "first")
    with pytest.raises(ValueError, match=r"got 'encoder\.attn_out'"):
        made.activations("encoder.attn_out")


@pytest.mark.parametrize(("how", "message"), [
    ({"sites": ["encoder.attn.pattern"]}, "a pattern has two times"),
    ({"sites": ["encoder.resid"]}, "Unknown site"),
    ({"pool": "median"}, "expected 'speech', 'all', 'last', 'frames' or positions"),
    ({"pool": ("last", "last")}, "each once"),
    ({"dtype": "int8"}, "dtype: expected one of float32"),
    ({"text": "said"}, "text: expected one of greedy, transcript"),
])  # fmt: skip
def test_what_is_asked_wrongly(small, tmp_path, how, message):
    with pytest.raises(ValueError, match=message):
        store.extract(small, tones(LENGTHS), tmp_path / "store", **how)
    assert not (tmp_path / "store").exists()


def test_decoder_sites_are_read_over_the_text(asr, tmp_path):
    """The last position is the end of text after the model's own words: against a plain teacher-forced pass."""
    demo = jaxasr.load_audio(Path(__file__).parents[2] / "experiments" / "assets" / "demo.flac")[
        : 4 * 16_000
    ]
    corpus = Corpus(
        "demo",
        "memory",
        (Utterance("d", Path("d"), read=lambda: demo, transcript="The captain read."),),
    )
    site, eot = "decoder.resid_post", asr.tokenizer.special.eot
    own = store.extract(
        asr,
        corpus,
        tmp_path / "own",
        sites=[site],
        pool=("last", "speech", "all"),
        batch=1,
        max_new_tokens=12,
    )
    given = store.extract(
        asr,
        corpus,
        tmp_path / "given",
        sites=[site],
        pool=("last", "speech", "all"),
        batch=1,
        text="transcript",
    )
    memory, _ = asr.model.encode(jaxasr.log_mel(demo, 80)[None])
    prompt = asr.tokenizer.prompt()
    out = jaxasr.generate(
        asr.model,
        memory,
        jnp.array([prompt]),
        max_new_tokens=12,
        rules=rules_for(asr.tokenizer),
        eot=eot,
    )
    written = np.asarray(out.tokens)[0, : int(out.lengths[0])].tolist()
    for found, ids in ((own, written), (given, asr.tokenizer.encode(" The captain read."))):
        _, acts = asr.model.decode(
            jnp.array([[*prompt, *ids, eot]]), memory, readout=jaxasr.select(site)
        )
        x = np.asarray(acts[site])[:, 0]
        scale = np.abs(x).max()
        np.testing.assert_allclose(
            found.activations(site, "last")[:, 0], x[:, -1], atol=1e-4 * scale
        )
        np.testing.assert_allclose(
            found.activations(site, "speech")[:, 0],
            x[:, len(prompt) : -1].mean(1),
            atol=1e-4 * scale,
        )
        np.testing.assert_allclose(
            found.activations(site, "all")[:, 0], x.mean(1), atol=1e-4 * scale
        )
    assert SMALL.n_text_layer != own.activations(site, "last").shape[0]
    assert zarr.open_group(own.path)[site].metadata.dimension_names[1] == "decoder_layer"
