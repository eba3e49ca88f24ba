"""Published results have the numbers of their files and the current texts of their studies."""

import dataclasses
import json
from pathlib import Path

import pytest

from experiments.studies import findings_text, publish, registry, result_tables
from experiments.studies.evidence import Evidence
from experiments.studies.finding_rows import finding_row
from experiments.studies.result_tables import Published

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "docs" / "results"
E1 = registry.study("E1")


def write_result(folder: Path, **changes: object) -> Path:
    """Writes a made-up result of E1 on base with the current claims."""
    findings = {key: finding_row(claim.judge(None)) for key, claim in E1.claims.items()}
    evidence = Evidence(0.75, 0.625, 0.875, n=18, p=0.0001, error=0.05, floor=0.7, q=0.0002)
    findings["gender_upper"] = finding_row(E1.claims["gender_upper"].judge(evidence))
    findings["gender_rises"] = finding_row(E1.claims["gender_rises"].judge(None, "no | test"))
    provenance = {
        "model": {"name": "base"},
        "commit": "0123456789",
        "command": "jaxasr reproduce E1",
        "seed": 0,
    }
    result = {
        "id": "E1",
        "title": "old title",
        "about": "old text",
        "quick": False,
        "version": E1.version,
        "figures": ["forest", "map"],
        "findings": findings,
        "numbers": {"n": 3, "table": {"decoder.attn.z": {"top_k": 0.5}}},
        "seconds": {"this_run": 9.0, "items_when_made": 8.0, "cpu": 7.0},
        "settings": {"n": {"value": 3}},
        "provenance": provenance,
    }
    file = folder / "E1" / "result.json"
    file.parent.mkdir(parents=True)
    for name in ("forest", "map"):
        (file.parent / f"{name}.png").write_bytes(b"png")
    file.write_text(json.dumps(result | changes))
    return file


def published(tmp_path: Path) -> Published:
    publish.publish(write_result(tmp_path / "out"), tmp_path / "docs")
    return publish.load_results(tmp_path / "docs")


def test_a_published_result_is_in_both_tables(tmp_path):
    results = published(tmp_path)
    table = result_tables.verdicts(results)
    statement = E1.claims["gender_upper"].statement
    row = next(line for line in table.splitlines() if statement in line)
    assert row.endswith(
        "|  | 75 % [62, 88], 18 speakers, adjusted p < 0.001; fewer than 20 speakers; "
        f"° {E1.claims['gender_upper'].floor}: 70 % | base: ◐ weaker ° |"
    )
    assert r"| — no \| test | base: × untestable |" in table
    n_untestable = len(E1.claims) - 1
    assert (
        f"base: 0 claims supported, 1 weaker, 0 contradicted, 0 undecided, {n_untestable}" in table
    )
    page = result_tables.results_page(results)
    assert "![E1, base: map](e1_base/map.png)" in page
    assert "![E1: forest plot of all claims](forest/e1.png)" in page
    assert "| base | top k |\n|---|---|\n| decoder.attn.z | 0.5 |" in page
    assert "`jaxasr reproduce E1`, seed 0, commit 01234567, 7 s of a CPU core; n 3" in page
    assert (tmp_path / "docs" / "e1_base" / "map.png").read_bytes() == b"png"
    assert not (tmp_path / "docs" / "e1_base" / "forest.png").exists()


def test_missing_runs_are_named(tmp_path):
    text = result_tables.verdicts(published(tmp_path))
    line = next(line for line in text.splitlines() if "there is no run" in line)
    assert "E1 tiny.en" in line
    assert "E1 base" not in line


def test_texts_come_from_the_study_and_numbers_from_the_result(tmp_path, monkeypatch):
    publish.publish(write_result(tmp_path / "out"), tmp_path / "docs")
    new = dataclasses.replace(E1.claims["gender_upper"], statement="a | b", test="new test")
    study = dataclasses.replace(E1, title="new title", claims={**E1.claims, "gender_upper": new})
    registered = registry.study
    monkeypatch.setattr(registry, "study", lambda name: study if name == "E1" else registered(name))
    page = result_tables.results_page(publish.load_results(tmp_path / "docs"))
    assert r"| a \| b |" in page
    assert "new test" in page
    assert "**new title.**" in page
    assert not any(text in page for text in ("old title", "old text"))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"version": 0}, "version 0 of its run has been replaced"),
        (
            {"findings": {"gone": {"least": 0.0, "verdict": "weaker"}}},
            "are new or have been removed",
        ),
        ({"findings": {"gender_upper": {"verdict": "replicates"}}}, "an earlier version"),
    ],
)
def test_results_of_other_claims_have_no_verdict(tmp_path, change, reason):
    file = write_result(tmp_path / "out", **change)
    with pytest.raises(
        ValueError, match=f"expected a result of the current claims, but .*{reason}"
    ):
        publish.publish(file, tmp_path / "docs")
    folder = tmp_path / "docs" / "e1_base"
    folder.mkdir(parents=True)
    (folder / "result.json").write_text(file.read_text())
    results = publish.load_results(tmp_path / "docs")
    assert "E1" not in results.results
    assert reason in results.missing["E1 base"]


def test_the_forest_plot_of_an_outdated_result_is_removed(tmp_path):
    results, folder = published(tmp_path), tmp_path / "forest"
    publish.draw_forests(results, folder)
    (folder / "e2.png").write_bytes(b"old")
    publish.draw_forests(results, folder)
    assert [plot.name for plot in folder.iterdir()] == ["e1.png"]
    publish.draw_forests(Published({}, {"E1 base": "outdated"}), folder)
    assert not list(folder.iterdir())


@pytest.mark.parametrize(("field", "value"), [("null", 0.6), ("least", 0.9), ("unit", "")])
def test_a_changed_claim_needs_a_new_run(tmp_path, field, value):
    result = json.loads(write_result(tmp_path / "out").read_text())
    result["findings"]["gender_upper"][field] = value
    assert publish.outdated(E1, result) == f"the claim gender_upper has another {field}"


@pytest.mark.parametrize("changes", [{"quick": True}, {"provenance": {"commit": "0123+"}}])
def test_a_run_that_cannot_be_repeated_is_not_published(tmp_path, changes):
    with pytest.raises(ValueError, match="full run of committed code"):
        publish.publish(write_result(tmp_path / "out", **changes), tmp_path / "docs")


def test_the_table_is_replaced_between_its_marks():
    begin, end = result_tables.BEGIN, result_tables.END
    page = f"above\n{begin}\nold\n{end}\nbelow\n"
    once = result_tables.replace_table(page, "new\n")
    assert once == f"above\n{begin}\n\nnew\n\n{end}\nbelow\n"
    assert result_tables.replace_table(once, "new\n") == once
    with pytest.raises(ValueError, match="expected the lines"):
        result_tables.replace_table("nothing", "new")


def test_placeholders_are_filled_from_results(tmp_path):
    results = published(tmp_path)
    assert findings_text.fill("so {E1.base.gender_upper}.", results).startswith(
        "so **◐ weaker °** (75 % [62, 88], 18 speakers; fewer than 20 speakers; "
    )
    assert findings_text.fill("{E1.base.numbers.table.decoder}", Published({}, {})) == "not yet run"
    assert findings_text.fill("{E1.base.numbers.n}", results) == "3"
    assert "`jaxasr reproduce E1`" in findings_text.fill("{E1.base}", results)
    assert findings_text.fill("{E1.tiny.en.gender_upper}", results) == "not yet run"


@pytest.mark.parametrize(
    "placeholder", ["E1.base.gender", "E99.base.top", "E1.large.top", "E1.base.numbers.m"]
)
def test_unknown_placeholders_are_refused(tmp_path, placeholder):
    with pytest.raises(ValueError, match=r"findings\.template\.md"):
        findings_text.fill(f"{{{placeholder}}}", published(tmp_path))


def test_the_pages_show_the_committed_results():
    for name, text in publish.pages(publish.load_results(RESULTS), RESULTS).items():
        assert (RESULTS / name).read_text(encoding="utf-8") == text, name


def test_published_figures_are_small():
    sizes = [file.stat().st_size for file in RESULTS.glob("*/*.png")]
    assert max(sizes, default=0) < 250_000
