"""Published results have the numbers of their files and the current texts of their studies."""

import dataclasses
import json
from pathlib import Path

import pytest

from experiments.studies import readme_tables, registry
from experiments.studies.claims import Claim

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "docs" / "results"


def write_result(folder: Path, **changes: object) -> Path:
    """Writes a made-up result of E1 on base: one claim replicates, another is not testable."""
    evidence = {"value": 0.75, "low": 0.625, "high": 0.875, "n": 20, "p": 0.0001}
    texts = {"paper": "old", "test": "old", "null": 0.5, "side": "above"}
    findings = {
        "gender_upper": texts | {"ours": evidence, "verdict": "replicates", "why": ""},
        "gender_rises": texts
        | {"ours": None, "verdict": "not testable here", "why": "no words | no test"},
    }
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
        "figures": ["map"],
        "findings": findings,
        "numbers": {"n": 3, "table": {"decoder.attn.z": {"top_k": 0.5}}},
        "seconds": {"this_run": 9.0, "items_when_made": 8.0, "cpu": 7.0},
        "settings": {"n": {"value": 3}},
        "provenance": provenance,
    }
    file = folder / "E1" / "result.json"
    file.parent.mkdir(parents=True)
    (file.parent / "map.png").write_bytes(b"png")
    file.write_text(json.dumps(result | changes))
    return file


def test_a_published_result_is_in_both_tables(tmp_path):
    readme_tables.publish(write_result(tmp_path / "out"), tmp_path / "docs")
    results = readme_tables.load_results(tmp_path / "docs")
    claims = registry.study("E1").claims
    statement = claims["gender_upper"].statement
    assert readme_tables.claims_table(results).splitlines()[2:] == [
        f"| E1 | {statement} (94.6 % at layer 25 of 32) |  | yes: 0.75 [0.62, 0.88] |",
        f"| E1 | {claims['gender_rises'].statement} |  | — |",
    ]
    page = readme_tables.results_page(results)
    assert "yes: 0.75 [0.62, 0.88], n 20, p < 0.001" in page
    assert r"— no words \| no test" in page
    assert "![E1, base: map](e1_base/map.png)" in page
    assert "| base | top k |\n|---|---|\n| decoder.attn.z | 0.5 |" in page
    assert "`jaxasr reproduce E1`, seed 0, commit 01234567, 7 s of a CPU core; n 3" in page
    assert (tmp_path / "docs" / "e1_base" / "map.png").read_bytes() == b"png"


def test_texts_come_from_the_study_and_numbers_from_the_result(tmp_path, monkeypatch):
    readme_tables.publish(write_result(tmp_path / "out"), tmp_path / "docs")
    study, claim = registry.study("E1"), Claim("a | b", "new numbers", "new test", null=0.1)
    claims = {**study.claims, "gender_upper": claim}
    new_study = dataclasses.replace(study, title="new title", claims=claims)
    monkeypatch.setattr(registry, "study", lambda name: new_study)
    page = readme_tables.results_page(readme_tables.load_results(tmp_path / "docs"))
    assert r"| a \| b | new numbers | new test | above 0.5 |  | yes: 0.75" in page
    assert "**new title.**" in page
    assert not any(text in page for text in ("old title", "old text", "| old |"))


def test_a_claim_that_its_study_no_longer_has_is_an_error(tmp_path):
    finding = {"ours": None, "verdict": "replicates", "why": ""}
    file = write_result(tmp_path / "out", findings={"gone": finding})
    readme_tables.publish(file, tmp_path / "docs")
    with pytest.raises(ValueError, match=r"result\.json: E1 no longer has the claim gone"):
        readme_tables.load_results(tmp_path / "docs")


@pytest.mark.parametrize("changes", [{"quick": True}, {"provenance": {"commit": "0123+"}}])
def test_a_run_that_cannot_be_repeated_is_not_published(tmp_path, changes):
    with pytest.raises(ValueError, match="full run of committed code"):
        readme_tables.publish(write_result(tmp_path / "out", **changes), tmp_path / "docs")


def test_the_table_is_replaced_between_its_marks():
    begin, end = readme_tables.BEGIN, readme_tables.END
    page = f"above\n{begin}\nold\n{end}\nbelow\n"
    once = readme_tables.replace_table(page, "new\n")
    assert once == f"above\n{begin}\n\nnew\n\n{end}\nbelow\n"
    assert readme_tables.replace_table(once, "new\n") == once
    with pytest.raises(ValueError, match="expected the lines"):
        readme_tables.replace_table("nothing", "new")


def test_the_pages_show_the_committed_results():
    results = readme_tables.load_results(RESULTS)
    verdicts = (RESULTS / "verdicts.md").read_text(encoding="utf-8")
    table = readme_tables.claims_table(results)
    assert readme_tables.replace_table(verdicts, table) == verdicts
    page = (RESULTS / "README.md").read_text(encoding="utf-8")
    assert readme_tables.results_page(results) == page


def test_published_figures_are_small():
    sizes = [file.stat().st_size for file in RESULTS.glob("*_*/*.png")]
    assert max(sizes, default=0) < 250_000
