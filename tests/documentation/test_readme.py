"""The README is short, its links have targets, and its Python runs on the real tiny.en."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
# The Python blocks of the README.
BLOCKS = re.findall(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def test_the_title_comes_first_and_both_commands_follow():
    assert README.startswith("# jaxasr\n")
    commands = 'pip install -e ".[demo]" && jaxasr demo\npip install -e ".[test]" && pytest\n'
    assert README.count(f"```\n{commands}```\n") == 1


def test_it_is_short():
    assert len(README.split()) <= 900


def test_no_placeholders():
    assert not re.search(r"TODO|TBD|FIXME|XXX|lorem", README)


def test_python_runs(monkeypatch):
    monkeypatch.chdir(ROOT)
    names: dict = {}
    for block in BLOCKS:  # in order, because later blocks use the names of earlier ones
        exec(compile(block, "README.md", "exec"), names)
    assert names["text"].startswith("The captain read the old letter aloud, ")
    assert names["acts"]["encoder.resid_post"].shape == (4, 1, 1500, 384)
    assert not names["ablated"].text[0].strip().startswith("The captain read the old letter")
    assert names["layers"].ids.shape[:3] == (4, 1, names["tokens"].shape[1])
    assert names["texts"][-1][0].strip().startswith("The captain")
    assert names["heads"].shape == names["change"].shape == (4, 6)
    assert names["heads"].source > names["heads"].baseline  # noise makes the word less probable


def test_there_is_python():
    assert any("jaxasr.load" in block for block in BLOCKS)


@pytest.mark.parametrize("link", re.findall(r"\]\(((?!http)[^)#]+)\)", README))
def test_links_have_a_target(link):
    assert (ROOT / link).exists()
