"""The frame of a study: sources of settings, verdicts from intervals, items that survive an interruption, pages that stay text."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from html_outline import Outline
from matplotlib.figure import Figure
from typer.testing import CliRunner

from experiments import cli
from experiments.item_cache import Keep, fingerprint
from experiments.studies import registry, reproduce as studies, study, study_page
from experiments.studies.study import (
    DOES_NOT,
    REPLICATES,
    UNTESTABLE,
    Analysis,
    Claim,
    Evidence,
    Settings,
    Study,
    band,
    choice,
    paper,
)

NASTY = "<script>alert(1)</script> & <b>"
CLAIM = Claim(f"Numbers are large {NASTY}", "a lot", "mean number", need=3)


@dataclasses.dataclass(frozen=True)
class Config(Settings):
    n: int = paper(400, "section 4")
    noise: float = choice(0.1, "any small number")


class Interrupted(Exception):
    pass


def fake(stop_at: int | None = None, calls: list | None = None) -> Study:
    """A study of made-up numbers that may break off at one item."""

    def make(item: int) -> dict:
        if item == stop_at:
            raise Interrupted
        (calls if calls is not None else []).append(item)
        return {"x": np.random.default_rng(item).normal(3, 1, 2), "said": f"{NASTY} {item}"}

    def run(asr, corpus, config, keep):
        items = keep.each("items", range(config.n), make)
        return xr.Dataset(
            {
                "x": ("example", [one["x"].mean() for one in items]),
                "said": ("example", [str(one["said"]) for one in items]),
            }
        )

    def draw(arrays, config):
        figure = Figure()
        figure.subplots().plot(arrays.x.values)
        return {"numbers": figure}

    def analyse(arrays, config):
        return Analysis(
            {"large": CLAIM.over(arrays.x.values, config.seed)}, {"first": arrays.said.values[0]}
        )

    return Study(
        f"Fake {NASTY}",
        "section 0",
        "Nothing",
        "none",
        Config,
        run,
        analyse,
        draw,
        {"here": {"n": 8}, "quick": {"n": 6}},
    )


@pytest.fixture(autouse=True)
def _no_model(monkeypatch):
    monkeypatch.setattr(studies, "weights", lambda asr: {"name": "made up", "sha256": "0"})


def go(out: Path, one: Study, **options) -> dict:
    return studies.reproduce("X1", one, None, studies.builtin(), out, **options)


def test_settings_say_where_they_come_from():
    settings = fake().configured("here", seed=5)
    known = settings.sourced()
    assert known["n"] == {
        "value": 8,
        "paper": 400,
        "source": "our choice",
        "why": "what is at hand; paper: section 4",
    }
    assert known["noise"] == {"value": 0.1, "source": "our choice", "why": "any small number"}
    assert fake().configured("paper").sourced()["n"] == {
        "value": 400,
        "source": "paper",
        "why": "section 4",
    }
    assert dataclasses.replace(settings, noise=0.2).explained()["noise"] == {
        **known["noise"],
        "value": 0.2,
        "full": 0.1,
    }
    assert settings.explained() == known
    assert fake().configured("here", quick=True).n == 6
    with pytest.raises(ValueError, match="preset: expected one of here, paper, got 'mine'"):
        fake().configured("mine")


@pytest.mark.parametrize(
    ("evidence", "verdict"),
    [
        (Evidence(0.5, 0.1, 0.9, 20), REPLICATES),
        (Evidence(0.5, -0.1, 0.9, 20), DOES_NOT),
        (Evidence(0.5, 0.1, 0.9, 20, p=0.051), DOES_NOT),
        (Evidence(-0.5, -0.9, -0.1, 20), DOES_NOT),
        (Evidence(0.5, 0.1, 0.9, 9), UNTESTABLE),
        (Evidence(np.nan, np.nan, np.nan, 20), UNTESTABLE),
        (None, UNTESTABLE),
    ],
)
def test_a_verdict_follows_from_the_interval(evidence, verdict):
    claim = Claim("a", "b", "c")
    assert claim.judge(evidence).verdict == verdict
    if evidence and verdict == REPLICATES:
        assert dataclasses.replace(claim, side="below").judge(evidence).verdict == DOES_NOT
        assert dataclasses.replace(claim, null=0.2).judge(evidence).verdict == DOES_NOT


def test_examples_without_a_value_are_left_out():
    found = CLAIM.over([1.0, np.nan, 2.0, 3.0, 2.5, 1.5, 2.0])
    assert found.evidence.n == 6
    assert found.evidence.value == 2
    assert found.evidence.p == 2 / 2**6  # all signs up or all down
    assert CLAIM.over([np.nan]).verdict == UNTESTABLE


def test_bands_of_relative_depth():
    assert band(np.arange(33) / 32, 27 / 32, 30 / 32).tolist() == [27, 28, 29, 30]
    assert band(np.arange(5) / 4, 27 / 32, 30 / 32).tolist() == [
        3
    ]  # the nearest, and never the top
    assert band(np.array([0.25, 0.5, 0.75, 1]), 0.9, 1).tolist() == [3]


def test_an_interruption_loses_nothing(tmp_path):
    first, second, third = [], [], []
    with pytest.raises(Interrupted):
        go(tmp_path, fake(3, first))
    assert not (tmp_path / "result.json").exists()
    resumed = go(tmp_path, fake(None, second))
    assert (first, second) == ([0, 1, 2], [3, 4, 5, 6, 7])
    again = go(tmp_path, fake(None, third))
    whole = go(tmp_path / "whole", fake())
    assert third == []
    assert resumed["findings"] == again["findings"] == whole["findings"]
    assert (tmp_path / "numbers.png").read_bytes() == (
        tmp_path / "whole" / "numbers.png"
    ).read_bytes()
    xr.testing.assert_identical(
        *(
            xr.load_dataset(path / "arrays.nc").drop_attrs()
            for path in (tmp_path, tmp_path / "whole")
        )
    )


def test_other_settings_do_not_use_what_was_kept(tmp_path):
    calls: list = []
    go(tmp_path, fake(None, calls))
    go(tmp_path, fake(None, calls), seed=1)
    go(tmp_path, dataclasses.replace(fake(None, calls), version=2))
    assert len(calls) == 24


def test_keep_tells_keys_apart_and_refuses_objects(tmp_path):
    keep = Keep(tmp_path)
    made = [keep(key, lambda key=key: {"k": key, "n": [1, 2]}) for key in ("a/b", "a b", "ü" * 300)]
    assert [str(one["k"]) for one in made] == ["a/b", "a b", "ü" * 300]
    assert set(made[0]) == {"k", "n"}
    with pytest.raises(TypeError, match="x: expected numbers or texts"):
        keep("object", lambda: {"x": [object()]})
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]
    assert fingerprint({"a": 1}) == fingerprint({"a": 1}) != fingerprint({"a": 2})


def test_result_and_page(tmp_path):
    result = go(tmp_path, fake(), quick=True)
    assert result == json.loads((tmp_path / "result.json").read_text())
    assert result["findings"]["large"]["verdict"] == REPLICATES
    assert result["findings"]["large"]["paper"] == "a lot"
    assert result["differs"][0] == "model made up; paper: large-v3"
    assert "n 6; paper: 400" in result["differs"]
    assert {"model", "data", "seed", "command", "versions", "commit"} <= result["provenance"].keys()
    page = Outline((tmp_path / "index.html").read_text())
    assert not page.of("script")
    assert not page.of("b", **{"class": ""})
    assert [text for _, text in page.of("h1")] == [f"Fake {NASTY}"]
    assert (
        NASTY
        in dict(zip([text for _, text in page.of("dt")], [text for _, text in page.of("dd")]))[
            "first"
        ]
    )
    assert [text for a, text in page.of("span") if "badge" in a.get("class", "")] == [REPLICATES]
    assert all(a["src"].startswith("data:image/png") for a, _ in page.of("img"))


def test_one_that_fails_is_reported_and_the_rest_go_on(tmp_path, monkeypatch):
    broken = dataclasses.replace(fake(), run=lambda *_: 1 / 0)
    monkeypatch.setattr(registry, "study", {"E1": broken, "E2": fake()}.get)
    said = []
    one = lambda name, study, folder: go(folder, study)  # noqa: E731
    done = studies.reproduce_all(
        ["E1", "E2"], tmp_path, one, lambda name, problem: said.append((name, problem))
    )
    assert done["E1"] is None
    assert done["E2"]["findings"]["large"]["verdict"] == REPLICATES
    assert [(name, type(problem)) for name, problem in said] == [("E1", ZeroDivisionError)]
    index = Outline((tmp_path / "index.html").read_text())
    assert [a["class"] for a, _ in index.of("span") if "badge" in a.get("class", "")] == [
        "badge b-no",
        "badge b-yes",
    ]
    assert "ZeroDivisionError" in (tmp_path / "index.html").read_text()
    assert [a["href"] for a, _ in index.of("a")] == ["E2/index.html"]
    monkeypatch.setattr(registry, "study", lambda name: fake())
    studies.reproduce_all(["E1"], tmp_path, one, lambda *_: None)
    assert "failed" not in study_page.index(tmp_path)


def test_the_registry_is_the_folder():
    known = registry.names()
    assert [name for name in known if name[0] == "E"] == sorted(
        name for name in known if name[0] == "E"
    )
    assert {"E7", "E8"} <= known.keys()
    assert registry.chosen(["e8", "E7"]) == ["E7", "E8"]
    assert registry.chosen(["all"]) == list(known)
    for name in known:
        one = registry.study(name)
        assert isinstance(one, study.Study)
        assert {"here", "builtin", "quick"} <= one.presets.keys()
        assert one.configured("builtin", quick=True).sourced()
    done = CliRunner().invoke(cli.app, ["reproduce", "E99", "--out", "unwritten"])
    assert done.exit_code == 2
    assert "E99" in done.stderr


def test_the_built_in_recordings_are_all_there():
    found = studies.builtin()
    assert all(one.path.is_file() and one.transcript for one in found.utterances)
    assert {one.label("set") for one in found.utterances} >= {"sentences", "words", "pairs"}
    assert all(
        one.label("target") in one.transcript
        for one in found.utterances
        if one.label("set") == "pairs"
    )
