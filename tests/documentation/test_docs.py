"""Every Python block of the guides runs on the real tiny.en, and every link has a target."""

import re
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
DOCS = sorted((ROOT / "docs").rglob("*.md"))
PAGES = [page for page in DOCS if page.parent == ROOT / "docs" and "```python" in page.read_text()]
ROOT_PAGES = [ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]


def blocks(page: Path) -> str:
    """Replaces all lines of a page except Python by empty ones, so that line numbers stay right."""
    lines, inside = [], False
    for line in page.read_text().splitlines():
        fence = line.startswith("```")
        inside = line == "```python" if fence else inside
        lines.append(line if inside and not fence else "")
    return "\n".join(lines)


@pytest.fixture(scope="module")
def names():
    return {}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_python_runs(page, monkeypatch, names):
    monkeypatch.chdir(ROOT)
    names[page.stem] = {}
    exec(compile(blocks(page), str(page), "exec"), names[page.stem])


@pytest.mark.parametrize("page", [*DOCS, *ROOT_PAGES], ids=lambda page: page.stem)
def test_links_have_a_target(page):
    for link in re.findall(r"\]\(((?!http)[^)#]+)\)", page.read_text()):
        assert (page.parent / link).exists() or link.startswith("reference/"), link


def test_the_edits_have_the_described_effects(names):
    if "edits" not in names:
        pytest.fail("docs/edits.md did not run")
    page = names["edits"]
    plain = page["plain"]
    assert plain.startswith("The captain read the old letter aloud")
    assert page["no_layer"] != plain
    assert "old book" in page["steered"]
    assert page["curve"][0] > page["curve"][4]
    assert page["unedited"] == plain
    assert page["first_layer"] != plain
    assert page["masked"] != plain
    assert page["restricted"] != plain
    np.testing.assert_array_less(0, np.abs(np.diff(page["clipped"])[0]))
    assert page["by_head"].baseline_text.item() == plain
    assert set(page["loaded"]) == {"decoder.resid_post", "decoder.mlp_out"}


def test_the_new_experiment_is_short_and_runs(names):
    page = names["new_experiment"]
    assert page["result"]["findings"]["louder"]["ours"]["n"] == 6
    assert {path.name for path in page["out"].iterdir()} == {
        "arrays.nc",
        "correlations.png",
        "forest.png",
        "index.html",
        "items",
        "result.json",
    }
    study = (ROOT / "docs/new_experiment.md").read_text().split("```python")[1].split("```")[0]
    assert len(study.strip().splitlines()) < 60


def test_the_page_of_audio_language_models_edits_and_saves(names):
    page = names["audio_language_models"]
    assert page["same"]
    assert page["n_audio"].tolist() == [47, 14]
    assert page["memory"].lengths.tolist() == [47, 14]
    assert page["plain"].avg_logprob[0] != page["silent"].avg_logprob[0]
    assert page["transcript"].duration == 1.875
