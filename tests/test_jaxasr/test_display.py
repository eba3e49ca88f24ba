"""Objects have reprs of one line and tables for notebooks, and `python -m jaxasr` runs."""

import re
import runpy
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxasr
from jaxasr import __main__, display


@pytest.fixture(scope="module")
def generation() -> jaxasr.Generation:
    logprobs = jnp.array([[-0.5, -0.25, 0.0], [-1.0, -1.0, -1.0]])
    tokens = jnp.array([[7, 9, 9], [1, 2, 3]])
    return jaxasr.Generation(tokens, jnp.array([1, 3]), logprobs, jnp.array([0.01, 0.9]))


def test_a_recogniser_shows_its_name_and_size(asr):
    size = "4+4 layers, width 384, 6 heads, 37.8 M parameters, float32"
    assert repr(asr) == f"Recogniser(tiny.en: {size})"
    assert repr(asr.model) == f"Whisper({size})"
    table = asr._repr_html_()
    assert '<td style="text-align: left">decoder</td>' in table
    assert "4 layers, 6 heads" in table


def test_heads_of_both_stacks_are_shown_if_they_differ(tiny_model):
    assert "4+2 layers, width 15, 3+5 heads" in repr(tiny_model)


def test_a_memory_shows_its_size_in_both_layouts(tiny_model):
    memory = tiny_model.encode(np.zeros((2, 7, 22), np.float32))[0]
    line = "Memory(2 recordings, 11 frames, width 15, 2 layers, float32, 0.0 MB)"
    assert repr(memory) == repr(memory.unstacked()) == line


def test_a_generation_shows_lengths_and_log_probabilities(generation):
    line = "Generation(1, 3 of 3 tokens, mean log-probability -0.38, -0.75)"
    assert repr(generation) == line
    assert generation._repr_html_().count("<tr>") == 3


def test_generated_texts_show_their_texts(generation):
    texts = ("Right.", "a" * 100)
    logprobs, no_speech = np.asarray(generation.avg_logprob), np.array([0.01, 0.9])
    result = jaxasr.GeneratedText(
        ((7,), (1, 2, 3)), texts, logprobs, no_speech, np.array([True, False]), generation
    )
    pattern = r"GeneratedText\('Right\.', 'a{59}…'; tokens 1, 3; mean log-probability -0\.38, .*\)"
    assert re.fullmatch(pattern, repr(result))
    assert '<td style="text-align: left">Right.</td>' in result._repr_html_()


def test_reprs_survive_tracing_and_other_leaves(tiny_model, generation):
    lines = []

    @jax.jit
    def trace(memory, generation):
        lines.extend([repr(memory), repr(generation), generation._repr_html_()])
        return memory.xa

    memory = tiny_model.encode(np.zeros((1, 7, 22), np.float32))[0]
    trace(memory, generation)
    assert len(lines) == 3
    for tree in (memory, generation, tiny_model):
        assert repr(jax.tree.map(lambda _: None, tree))
        assert repr(jax.eval_shape(lambda x: x, tree))


def test_a_table_escapes_its_cells():
    assert "&lt;|en|&gt;" in display.table(("text",), [["<|en|>"]])


def test_the_version_is_that_of_the_distribution():
    assert re.fullmatch(r"\d+\.\d+.*", jaxasr.__version__)


def test_python_m_jaxasr_runs_the_command_line(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["jaxasr", "--help"])
    monkeypatch.delitem(sys.modules, "jaxasr.__main__")
    with pytest.raises(SystemExit) as end:
        runpy.run_module("jaxasr", run_name="__main__")
    assert end.value.code == 0
    assert "Usage: jaxasr" in capsys.readouterr().out


@pytest.mark.parametrize("module", [None, types.SimpleNamespace(__file__="/other/cli.py")])
def test_a_missing_or_foreign_experiments_package_is_an_error_with_a_remedy(monkeypatch, module):
    def import_module(name):
        if module is None:
            raise ModuleNotFoundError(name=name)
        return module

    monkeypatch.setattr(__main__.importlib, "import_module", import_module)
    with pytest.raises(SystemExit, match="pip install jaxasr"):
        __main__.main()
