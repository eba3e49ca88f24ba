"""Stores that are damaged, half-written or written by two processes are noticed and never used."""

import json
import shutil

import numpy as np
import pytest
import zarr
from small_speech import small_recogniser, tones
from small_stores import LENGTHS_S, SITE, STORE_OPTIONS

from experiments import store
from experiments.store import StoreError
from interventions.storage.atomic import only_writer


@pytest.fixture(scope="module")
def small():
    return small_recogniser()


@pytest.fixture(scope="module")
def full(small, tmp_path_factory):
    """A store with every kind of variable, which no test changes."""
    return store.extract(
        small, tones(LENGTHS_S), tmp_path_factory.mktemp("full") / "store", **STORE_OPTIONS
    )


def test_completion_and_checksums_are_written_at_once(small, tmp_path, monkeypatch):
    attributes_before = []
    write = zarr.core.attributes.Attributes.put
    monkeypatch.setattr(
        zarr.core.attributes.Attributes,
        "put",
        lambda self, new: attributes_before.append(dict(self)) or write(self, new),
    )
    monkeypatch.setattr(
        zarr.core.attributes.Attributes, "__setitem__", lambda *_: pytest.fail("a single key")
    )
    opened = store.extract(small, tones([0.2]), tmp_path / "store", batch=1)
    assert [attributes["complete"] for attributes in attributes_before] == [False]
    assert {"checksums", "metadata", "sha256", "left_out", "speed"} <= opened.attrs.keys()
    open_and_verify(opened.path)


def copied(full, tmp_path):
    shutil.copytree(full.path, tmp_path / "store")
    return tmp_path / "store"


def open_and_verify(path):
    """Opens a store, reads everything in it and checks it, as `jaxasr probe` does."""
    opened = store.open(path)
    assert opened.complete
    opened.verify()


def test_a_flipped_bit_anywhere_is_noticed(full, tmp_path):
    path = copied(full, tmp_path)
    files = sorted(file for file in path.rglob("*") if file.is_file())
    open_and_verify(path)
    rng = np.random.default_rng(0)
    for file in [*files, *(files[i] for i in rng.integers(len(files), size=20))]:
        whole = file.read_bytes()
        place, bit = rng.integers(len(whole)), int(rng.integers(8))
        flipped = whole[place] ^ (1 << bit)
        file.write_bytes(whole[:place] + bytes([flipped]) + whole[place + 1 :])
        with pytest.raises(StoreError, match=str(path)):
            open_and_verify(path)
        file.write_bytes(whole)
    # A copied chunk has a valid checksum of its own, but it is in the wrong place.
    chunks = [path / SITE / "c" / str(pool) / "0" / "0" / "0" for pool in (0, 1)]
    shutil.copy(chunks[0], chunks[1])
    with pytest.raises(StoreError, match=f"{SITE} differ from what was written"):
        open_and_verify(path)


def test_a_flipped_bit_of_an_open_store_is_noticed(small, tmp_path):
    opened = store.extract(small, tones(LENGTHS_S[:2]), tmp_path / "store", batch=2)
    chunk = next(file for file in (tmp_path / "store" / SITE / "c").rglob("*") if file.is_file())
    damaged = bytearray(chunk.read_bytes())
    damaged[5] ^= 1
    chunk.write_bytes(bytes(damaged))
    with pytest.raises(StoreError, match=rf"'{SITE}' is damaged"):
        opened.verify()


def test_a_damaged_half_written_store_is_not_continued(small, tmp_path, monkeypatch):
    options, corpus = {"pool": ("speech", "frames"), "batch": 2}, tones([0.2, 0.3, 0.4])
    with monkeypatch.context() as stopped:
        stopped.setattr("experiments.store.writing.Writer.finish", lambda *_: None)
        store.extract(small, corpus, tmp_path / "half", **options)
    changes = {
        "zarr.json": (b'"complete"', b'"cumplete"'),
        "status/zarr.json": (b'"uint8"', b'"int32"'),
    }
    changes |= {
        f"{SITE}/zarr.json": (b'"encoder_layer"', b'"encoder_laxer"'),
        "utterance/c/0": (b"u1", b"u9"),
    }
    changes |= {"status/c/0": (b"\x01", b"\x02")}
    for name, (old, new) in changes.items():
        whole = (tmp_path / "half" / name).read_bytes()
        assert old in whole
        (tmp_path / "half" / name).write_bytes(whole.replace(old, new, 1))
        with pytest.raises(StoreError, match=r"half'.*(damaged|differ from what was written)"):
            store.extract(small, corpus, tmp_path / "half", **options)
        (tmp_path / "half" / name).write_bytes(whole)
    open_and_verify(store.extract(small, corpus, tmp_path / "half", **options).path)


def test_a_second_writer_of_a_store_is_refused(small, tmp_path):
    with (
        only_writer(tmp_path / "store"),
        pytest.raises(BlockingIOError, match=r"store'.*another process is writing"),
    ):
        store.extract(small, tones([0.2]), tmp_path / "store", batch=1)
    open_and_verify(store.extract(small, tones([0.2]), tmp_path / "store", batch=1).path)
    assert [file.name for file in tmp_path.iterdir()] == ["store"]


@pytest.mark.parametrize("change", [
    {"codecs": [{"name": "vlen-utf8"}, {"name": "numcodecs.pickle"}]},
    {"codecs": [{"name": "bytes"}, {"name": "zstd", "configuration": {"level": 0}}]},
    {"data_type": "variable_length_bytes"},
    {"storage_transformers": [{"name": "x"}]},
    {"zarr_format": 2},
])  # fmt: skip
def test_a_store_with_other_codecs_is_refused(full, tmp_path, change):
    file = copied(full, tmp_path) / SITE / "zarr.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(StoreError, match=r"resid_post/zarr\.json: expected the"):
        store.open(tmp_path / "store")
