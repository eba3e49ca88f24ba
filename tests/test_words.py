"""Words that CONTRIBUTING.md excludes occur in no name, string, comment or page."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
WORDS = (
    r"heard|hears?|hearing|listen(?:s|ed|ing)?|said|told|tells|apart|astray|beside|nobody|somebody"
    r"|whoever|go(?:es)? on|look(?:s|ed)? at"
)
PATTERN = re.compile(rf"(?<![A-Za-z])(?:{WORDS})(?![A-Za-z])", re.IGNORECASE)
SUFFIXES = {".py", ".md", ".html", ".ipynb", ".toml", ".yml"}
# Phrases in which the words are allowed: transcripts of recordings and recorded texts of results.
QUOTATIONS = (
    r"nobody knew whether",
    r"Nobody at the station",
    r"Nobody ever mentioned",
    r"nobody saw it",
    r"[Ss]aid:? [\"“]?(?:no|hello)\b",
    r"[Aa] first look at",
    r"[Hh]earing (?:loss|aid|threshold)",
)
QUOTED_FILES = {
    "CONTRIBUTING.md",  # the list of words
    "CHANGELOG.md",  # names before the first release
    "tests/test_words.py",
    "docs/results/README.md",  # generated from committed results
    "docs/results/verdicts.md",
    "docs/results/findings.md",
    "docs/results/probes.md",
}
PLACES = [
    "jaxasr",
    "interventions",
    "experiments",
    "tests",
    "docs",
    "README.md",
    "mkdocs.yml",
    "pyproject.toml",
    ".github",
]


def found(file: Path) -> list[str]:
    """Returns the lines of a file that contain one of the words outside of a quotation."""
    text = file.read_text(encoding="utf-8")
    lines = []
    for number, line in enumerate(text.splitlines(), 1):
        words = re.sub(r"([a-z])([A-Z])", r"\1 \2", line).replace("_", " ")
        for quotation in QUOTATIONS:
            words = re.sub(quotation, "", words)
        if PATTERN.search(words) and '"image/png"' not in line:
            lines.append(f"{file.relative_to(ROOT)}:{number}: {line.strip()[:120]}")
    return lines


def files(place: Path) -> list[Path]:
    every = [place] if place.is_file() else sorted(place.rglob("*"))
    return [
        file
        for file in every
        if file.suffix in SUFFIXES
        and file.relative_to(ROOT).as_posix() not in QUOTED_FILES
        and ".ipynb_checkpoints" not in file.parts
    ]


@pytest.mark.parametrize("place", PLACES)
def test_none_of_the_excluded_words_occurs(place):
    assert not [line for file in files(ROOT / place) for line in found(file)]


def test_the_list_is_that_of_the_guide():
    section = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").split("### Words")[1]
    rows = re.findall(r"^\| ([^|]+) \|", section, re.MULTILINE)[1:]
    listed = [word for row in rows if not row.startswith("--") for word in row.split(", ")]
    assert listed
    assert all(PATTERN.fullmatch(word.strip()) for word in listed), listed
