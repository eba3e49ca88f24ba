"""A saved part with a flipped bit, or in the place of another part, is computed again."""

import shutil

import numpy as np
import pytest

from experiments.item_cache import ItemCache
from interventions.storage import parts, untrusted_files


def flip_bit(data: bytes, bit: int) -> bytes:
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


ARRAYS = {"values": np.arange(6.0).reshape(2, 3), "text": np.array(["one", "zwei"])}


def test_parts_load_as_saved_and_every_flipped_bit_is_noticed(tmp_path, caplog):
    path = tmp_path / "new" / "a.part"
    parts.save(path, "key", ARRAYS)
    loaded = parts.load(path, "key")
    assert loaded is not None
    assert loaded.keys() == ARRAYS.keys()
    assert all(
        np.array_equal(loaded[name], ARRAYS[name]) and loaded[name].dtype == ARRAYS[name].dtype
        for name in ARRAYS
    )
    whole = path.read_bytes()
    for bit in np.random.default_rng(0).integers(8 * len(whole), size=300):
        path.write_bytes(flip_bit(whole, bit))
        assert parts.load(path, "key") is None
    for length in range(0, len(whole), 31):
        path.write_bytes(whole[:length])
        assert parts.load(path, "key") is None
    lines = {record.getMessage() for record in caplog.records}
    assert lines == {
        f"{path}: damaged: the checksum does not match the contents. "
        "It is not used, but computed again."
    }


def test_a_part_of_something_else_is_not_used(tmp_path, caplog):
    parts.save(tmp_path / "a.part", "key", ARRAYS)
    assert parts.load(tmp_path / "a.part", "other") is None
    message = "a.part: misplaced: the file holds another part. It is not used, but computed again."
    assert message in caplog.text
    assert parts.load(tmp_path / "b.part", "key") is None


def test_cached_items_are_computed_again_when_damaged_or_exchanged(tmp_path, caplog):
    computed = []

    def item(name):
        return lambda: computed.append(name) or {"x": np.array([len(name)])}

    cache = ItemCache(tmp_path / "items")
    first, second = cache("first", item("first")), cache("second", item("second"))
    first_file, second_file = sorted((tmp_path / "items").glob("*.part"))
    shutil.copy(second_file, first_file)
    second_file.write_bytes(flip_bit(second_file.read_bytes(), 900))
    again = ItemCache(tmp_path / "items")
    assert (again("first", item("first"))["x"], again("second", item("second"))["x"]) == (
        first["x"],
        second["x"],
    )
    assert computed == ["first", "second"] * 2
    assert [record.getMessage().count("\n") for record in caplog.records] == [0, 0]
    ItemCache(tmp_path / "items")("first", lambda: pytest.fail("computed again"))


def write_npz(path, name="a.npy", data=b"", **arrays):
    """Writes an .npz with `arrays` and a member `name` that holds the bytes `data`."""
    import zipfile

    np.savez(path, **arrays)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(name, data)
    return path


def npy_header(text: str) -> bytes:
    # An .npy file begins with a magic number, its version, and the length of the header.
    return b"\x93NUMPY\x01\x00" + (len(text) + 1).to_bytes(2, "little") + text.encode() + b"\n"


@pytest.mark.parametrize("data", [
    npy_header("{'descr': '<f8', 'fortran_order': False, 'shape': (549755813888,), }"),  # 4 TiB
    npy_header("{'descr': '<f8', 'fortran_order': False, 'shape': (-1, 2), }"),
    npy_header("{'descr': '|O', 'fortran_order': False, 'shape': (1,), }") + b"\x80\x04N.",
    npy_header("{'descr': [('a', '<f8')], 'fortran_order': False, 'shape': (1,), }") + bytes(8),
    npy_header("__import__('os').abort()"),
    npy_header("{'descr': '<f8'}"),
    npy_header("(" * 5000),
    b"",
    b"\x93NUMPY\x09\x09",
])  # fmt: skip
def test_an_npz_that_declares_more_than_it_holds_is_refused(tmp_path, data):
    with pytest.raises(ValueError, match=r"a\.npz: expected an undamaged \.npz"):
        untrusted_files.read_npz(write_npz(tmp_path / "a.npz", data=data, b=np.ones(3)))


def test_damaged_npz_and_json_files_are_named(tmp_path):
    np.savez(tmp_path / "good.npz", a=np.ones(50))
    whole = (tmp_path / "good.npz").read_bytes()
    for data in (b"", b"garbage", whole[:100], whole[:-10]):
        (tmp_path / "bad.npz").write_bytes(data)
        with pytest.raises(ValueError, match=r"bad\.npz: "):
            untrusted_files.read_npz(tmp_path / "bad.npz")
    for text in (b"", b"[1]", b"{", b'{"a":' * 100_000, b"\xff{}", b'{"a": ' + b"9" * 5000 + b"}"):
        (tmp_path / "bad.json").write_bytes(text)
        with pytest.raises(ValueError, match=r"bad\.json: expected a JSON object"):
            untrusted_files.read_json(tmp_path / "bad.json")
    (tmp_path / "bad.json").write_text('{"a": NaN}')
    with pytest.raises(ValueError, match="NaN is not a finite number"):
        untrusted_files.read_json(tmp_path / "bad.json", finite=True)
    with pytest.raises(ValueError, match="regular file"):
        untrusted_files.read_json(tmp_path)


def test_a_sealed_folder_notices_every_change(tmp_path):
    (tmp_path / "a").write_text("one")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "c").write_text("two")
    with pytest.raises(ValueError, match="expected a file SHA256SUMS"):
        untrusted_files.check_checksums(tmp_path)
    untrusted_files.write_checksums(tmp_path)
    untrusted_files.check_checksums(tmp_path)
    for name in ("a", "b/c", untrusted_files.CHECKSUMS_FILE):
        whole = (tmp_path / name).read_bytes()
        for bit in np.random.default_rng(0).integers(8 * len(whole), size=40):
            (tmp_path / name).write_bytes(flip_bit(whole, bit))
            with pytest.raises(ValueError, match=r"damaged|differ from"):
                untrusted_files.check_checksums(tmp_path)
        (tmp_path / name).write_bytes(whole)
    (tmp_path / "more").write_text("x")
    with pytest.raises(ValueError, match="differ from those in SHA256SUMS: more"):
        untrusted_files.check_checksums(tmp_path)
