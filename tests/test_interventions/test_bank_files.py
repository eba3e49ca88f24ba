"""Damaged files of a bank raise an error, and so do files that are not a bank."""

import json
import re

import numpy as np
import pytest

import interventions
from interventions.probes import Bank
from interventions.storage import untrusted_files


@pytest.fixture(scope="module")
def bank():
    rng = np.random.default_rng(0)
    y = np.arange(40) % 2
    return interventions.fit_probes(
        (rng.normal(size=(2, 40, 6)) + 3 * y[:, None]).astype(np.float32), y, folds=2
    )


def change_description(folder, **changes):
    """Changes the description of a bank, and updates its checksums."""
    file = folder / "bank.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    untrusted_files.write_checksums(folder)
    return folder


def test_a_flipped_bit_raises(bank, tmp_path):
    bank.save(tmp_path / "bank", seed=1)
    files = sorted((tmp_path / "bank").iterdir())
    assert [file.name for file in files] == ["SHA256SUMS", "arrays.npz", "bank.json"]
    rng = np.random.default_rng(0)
    for i in range(45):
        file = files[i % 3]
        whole = file.read_bytes()
        at, bit = rng.integers(len(whole)), int(rng.integers(8))
        file.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << bit]) + whole[at + 1 :])
        with pytest.raises(ValueError, match=re.escape(str(tmp_path / "bank"))):
            Bank.load(tmp_path / "bank")
        file.write_bytes(whole)
    assert Bank.load(tmp_path / "bank").data.identical(bank.data.assign_attrs(seed=1))


@pytest.mark.parametrize(
    "changes",
    [
        {"dims": None},
        {"dims": {}},
        {"dims": {"weights": None}},
        {"dims": 3},
        {"coords": None},
        {"coords": ["nothing"]},
        {"about": 3},
        {"target": "other"},
        {"target": None},
        {"version": None},
        {"version": 2},
    ],
)
def test_a_wrong_description_raises(bank, tmp_path, changes):
    bank.save(tmp_path / "bank")
    with pytest.raises(ValueError, match=r"bank\.json: expected"):
        Bank.load(change_description(tmp_path / "bank", **changes))


def test_wrong_arrays_raise(bank, tmp_path):
    bank.save(tmp_path / "bank")
    with np.load(tmp_path / "bank" / "arrays.npz") as file:
        arrays = dict(file)
    for change in (
        {"weights": arrays["weights"].astype(str)},
        {"weights": arrays["weights"][0]},
        {"test": np.array([object()])},
    ):
        np.savez(tmp_path / "bank" / "arrays.npz", **(arrays | change))
        with pytest.raises(ValueError, match=r"bank/(bank\.json|arrays\.npz): expected"):
            Bank.load(change_description(tmp_path / "bank"))
