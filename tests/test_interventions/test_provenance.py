"""Results record the command, data, versions and commit that made them."""

import importlib
import re

import pytest

from interventions.storage import provenance

# `import` would return the function `provenance`, because the package exports it under the name
# of the module.
module = importlib.import_module("interventions.storage.provenance")


def test_a_record_holds_what_is_known_and_nothing_else():
    record = provenance(model={"name": "tiny.en"}, seed=0)
    assert {"model", "seed", "command", "time", "versions", "platform"} <= set(record)
    assert "data" not in record
    assert record["seed"] == 0
    assert {"jax", "flax", "numpy"} <= set(record["versions"])


def test_commit_is_a_hash_or_unknown():
    assert module.commit() is None or re.fullmatch(r"[0-9a-f]{40}\+?", module.commit())


@pytest.mark.parametrize("commit", [None, "0" * 40])
def test_outside_a_checkout_the_environment_names_the_commit(commit, monkeypatch, tmp_path):
    monkeypatch.setattr(module, "__file__", str(tmp_path / "a" / "b.py"))
    if commit:
        monkeypatch.setenv("JAXASR_COMMIT", commit)
    module.commit.cache_clear()
    assert module.commit() == commit
    module.commit.cache_clear()


@pytest.mark.parametrize(("changes", "suffix"), [("", ""), (" M a.py", "+"), (None, "+")])
def test_files_that_git_cannot_compare_count_as_changed(changes, suffix, monkeypatch, tmp_path):
    (tmp_path / ".git").mkdir()
    monkeypatch.setattr(module, "__file__", str(tmp_path / "a" / "b" / "c.py"))
    answers = {"rev-parse": "0" * 40, "status": changes}
    monkeypatch.setattr(module, "_git", lambda folder, command, *arguments: answers[command])
    module.commit.cache_clear()
    assert module.commit() == "0" * 40 + suffix
    module.commit.cache_clear()


def test_the_command_shows_no_folder_of_the_program(monkeypatch):
    monkeypatch.setattr("sys.argv", ["/some/where/bin/jaxasr", "lens", "a b.wav"])
    assert module.command() == "jaxasr lens 'a b.wav'"
