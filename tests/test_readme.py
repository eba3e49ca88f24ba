"""The README's first lines, and its Python, which runs as it stands on the real tiny.en."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def test_the_two_lines_come_first():
    assert README.startswith(
        '```\npip install -e ".[demo]" && jaxasr demo\npip install -e ".[test]" && pytest\n```\n'
    )


def test_no_placeholders():
    assert not re.search(r"TODO|TBD|FIXME|XXX|lorem", README)


def test_python_runs(monkeypatch):
    monkeypatch.chdir(ROOT)
    names: dict = {}
    for block in BLOCKS:  # in order: one goes on where the other stopped
        exec(compile(block, "README.md", "exec"), names)
    assert names["text"].startswith("The captain read the old letter aloud, ")
    assert names["said"].tokens.shape == names["edited"].tokens.shape
    assert not (names["said"].logprobs == names["edited"].logprobs).all()
    assert names["audible"][-1][0].startswith("The captain")
    assert names["heads"].shape == (4, 6, 5)
    assert (
        names["heads"].source > names["heads"].baseline
    )  # noise hides the word, the clean recording says it


def test_there_is_python():
    assert any("jaxasr.load" in block for block in BLOCKS)


@pytest.mark.parametrize("link", re.findall(r"\]\(((?!http)[^)#]+)\)", README))
def test_links_lead_somewhere(link):
    assert (ROOT / link).exists()
