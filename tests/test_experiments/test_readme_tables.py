"""Results are published as they are; README and docs/results/README.md say what the results say."""

import json
from pathlib import Path

import pytest

from experiments.studies import readme_tables

ROOT = Path(__file__).parents[2]


def result(folder: Path, **changes: object) -> Path:
    """A made-up result of E1 on base, with a claim that holds and one that cannot be tested."""
    claim = {
        "says": "a | b",
        "paper": "94.6 % at layer 25",
        "test": "a mean",
        "null": 0.5,
        "side": "above",
        "need": 10,
    }
    ours = {"value": 0.75, "low": 0.625, "high": 0.875, "n": 20, "p": 0.0001}
    findings = {
        "holds": {**claim, "ours": ours, "verdict": "replicates", "why": ""},
        "open": {
            **claim,
            "says": "c",
            "paper": "not asked",
            "ours": None,
            "verdict": "not testable here",
            "why": "no words",
        },
    }
    known = {
        "model": {"name": "base"},
        "commit": "0123456789",
        "command": "jaxasr reproduce E1",
        "seed": 0,
    }
    made = {
        "id": "E1",
        "title": "T",
        "about": "A",
        "quick": False,
        "figures": ["map"],
        "findings": findings,
        "provenance": known,
    }
    made["numbers"] = {"n": 3, "table": {"decoder.attn.z": {"top_k": 0.5}}}
    made |= {
        "seconds": {"this_run": 9.0, "items_when_made": 8.0, "cpu": 7.0},
        "settings": {"n": {"value": 3}},
    } | changes
    (folder / "E1").mkdir(parents=True)
    (folder / "E1" / "map.png").write_bytes(b"png")
    (folder / "E1" / "result.json").write_text(json.dumps(made))
    return folder / "E1" / "result.json"


def test_what_is_taken_is_in_both_tables(tmp_path):
    readme_tables.take(result(tmp_path / "out"), tmp_path / "docs")
    found = readme_tables.published(tmp_path / "docs")
    assert readme_tables.short(found).splitlines()[2:] == [
        r"| E1 | a \| b (94.6 % at layer 25) |  | yes: 0.75 [0.62, 0.88] |",
        "| E1 | c |  | — |",
    ]
    page = readme_tables.page(found)
    assert "yes: 0.75 [0.62, 0.88], n 20, p < 0.001" in page
    assert "— no words" in page
    assert "![E1, base: map](e1_base/map.png)" in page
    assert "| base | top k |\n|---|---|\n| decoder.attn.z | 0.5 |" in page
    assert "`jaxasr reproduce E1`, seed 0, commit 01234567, 7 s of a CPU core; n 3" in page
    assert (tmp_path / "docs" / "e1_base" / "map.png").read_bytes() == b"png"


@pytest.mark.parametrize("changes", [{"quick": True}, {"provenance": {"commit": "0123+"}}])
def test_what_cannot_be_made_again_is_refused(tmp_path, changes):
    with pytest.raises(ValueError, match="full run of committed code"):
        readme_tables.take(result(tmp_path / "out", **changes), tmp_path / "docs")


def test_the_table_stands_between_its_marks():
    page = f"above\n{readme_tables.BEGIN}\nold\n{readme_tables.END}\nbelow\n"
    assert (
        readme_tables.replaced(page, "new\n")
        == f"above\n{readme_tables.BEGIN}\n\nnew\n\n{readme_tables.END}\nbelow\n"
    )
    assert readme_tables.replaced(
        readme_tables.replaced(page, "new\n"), "new\n"
    ) == readme_tables.replaced(page, "new\n")
    with pytest.raises(ValueError, match="expected the lines"):
        readme_tables.replaced("nothing", "new")


def test_the_pages_say_what_the_results_say():
    found = readme_tables.published(ROOT / "docs" / "results")
    verdicts = (ROOT / "docs" / "results" / "verdicts.md").read_text(encoding="utf-8")
    assert readme_tables.replaced(verdicts, readme_tables.short(found)) == verdicts
    assert readme_tables.page(found) == (ROOT / "docs" / "results" / "README.md").read_text(
        encoding="utf-8"
    )


def test_published_figures_are_small():
    assert (
        max(
            (file.stat().st_size for file in (ROOT / "docs" / "results").glob("*_*/*.png")),
            default=0,
        )
        < 250_000
    )
