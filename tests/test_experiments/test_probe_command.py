"""`jaxasr probe`: a planted label is found and a planted nothing is not; what it writes; what it refuses."""

import json
import shutil

import numpy as np
import pandas
import pytest
from small_speech import small_recogniser, tone, write
from typer.testing import CliRunner

import jaxasr
from experiments import cli, runtime, store
from experiments.analyses import probe as probing
from experiments.commands.probe import _corpora
from experiments.data.corpora import open_corpus
from interventions import probes

N = 24


@pytest.fixture(scope="module")
def small():
    return small_recogniser()


@pytest.fixture(autouse=True)
def _the_small_model(small, monkeypatch):
    monkeypatch.setattr(runtime, "load", lambda *_: small)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """24 recordings of 6 speakers: `pitch` can be heard, `coin` cannot; each has a low and a high half, aligned."""
    where = tmp_path_factory.mktemp("corpus")
    coins, rows = np.random.default_rng(5).permutation(N) % 2, []
    for i in range(N):
        hz = 300 + i if i % 2 else 2000 + 10 * i
        write(where / f"{i}.wav", np.concatenate([tone(hz, 0.2, i), tone(3300 - hz, 0.2, i)]))
        halves = [[0.0, 0.2, "low" if i % 2 else "high"], [0.2, 0.4, "high" if i % 2 else "low"]]
        labels = {"pitch": "low" if i % 2 else "high", "coin": int(coins[i]), "same": "x", "hz": hz}
        rows.append(
            {
                "path": f"{i}.wav",
                "speaker": f"s{i % 6}",
                "only": f"p{i % 2}",
                **labels,
                "phones": halves,
            }
        )
    rows.append({"path": "gone.wav", "speaker": "s0", "pitch": "low"})
    rows[3]["pitch"] = ""
    (where / "manifest.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return where


@pytest.fixture(scope="module")
def activations(folder, small, tmp_path_factory):
    path = tmp_path_factory.mktemp("shared") / "store"
    sites = ("encoder.resid_post", "encoder.embed")
    return store.extract(
        small, open_corpus(folder), path, sites=sites, pool=("speech", "all", "frames")
    ).path


def run(*arguments: object, code: int = 0):
    done = CliRunner().invoke(cli.app, ["probe", *map(str, arguments)])
    assert done.exit_code == code, (done.output, done.exception)
    return done


def test_a_label_that_is_there(folder, tmp_path):
    out = tmp_path / "out"
    how = [folder, "--label", "pitch", "--group", "speaker", "--out", out, "--folds", 3]
    done = run(*how)
    assert "left out gone.wav" in done.stderr
    found, table = json.loads((out / "result.json").read_text()), pandas.read_csv(out / "table.csv")
    assert found["classes"] == {"high": 12, "low": 11}
    assert found["left_out"]["rows"] == {"no pitch": 1}
    assert list(found["left_out"]["recordings"]) == ["gone.wav"]
    assert found["provenance"]["model"]["sha256"]
    assert table.layer.tolist() == [0, 1, 2]
    assert (table.accuracy > 0.9).all()
    assert ((table.low <= table.accuracy) & (table.accuracy <= table.high)).all()
    assert (table.shuffled < 0.8).all()
    assert {"majority", "mel", "embed", "balanced"} <= set(table.columns)
    assert (out / "accuracy.png").read_bytes().startswith(b"\x89PNG")
    bank = probes.Bank.load(out / "bank")
    opened = store.open(out / "activations")
    assert bank.predict(opened.activations("encoder.resid_post")).sizes["row"] == N
    again = run(*how, "--json")  # over what is there: the store is only read
    assert json.loads(again.stdout)["table"] == found["table"]
    assert "a second" in done.stderr
    assert "a second" not in again.stderr


def question(label: str, **more: object) -> probing.Question:
    return probing.Question(label, **{"pool": "speech", "folds": 3, **more})


def test_rows_of_utterances(folder, activations):
    opened, corpus = store.open(activations), open_corpus(folder)
    found = probing.rows(opened, corpus, question("pitch", group="speaker", types="coin"))
    ids = [name for name in opened.ids if name != "3.wav"]  # its label is empty
    labels = {one.id: one for one in corpus.utterances}
    assert found.y.tolist() == [labels[name].label("pitch") for name in ids]
    assert found.groups.tolist() == [labels[name].speaker for name in ids]
    assert found.types.tolist() == [str(labels[name].label("coin")) for name in ids]
    rows = [opened.ids.index(name) for name in ids]
    np.testing.assert_array_equal(found.X, opened.activations("encoder.resid_post")[:, rows])
    np.testing.assert_array_equal(
        found.baselines["embed"], opened.activations("encoder.embed")[0, rows]
    )
    np.testing.assert_array_equal(found.baselines["mel"], opened.mel()[rows])


def test_rows_of_frames(folder, activations, small):
    opened, corpus = store.open(activations), open_corpus(folder)
    found = probing.rows(
        opened, corpus, question("phone", pool="frames", group="speaker", max_rows=200), small
    )
    assert found.X.shape == (3, 200, 10)
    assert found.left_out == {"drawn lots": N * 20 - 200}
    everything = probing.rows(opened, corpus, question("phone", pool="frames"), small)
    first, second = (
        ("low", "high") if int(opened.ids[0].removesuffix(".wav")) % 2 else ("high", "low")
    )
    assert everything.y[:20].tolist() == [first] * 10 + [second] * 10
    X, _ = opened.frames("encoder.resid_post")
    np.testing.assert_array_equal(everything.X, X)
    heard = jaxasr.log_mel(jaxasr.load_audio(folder / opened.ids[0]), 80)[:, 6:8].mean(1)
    np.testing.assert_allclose(everything.baselines["mel"][3], heard, rtol=1e-4, atol=1e-5)


def test_rare_classes_are_left_out_and_named(folder, activations):
    opened, corpus = store.open(activations), open_corpus(folder)
    found = probing.rows(opened, corpus, question("pitch", min_count=12))
    assert set(found.y) == {"high"}
    assert found.left_out == {"no pitch": 1, "pitch low": 11}
    with pytest.raises(ValueError, match="no row of the store has one"):
        probing.rows(opened, corpus, question("nobody"))


def test_a_number_is_fitted_by_ridge_regression(folder, activations, tmp_path):
    run(
        folder,
        "--label",
        "hz",
        "--target",
        "value",
        "--store",
        activations,
        "--out",
        tmp_path,
        "--folds",
        3,
    )
    table = pandas.read_csv(tmp_path / "table.csv")
    assert table.layer.tolist() == [0, 1, 2]
    assert table.r2.max() > 0.5 > table.shuffled.max()
    assert not (tmp_path / "activations").exists()  # the shared store has all of it


def test_noise_becomes_a_label(folder):
    heard, asked = _corpora(str(folder), ["speaker=s0,s1", "noise=snr:0"], ["snr:0", "snr:10"])
    assert sorted(heard.labels("noise")) == ["clean"] * 9 + ["snr:0"] * 9 + ["snr:10"] * 9
    assert len({one.label("recording") for one in heard.utterances}) == 9
    assert asked.labels("noise") == ["snr:0"] * 9


@pytest.mark.parametrize(("arguments", "message"), [
    (["--label", "same"], "at least 2 classes, got only 'x'"),
    (["--label", "pitch", "--group", "only"], "2 groups cannot be split into 5 folds"),
    (["--label", "gender"], "'gender'"),
    (["--label", "pitch", "--pool", "last"], "another settings"),
    (["--label", "pitch", "--where", "speaker"], "expected COLUMN=VALUE"),
    (["--label", "speaker", "--target", "value"], "expected numbers for --target value"),
])  # fmt: skip
def test_what_is_refused(folder, activations, tmp_path, arguments, message):
    done = run(folder, *arguments, "--store", activations, "--out", tmp_path, code=2)
    assert message in " ".join(done.stderr.split())


def test_activations_that_are_nan_are_refused(folder, activations, tmp_path):
    shutil.copytree(activations, tmp_path / "store")
    found = store.open(tmp_path / "store")
    group = store.integrity.existing(found.path)
    group["encoder.resid_post"][0, 1, N, 2] = np.nan
    store.integrity.finish(group, {})  # as if it had been written so
    run_it = ["--label", "pitch", "--store", found.path, "--out", tmp_path]
    assert "NaN or infinity in layer 1" in " ".join(run(folder, *run_it, code=2).stderr.split())


def test_a_figure_has_a_panel_for_each_model():
    table = pandas.DataFrame(
        {
            "layer": [0, 1],
            "penalty": 1.0,
            "accuracy": [0.6, 0.9],
            "low": [0.5, 0.8],
            "high": [0.7, 1.0],
            "mel": 0.55,
        }
    )
    drawn = probing.figure({"tiny.en": table, "base": table}, "gender")
    assert [axes.get_title() for axes in drawn.axes] == ["tiny.en", "base"]
