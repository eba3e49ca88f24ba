"""Examples in docstrings of commands, pages and benchmarks give the results that they show."""

import doctest
import importlib
from pathlib import Path

import pytest

import experiments

FOLDER = Path(experiments.__file__).parent
MODULES = {
    f"experiments.{folder}.{file.stem}"
    for folder in ("bench", "commands", "pages")
    for file in (FOLDER / folder).glob("*.py")
    if ">>> " in file.read_text() and "import torch\n" not in file.read_text().partition("def ")[0]
}


@pytest.mark.parametrize("name", sorted(MODULES))
def test_examples_give_the_results_that_they_show(name):
    results = doctest.testmod(importlib.import_module(name))
    assert results.attempted > 0
    assert not results.failed
