"""Tries 192 mutated checkpoints; `python -m tests.attacks.checkpoints` tries ten thousand."""

import collections

import pytest

pytest.importorskip("resource")

from attacks import checkpoint_mutations as mutations, checkpoints as attack


@pytest.fixture(scope="module")
def originals():
    return mutations.originals()


def test_undamaged_checkpoints_load(originals, tmp_path):
    for form, files in originals.items():
        outcome = attack.load_and_generate(attack.write_files(files, tmp_path / form))
        assert outcome == attack.Outcome(True), (form, outcome.detail)


def test_mutated_checkpoints_load_or_raise(originals, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    loaded = collections.Counter()
    for number in range(192):
        kind, files = attack.make_case(number, seed=1, originals=originals)
        outcome = attack.load_and_generate(
            attack.write_files(files, tmp_path / str(number)), compiling=False
        )
        assert not outcome.faults, (number, kind, outcome.detail)
        loaded[outcome.loaded] += 1
    assert not (tmp_path / mutations.CANARY).exists()
    assert min(loaded.values()) > 20, loaded  # some checkpoints must load and some be refused
