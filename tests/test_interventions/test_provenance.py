"""Results say where they come from."""

import re

import pytest

from interventions.storage import provenance as module
from interventions.storage.provenance import provenance


def test_what_is_known_is_there_and_nothing_else():
    found = provenance(model={"name": "tiny.en"}, seed=0)
    assert {"model", "seed", "command", "time", "versions", "platform"} <= set(found)
    assert "data" not in found
    assert found["seed"] == 0
    assert {"jax", "flax", "numpy"} <= set(found["versions"])


def test_commit_is_a_hash_or_unknown():
    assert module.commit() is None or re.fullmatch(r"[0-9a-f]{40}\+?", module.commit())


@pytest.mark.parametrize("named", [None, "0" * 40])
def test_outside_a_checkout_the_environment_names_the_commit(named, monkeypatch, tmp_path):
    monkeypatch.setattr(module, "__file__", str(tmp_path / "a" / "b.py"))
    if named:
        monkeypatch.setenv("JAXASR_COMMIT", named)
    module.commit.cache_clear()
    assert module.commit() == named
    module.commit.cache_clear()


def test_command_shows_no_folder_of_the_program(monkeypatch):
    monkeypatch.setattr("sys.argv", ["/some/where/bin/jaxasr", "lens", "a b.wav"])
    assert module.command() == "jaxasr lens 'a b.wav'"
