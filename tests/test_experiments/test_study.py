"""Studies report sources of settings, judge claims by intervals, resume, and escape pages."""

import dataclasses
import json
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from html_outline import Outline
from matplotlib.figure import Figure
from typer.testing import CliRunner

import jaxasr
from experiments import cli
from experiments.item_cache import ItemCache, short_hash
from experiments.studies import registry, reproduce as studies, study_page
from experiments.studies.claims import SUPPORTED, VERDICTS, Claim
from experiments.studies.finding_rows import SIGNS
from experiments.studies.study import Analysis, Settings, Study, choice, layers_in_band, paper

HOSTILE_TEXT = "<script>alert(1)</script> & <b>"  # a page must escape it
CLAIM = Claim(f"Numbers are large {HOSTILE_TEXT}", "a lot", "mean number", least=0.1, min_units=3)


@dataclasses.dataclass(frozen=True)
class Config(Settings):
    n: int = paper(400, "section 4")
    noise: float = choice(0.1, "any small number")


class Interrupted(Exception):
    pass


def fake_study(stop_at: int | None = None, computed: list[int] | None = None) -> Study:
    """Makes a study of random numbers. Its run raises `Interrupted` at item `stop_at`, and appends
    each item that it computes to `computed`.
    """

    def compute(item: int) -> dict[str, Any]:
        if item == stop_at:
            raise Interrupted
        if computed is not None:
            computed.append(item)
        x = np.random.default_rng(item).normal(3, 1, 2)
        return {"x": x, "text": f"{HOSTILE_TEXT} {item}"}

    def run(asr, corpus, config, cache):
        items = cache.each("items", range(config.n), compute)
        x = [item["x"].mean() for item in items]
        texts = [str(item["text"]) for item in items]
        return xr.Dataset({"x": ("example", x), "text": ("example", texts)})

    def draw(arrays, config):
        figure = Figure()
        figure.subplots().plot(arrays.x.values)
        return {"numbers": figure}

    def analyse(arrays, config):
        finding = CLAIM.judge_mean(arrays.x.values, config.seed)
        return Analysis({"large": finding}, {"first": arrays.text.values[0]})

    return Study(
        title=f"Fake {HOSTILE_TEXT}",
        section="section 0",
        about="Nothing",
        data="none",
        settings=Config,
        run=run,
        analyse=analyse,
        draw=draw,
        presets={"here": {"n": 8}, "quick": {"n": 6}},
        claims={"large": CLAIM},
    )


@pytest.fixture(autouse=True)
def _no_model(monkeypatch):
    monkeypatch.setattr(studies, "describe_weights", lambda asr: {"name": "made up", "sha256": "0"})


def run_study(out: Path, fake: Study, **options: Any) -> dict[str, Any]:
    whisper = types.SimpleNamespace(config=jaxasr.SIZES["tiny.en"])
    return studies.reproduce("X1", fake, whisper, studies.builtin(), out, **options)


def test_settings_have_sources():
    settings = fake_study().configured("here", seed=5)
    sourced = settings.with_sources()
    assert sourced["n"] == {
        "value": 8,
        "paper": 400,
        "source": "our choice",
        "why": "available recordings and time; paper: section 4",
    }
    assert sourced["noise"] == {"value": 0.1, "source": "our choice", "why": "any small number"}
    of_paper = fake_study().configured("paper").with_sources()
    assert of_paper["n"] == {"value": 400, "source": "paper", "why": "section 4"}
    changed = dataclasses.replace(settings, noise=0.2).with_defaults()
    assert changed["noise"] == {**sourced["noise"], "value": 0.2, "full": 0.1}
    assert settings.with_defaults() == sourced


def test_quick_applies_on_top_of_a_preset():
    assert fake_study().configured("here", quick=True).n == 6
    with pytest.raises(ValueError, match="preset: expected one of here, paper, got 'mine'"):
        fake_study().configured("mine")


def test_a_study_without_settings_for_all_recordings_uses_those_of_a_small_model():
    assert fake_study().configured("all").n == 8
    presets = {"all": {"n": 99}, "here": {"n": 8}}
    assert dataclasses.replace(fake_study(), presets=presets).configured("all").n == 99


def test_bands_of_relative_depth():
    assert layers_in_band(np.arange(33) / 32, 27 / 32, 30 / 32).tolist() == [27, 28, 29, 30]
    # A small model has no layer in this band. The nearest one is chosen, but never the top layer.
    assert layers_in_band(np.arange(5) / 4, 27 / 32, 30 / 32).tolist() == [3]
    assert layers_in_band(np.array([0.25, 0.5, 0.75, 1]), 0.9, 1).tolist() == [3]


def test_an_interrupted_run_resumes(tmp_path):
    first, second, third = [], [], []
    with pytest.raises(Interrupted):
        run_study(tmp_path, fake_study(3, first))
    assert not (tmp_path / "result.json").exists()
    resumed = run_study(tmp_path, fake_study(None, second))
    assert (first, second) == ([0, 1, 2], [3, 4, 5, 6, 7])
    repeated = run_study(tmp_path, fake_study(None, third))
    uninterrupted = run_study(tmp_path / "whole", fake_study())
    assert third == []
    assert resumed["findings"] == repeated["findings"] == uninterrupted["findings"]
    folders = (tmp_path, tmp_path / "whole")
    figures = [(folder / "numbers.png").read_bytes() for folder in folders]
    assert figures[0] == figures[1]
    arrays = [xr.load_dataset(folder / "arrays.nc").drop_attrs() for folder in folders]
    xr.testing.assert_identical(*arrays)


def test_other_settings_do_not_reuse_items(tmp_path):
    computed: list[int] = []
    run_study(tmp_path, fake_study(None, computed))
    run_study(tmp_path, fake_study(None, computed), seed=1)
    run_study(tmp_path, dataclasses.replace(fake_study(None, computed), version=2))
    assert len(computed) == 24


def test_a_run_with_more_recordings_computes_only_those(tmp_path):
    computed: list[int] = []
    study = dataclasses.replace(fake_study(None, computed), counts=("n",))
    run_study(tmp_path, study)
    more = dataclasses.replace(study, presets={**study.presets, "here": {"n": 10}})
    run_study(tmp_path, more)
    assert computed == list(range(10))


def test_a_reworded_reason_keeps_the_stored_items(tmp_path):
    @dataclasses.dataclass(frozen=True)
    class Reworded(Config):
        noise: float = choice(0.1, "another reason")

    computed: list[int] = []
    run_study(tmp_path, fake_study(None, computed))
    run_study(tmp_path, dataclasses.replace(fake_study(None, computed), settings=Reworded))
    assert len(computed) == 8


def test_the_item_cache_distinguishes_keys_and_refuses_objects(tmp_path):
    cache, keys = ItemCache(tmp_path), ("a/b", "a b", "ü" * 300)
    items = [cache(key, lambda key=key: {"k": key, "n": [1, 2]}) for key in keys]
    assert tuple(str(item["k"]) for item in items) == keys
    assert set(items[0]) == {"k", "n"}
    with pytest.raises(TypeError, match="x: expected numbers or texts"):
        cache("object", lambda: {"x": [object()]})
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]
    assert short_hash({"a": 1}) == short_hash({"a": 1}) != short_hash({"a": 2})


def test_a_run_writes_its_result_and_an_escaped_page(tmp_path):
    result = run_study(tmp_path, fake_study(), quick=True)
    assert result == json.loads((tmp_path / "result.json").read_text())
    assert result["findings"]["large"]["verdict"] == SUPPORTED
    assert result["findings"]["large"]["paper"] == "a lot"
    assert result["differs"][0] == "model made up; paper: large-v3"
    assert "n 6; paper: 400" in result["differs"]
    keys = {"model", "data", "seed", "command", "versions", "commit"}
    assert keys <= result["provenance"].keys()
    page = Outline((tmp_path / "index.html").read_text())
    assert not page.of("script")
    assert not page.of("b", **{"class": ""})
    assert [text for _, text in page.of("h1")] == [f"Fake {HOSTILE_TEXT}"]
    names, values = ([text for _, text in page.of(tag)] for tag in ("dt", "dd"))
    assert HOSTILE_TEXT in dict(zip(names, values))["first"]
    badges = [text for a, text in page.of("span") if "badge" in a.get("class", "")]
    assert badges == [*(f"{SIGNS[verdict]} {verdict}" for verdict in VERDICTS), "● supported"]
    assert next(a["alt"] for a, _ in page.of("img")).startswith("The estimate of each claim")
    assert all(a["src"].startswith("data:image/png") for a, _ in page.of("img"))
    statements = [text for _, text in page.of("h3")]
    assert CLAIM.statement in statements


def test_a_failed_study_is_reported_and_the_others_run(tmp_path, monkeypatch):
    broken = dataclasses.replace(fake_study(), run=lambda *_: 1 / 0)
    monkeypatch.setattr(registry, "study", {"E1": broken, "E2": fake_study()}.get)
    failures: list[tuple[str, BaseException]] = []

    def run_one(name: str, fake: Study, folder: Path) -> dict[str, Any]:
        return run_study(folder, fake)

    def report(name: str, problem: BaseException) -> None:
        failures.append((name, problem))

    results = studies.reproduce_all(["E1", "E2"], tmp_path, run_one, report)
    assert results["E1"] is None
    assert results["E2"] is not None
    assert results["E2"]["findings"]["large"]["verdict"] == SUPPORTED
    assert [(name, type(problem)) for name, problem in failures] == [("E1", ZeroDivisionError)]
    html = (tmp_path / "index.html").read_text()
    index = Outline(html)
    badges = [a["class"] for a, _ in index.of("span") if "badge" in a.get("class", "")]
    legend = [f"badge b-{verdict}" for verdict in VERDICTS]
    assert badges == [*legend, "badge b-error", "badge b-supported"]
    assert "1 claim supported, 0 weaker" in html
    assert "ZeroDivisionError" in html
    assert [a["href"] for a, _ in index.of("a")] == ["E2/index.html"]
    monkeypatch.setattr(registry, "study", lambda name: fake_study())
    studies.reproduce_all(["E1"], tmp_path, run_one, report)
    assert "failed" not in study_page.index(tmp_path)


def test_the_built_in_recordings_are_complete():
    clips = studies.builtin().utterances
    assert all(clip.path.is_file() and clip.transcript for clip in clips)
    assert {clip.label("set") for clip in clips} >= {"sentences", "words", "pairs"}
    pairs = [clip for clip in clips if clip.label("set") == "pairs"]
    assert all(clip.label("target") in clip.transcript for clip in pairs)


def test_the_recordings_of_a_run_are_printed(monkeypatch, tmp_path):
    from experiments import runtime
    from experiments.data import real_speech

    monkeypatch.setattr(real_speech, "folders", lambda: ())
    monkeypatch.setattr(runtime, "start", lambda *arguments: None)
    monkeypatch.setattr(runtime, "load", lambda model, dtype: None)
    monkeypatch.setattr("experiments.studies.reproduce.reproduce_all", lambda *arguments: {})
    result = CliRunner().invoke(cli.app, ["reproduce", "E7", "--out", str(tmp_path)])
    assert result.exit_code == 0, result.output
    assert "recordings: built-in (" in result.stderr
