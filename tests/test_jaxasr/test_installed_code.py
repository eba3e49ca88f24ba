"""Program keys and fingerprints agree on the code that belongs to libraries."""

import importlib
import json
import os.path

import numpy as np
import pytest

import interventions
from interventions.storage.fingerprints import fingerprint
from jaxasr.installed_code import is_installed_file, is_library_file, is_library_module
from jaxasr.program_keys import Key


@pytest.mark.parametrize("file", [json.__file__, np.__file__, os.path.join.__code__.co_filename])
def test_python_and_packages_are_installed(file):
    assert is_installed_file(file)


def test_our_packages_are_libraries():
    assert is_library_file(interventions.__file__)
    assert all(map(is_library_module, ("jaxasr.model", "numpy", "builtins", "itertools")))


@pytest.mark.parametrize("file", ["<string>", "", "<ipython-input-1>", __file__])
def test_generated_code_and_files_of_the_user_are_not_libraries(file, monkeypatch):
    monkeypatch.chdir(os.path.dirname(interventions.__file__))
    assert not is_library_file(file)
    assert not is_library_module(__name__)


def test_keys_and_fingerprints_agree_on_packages_in_any_folder(tmp_path, monkeypatch):
    """A package on PYTHONPATH counts as installed, so its globals are assumed to be constant."""
    folder = tmp_path / "site-packages"
    folder.mkdir()
    (folder / "library_of_a_user.py").write_text("SCALE = 2\ndef scaled(x): return x * SCALE\n")
    monkeypatch.syspath_prepend(folder)
    library = importlib.import_module("library_of_a_user")
    key, digest = Key(library.scaled), fingerprint(edit=library.scaled)
    library.SCALE = 3
    assert Key(library.scaled) == key
    assert fingerprint(edit=library.scaled) == digest
