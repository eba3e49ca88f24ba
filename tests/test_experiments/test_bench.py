"""The benchmarks compute their numbers correctly, and exchange data with worker processes."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr
from flax import nnx

import jaxasr
from experiments.bench import flops, options, recordings, sklearn_probes, sweep, transcribe
from experiments.bench.worker import Worker, peak_rss
from experiments.data import real_speech
from jaxasr.config import SIZES


class EchoJob:
    def __init__(self, job):
        self.job = job

    def answer(self, value):
        print("on standard output, where it must not disturb the answers")
        return [self.job["word"], value]

    def fail(self):
        raise KeyError("this worker fails on purpose")


def test_a_worker_answers_and_a_failed_one_is_reported(capfd):
    with Worker(
        "tests.test_experiments.test_bench:EchoJob",
        {"word": "é"},
        PYTHONPATH=str(Path(__file__).parents[2]),
    ) as worker:
        assert worker.ask("answer", value={"a": 1.5}) == ["é", {"a": 1.5}]
        with pytest.raises(RuntimeError, match=r"EchoJob\.fail: the process ended with code 1"):
            worker.ask("fail")
    assert "this worker fails on purpose" in capfd.readouterr().err


def test_peak_memory_is_in_bytes():
    assert 50e6 < peak_rss() < 1e12


@pytest.mark.parametrize("with_memory", [False, True])
def test_flops_of_the_encoder_equal_those_the_compiler_counts(with_memory):
    model = jax.eval_shape(lambda: jaxasr.Whisper(SIZES["tiny"], rngs=nnx.Rngs(0)))
    mel = jax.ShapeDtypeStruct((2, 80, 3000), jnp.float32)

    def encode(model, mel):
        readout = jaxasr.select("encoder.attn.pattern", "encoder.mlp.post")
        memory, acts = model.encode(mel, readout=readout, unroll=4)
        return (memory if with_memory else memory.xa), acts

    counted = jax.jit(encode).lower(model, mel).cost_analysis()["flops"]
    # The compiler also counts norms, softmax and GELU. These have a few operations per number,
    # whereas a matrix product has hundreds.
    assert flops.encoder_flops("tiny", 2, with_memory) == pytest.approx(counted, rel=0.03)


def test_the_last_batch_is_full():
    assert transcribe._make_batches(3, 2) == [[0, 1], [2, 0]]
    assert transcribe._make_batches(2, 8) == [[0, 1, 0, 1, 0, 1, 0, 1]]


def test_a_ratio_is_the_median_over_rounds():
    job = {"model": "tiny", "seconds": [10.0, 5.0]}
    rounds = [[1.0, 2.0, 4.0], [2.0, 8.0, 4.0]]
    timed = [
        [{"encode_s": s / 2, "decode_s": s / 2, "total_s": s} for s in seconds]
        for seconds in rounds
    ]
    ours, theirs = (
        transcribe.Measurement(name, batch=1, first_s=3.0, rounds=seconds, tokens=[[1], [2, 3]])
        for name, seconds in zip(("ours", "theirs"), timed)
    )
    texts = {"ours": ["a", "b"], "theirs": ["a", "c"]}
    rates = [{"jax": 1e9}, {"jax": 2e9}]  # operations per second of matrix products, by round
    row = transcribe.summary(job, contender=theirs, ours=ours, texts=texts, rates=rates)
    assert row["ratios"] == [2.0, 4.0, 1.0]
    assert (row["ratio"], row["real_time_factor"], row["tokens_per_s"]) == (2.0, 4.0 / 15.0, 1.5)
    assert (row["texts_differ"], row["n_texts"]) == (1, 2)
    assert row["encoder_share_of_gemm"] == flops.encoder_flops("tiny", 2, False) / 2.0 / 2e9


def test_fits_are_compared_by_their_objectives():
    """Our weights are scikit-learn's optimum, and those of "half" are half as large."""
    rng = np.random.default_rng(0)
    y, test = np.arange(40) % 2, np.arange(40)[None, None] >= 32
    X = (rng.normal(size=(1, 40, 3)) + y[:, None]).astype(np.float32)
    best = sklearn_probes.fit_all(X.astype(np.float64), y, test, (1.0,), 1e-10)
    weights, bias = sklearn_probes._split_two_classes(best[0, 0, 0, 0])
    dims = ("layer", "penalty", "fold", "seed")
    data = xr.Dataset({
        "weights": ((*dims, "class", "feature"), weights[None, None, None, None]),
        "bias": ((*dims, "class"), bias[None, None, None, None]),
        "test": (("fold", "seed", "row"), test),
        "objective": (dims, np.zeros((1, 1, 1, 1))),
    }, {"penalty": [1.0]})  # fmt: skip
    bank = type("Bank", (), {"data": data, "objective": data.objective})
    comparison = sklearn_probes.compare(X, y, bank, {"equal": best, "half": best / 2})
    assert comparison["ours"]["excess_max"] == comparison["equal"]["excess_max"] == 0
    assert comparison["equal"]["accuracy_gap"] == 0
    assert comparison["equal"]["predictions_equal"] == 1
    assert comparison["half"]["excess_max"] == comparison["half"]["excess_median"] > 0.01


class SlowMethods:
    """Computes cells ten times more slowly than ours, each with the same error."""

    def ask(self, method, kind, mode, cells, batch):
        return {"seconds": len(cells) / 100, "values": [sum(cell) + 0.5 for cell in cells]}


def test_slow_methods_of_a_sweep_are_compared_on_the_cells_they_computed():
    model = {"decoder_layers": 4, "decoder_attention_heads": 6}
    cells = sweep.cells_of("decoder", model, n_tokens=11, frames=300)
    values = list(map(sum, cells))

    def ask(kind, reuse=True):
        return {"seconds": len(cells) / 1000, "values": values, "programs": 3}

    ours, unshared, *others = sweep.measure(ask, SlowMethods(), "decoder", cells, rounds=2)
    assert ours["late_programs"] == ours["error"] == unshared["error"] == 0
    assert {row["way"] for row in others} >= {"hook loop, whole model", "batched hooks, 11 rows"}
    for row in others:
        assert row["ratio"] == pytest.approx(10)
        assert 0 < row["error"] <= 0.5
        assert len(row["rates"]) == 2
    assert others[0]["cells"] == 8
    assert others[-1]["cells"] == len(cells)


def test_numbers_are_saved_as_strict_json(tmp_path):
    options.save(tmp_path / "a.json", {"gap": float("nan"), "shape": (1, 2)})
    assert json.loads((tmp_path / "a.json").read_text()) == {"gap": None, "shape": [1, 2]}
    options.save(None, {})


def test_without_a_data_folder_the_demo_recording_is_measured_and_named(monkeypatch, capsys):
    monkeypatch.setattr(real_speech, "folders", lambda: ())
    mels, seconds = recordings._compute_features(2, 80, 0.0)
    assert mels.shape == (2, 80, 3000)
    assert seconds[0] == seconds[1]
    assert "Measures the demo recording." in capsys.readouterr().out
