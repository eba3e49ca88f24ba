"""`jaxasr probe` predicts an audible label but not a random one, and refuses bad questions."""

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
from experiments.analyses.probe_data import open_corpora
from experiments.analyses.probe_question import ProbeQuestion
from experiments.analyses.probe_rows import read_rows
from experiments.data.corpora import open_corpus
from interventions import probes

N = 24  # readable recordings of the corpus


@pytest.fixture(scope="module")
def small():
    return small_recogniser()


@pytest.fixture(autouse=True)
def _the_small_model(small, monkeypatch):
    monkeypatch.setattr(runtime, "load", lambda *_: small)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Makes 24 recordings of 6 speakers. The label `pitch` is audible, `coin` is random.

    Each recording has a low half and a high half, with their times in the manifest. The label
    `pitch` names the first half. Two rows cannot be used: one has no file, one an empty `pitch`.
    """
    where = tmp_path_factory.mktemp("corpus")
    coins, rows = np.random.default_rng(5).permutation(N) % 2, []
    for i in range(N):
        hz = 300 + i if i % 2 else 2000 + 10 * i
        write(
            where / f"{i}.wav",
            np.concatenate([tone(hz, seconds=0.2, seed=i), tone(3300 - hz, seconds=0.2, seed=i)]),
        )
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


def test_an_audible_label_is_found(folder, tmp_path):
    out = tmp_path / "out"
    arguments = [folder, "--label", "pitch", "--group", "speaker", "--out", out, "--folds", 3]
    done = run(*arguments)
    assert "left out gone.wav" in done.stderr
    result, table = (
        json.loads((out / "result.json").read_text()),
        pandas.read_csv(out / "table.csv"),
    )
    assert result["classes"] == {"high": 12, "low": 11}
    assert result["left_out"]["rows"] == {"no pitch": 1}
    assert list(result["left_out"]["recordings"]) == ["gone.wav"]
    assert result["provenance"]["model"]["sha256"]
    assert table.layer.tolist() == [0, 1, 2]
    assert (table.accuracy > 0.9).all()
    assert ((table.low <= table.accuracy) & (table.accuracy <= table.high)).all()
    assert (table.shuffled < 0.8).all()
    assert {"majority", "mel", "embed", "balanced"} <= set(table.columns)
    assert (out / "accuracy.png").read_bytes().startswith(b"\x89PNG")
    bank = probes.Bank.load(out / "bank")
    activations = store.open(out / "activations")
    assert bank.predict(activations.activations("encoder.resid_post")).sizes["row"] == N
    second = run(*arguments, "--json")  # with the store of the first run, which is only read
    assert json.loads(second.stdout)["table"] == result["table"]
    assert "per second" in done.stderr
    assert "per second" not in second.stderr


def question(label: str, **more: object) -> ProbeQuestion:
    return ProbeQuestion(label, **{"pool": "speech", "folds": 3, **more})


def test_rows_of_recordings_have_their_labels(folder, activations):
    stored, corpus = store.open(activations), open_corpus(folder)
    rows = read_rows(stored, corpus, question("pitch", group="speaker", types="coin"))
    ids = [name for name in stored.ids if name != "3.wav"]  # 3.wav has an empty label
    utterances = {utterance.id: utterance for utterance in corpus.utterances}
    assert rows.y.tolist() == [utterances[name].label("pitch") for name in ids]
    assert rows.groups.tolist() == [utterances[name].speaker for name in ids]
    assert rows.types.tolist() == [str(utterances[name].label("coin")) for name in ids]
    indices = [stored.ids.index(name) for name in ids]
    np.testing.assert_array_equal(rows.X, stored.activations("encoder.resid_post")[:, indices])
    np.testing.assert_array_equal(
        rows.baselines["embed"], stored.activations("encoder.embed")[0, indices]
    )
    np.testing.assert_array_equal(rows.baselines["mel"], stored.mel()[indices])


def test_rows_of_frames_have_their_labels(folder, activations, small):
    stored, corpus = store.open(activations), open_corpus(folder)
    rows = read_rows(
        stored, corpus, question("phone", pool="frames", group="speaker", max_rows=200), small
    )
    assert rows.X.shape == (3, 200, 10)
    assert rows.left_out == {"not sampled": N * 20 - 200}
    everything = read_rows(stored, corpus, question("phone", pool="frames"), small)
    first, second = (
        ("low", "high") if int(stored.ids[0].removesuffix(".wav")) % 2 else ("high", "low")
    )
    assert everything.y[:20].tolist() == [first] * 10 + [second] * 10
    X, _ = stored.frames("encoder.resid_post")
    np.testing.assert_array_equal(everything.X, X)
    mel = jaxasr.log_mel(jaxasr.load_audio(folder / stored.ids[0]), 80)[:, 6:8].mean(1)
    np.testing.assert_allclose(everything.baselines["mel"][3], mel, rtol=1e-4, atol=1e-5)


def test_rare_classes_are_left_out_and_named(folder, activations):
    stored, corpus = store.open(activations), open_corpus(folder)
    rows = read_rows(stored, corpus, question("pitch", min_count=12))
    assert set(rows.y) == {"high"}
    assert rows.left_out == {"no pitch": 1, "pitch low": 11}
    with pytest.raises(ValueError, match="no recording has a value in the column 'unknown'"):
        read_rows(stored, corpus, question("unknown"))


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
    assert not (tmp_path / "activations").exists()  # the shared store has all activations


def test_noise_becomes_a_label(folder):
    conditions = {"speaker": ["s0", "s1"], "noise": ["snr:0"]}
    stored, asked = open_corpora(str(folder), conditions, ["snr:0", "snr:10"])
    assert sorted(stored.labels("noise")) == ["clean"] * 9 + ["snr:0"] * 9 + ["snr:10"] * 9
    assert len({utterance.label("recording") for utterance in stored.utterances}) == 9
    assert asked.labels("noise") == ["snr:0"] * 9


@pytest.mark.parametrize(("arguments", "message"), [
    (["--label", "same"], "at least 2 classes, got only 'x'"),
    (["--label", "pitch", "--group", "only"], "2 groups cannot be split into 5 folds"),
    (["--label", "gender"], "'gender'"),
    (["--label", "pitch", "--pool", "last"], "differs in settings"),
    (["--label", "pitch", "--where", "speaker"], "expected COLUMN=VALUE"),
    (["--label", "speaker", "--target", "value"], "expected numbers for --target value"),
])  # fmt: skip
def test_questions_without_an_answer_are_refused(folder, activations, tmp_path, arguments, message):
    done = run(folder, *arguments, "--store", activations, "--out", tmp_path, code=2)
    assert message in " ".join(done.stderr.split())


def test_activations_that_are_nan_are_refused(folder, activations, tmp_path):
    shutil.copytree(activations, tmp_path / "store")
    copy = store.open(tmp_path / "store")
    group = store.integrity.open_existing(copy.path)
    group["encoder.resid_post"][0, 1, N, 2] = np.nan
    store.integrity.finish(group, {})  # checksums of the changed values
    arguments = ["--label", "pitch", "--store", copy.path, "--out", tmp_path]
    assert "NaN or infinity in layer 1" in " ".join(run(folder, *arguments, code=2).stderr.split())


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
    drawn = probing.draw_scores({"tiny.en": table, "base": table}, "gender")
    assert [axes.get_title() for axes in drawn.axes] == ["tiny.en", "base"]
