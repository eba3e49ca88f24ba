"""Files that are damaged, hostile or not results are refused with an error that names them."""

import json
import re

import numpy as np
import pytest
import xarray as xr
from swept_results import swept

from interventions.figures import plot, save
from interventions.stats import summarize
from interventions.storage import load_result, save_result
from interventions.storage.results import load_or_compute


def flip_random_bit(path, seed):
    """Flips a random bit in a random file of a result. Returns the file and its old bytes."""
    rng = np.random.default_rng(seed)
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    # Every byte of the result is chosen with equal probability.
    sizes = np.cumsum([file.stat().st_size for file in files])
    at = int(rng.integers(sizes[-1]))
    place = int(np.searchsorted(sizes, at, side="right"))
    file, whole = files[place], files[place].read_bytes()
    changed = bytearray(whole)
    changed[at - (int(sizes[place - 1]) if place else 0)] ^= 1 << int(rng.integers(8))
    file.write_bytes(bytes(changed))
    return file, whole


@pytest.mark.parametrize("name", ["a.zarr", "a.nc"])
def test_a_flipped_bit_anywhere_is_noticed(tmp_path, name):
    path = save_result(summarize(swept()), tmp_path / name, provenance={"seed": 1})
    for seed in range(60):
        file, whole = flip_random_bit(path, seed)
        with pytest.raises(ValueError, match=re.escape(str(path))):
            load_result(path)
        file.write_bytes(whole)
    load_result(path)


def test_a_cached_result_that_is_damaged_or_misplaced_is_computed_again(tmp_path, caplog):
    path, calls = tmp_path / "part.zarr", []

    def compute():
        calls.append(1)
        return summarize(swept())

    first = load_or_compute(path, "a", compute)
    flip_random_bit(path, 3)
    xr.testing.assert_identical(load_or_compute(path, "a", compute), first)
    xr.testing.assert_identical(load_or_compute(path, "b", compute), first)
    assert len(calls) == 3
    assert [
        record.getMessage().endswith("It is not used, but computed again.")
        for record in caplog.records
    ] == [True, True]
    assert "part.zarr: misplaced" in caplog.records[1].getMessage()


PICKLED = b"cos\nmkdir\n(S'%s'\ntR."  # a pickle that makes the folder %s if it is loaded


@pytest.mark.parametrize("changes", [
    {"dtype": "|O", "filters": [{"id": "vlen-utf8"}, {"id": "pickle"}], "compressor": None},
    {"compressor": {"id": "pickle"}},
    {"compressor": {"id": "zlib", "level": 1}},
    {"filters": [{"id": "delta", "dtype": "<f8"}]},
    {"dtype": [["a", "<f8"]]},
    {"dtype": "|V8"},
    {"dtype": "<M8[ns]"},
    {"shape": [2**40], "chunks": [2**31]},
    {"shape": [-1]},
    {"chunks": [0]},
    {"shape": "3"},
    {"zarr_format": 3},
])  # fmt: skip
def test_codecs_and_formats_that_save_result_does_not_write_are_refused(tmp_path, changes):
    path = save_result(xr.Dataset({"values": ("a", np.arange(3.0))}), tmp_path / "a.zarr")
    file = path / "values" / ".zarray"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    (path / "values" / "0").write_bytes(PICKLED % str(tmp_path / "run").encode())
    (path / ".zattrs").write_text("{}")
    with pytest.raises(ValueError, match=r"a\.zarr/values"):
        load_result(path)
    with pytest.raises(ValueError, match="computed"):
        load_or_compute(path, "key", lambda: (_ for _ in ()).throw(ValueError("computed")))
    assert not (tmp_path / "run").exists()


def test_links_cannot_bring_in_an_array_that_was_not_checked(tmp_path):
    path = save_result(xr.Dataset({"values": ("a", np.arange(3.0))}), tmp_path / "a.zarr")
    outside = (path / "values").rename(tmp_path / "outside")
    file = outside / ".zarray"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"compressor": {"id": "pickle"}}))
    (outside / "0").write_bytes(PICKLED % str(tmp_path / "run").encode())
    (path / ".zattrs").write_text("{}")
    (path / "values").symlink_to(outside)
    with pytest.raises(ValueError, match=r"a\.zarr/values: expected no links"):
        load_result(path)
    assert not (tmp_path / "run").exists()


def test_files_that_are_not_results_are_named(tmp_path):
    (tmp_path / "a.nc").write_bytes(b"CDF\x01" + b"\xff" * 200)
    (tmp_path / "b.nc").mkdir()
    (tmp_path / "c.zarr").write_text("x")
    (tmp_path / "d.zarr").mkdir()
    deep = save_result(xr.Dataset({"x": 1.0}), tmp_path / "e.zarr")
    (deep / "x" / ".zattrs").write_text('{"a":' * 100_000)
    for name in ("a.nc", "b.nc", "c.zarr", "d.zarr", "e.zarr"):
        with pytest.raises(ValueError, match=re.escape(str(tmp_path / name))):
            load_result(tmp_path / name)


def test_hostile_texts_can_be_saved_and_drawn(tmp_path):
    texts = np.array(["$", "$_$", "\udc80", "\x1b[1m", *"abc"])
    summary = summarize(swept(dims=("layer", "position"))).assign_coords(token=("position", texts))
    assert save(plot(summary), tmp_path / "map.png").stat().st_size > 2000
    for name in ("a.zarr", "a.nc"):
        save_result(
            swept(), tmp_path / name, provenance={"data": ["\udc80.wav"], "command": "x \udc80"}
        )
        assert load_result(tmp_path / name).attrs["provenance"]["data"] == ["\udc80.wav"]
