"""The shares that several processes extract open as the store of one process, equal to the bit."""

import numpy as np
import pytest
from small_speech import small_recogniser, tones
from small_stores import LENGTHS_S, SITE, STORE_OPTIONS

from experiments import store
from jaxasr.processes import Process

CONV = "encoder.conv1"  # a site with two frames per encoder frame
OPTIONS = STORE_OPTIONS | {"sites": (SITE, CONV)}


@pytest.fixture(scope="module")
def asr():
    return small_recogniser()


@pytest.fixture(scope="module")
def corpus():
    return tones(LENGTHS_S)


@pytest.fixture(scope="module")
def one(asr, corpus, tmp_path_factory):
    return store.extract(asr, corpus, tmp_path_factory.mktemp("one") / "store", **OPTIONS)


def extract_shares(asr, corpus, path, count):
    return [
        store.extract(asr, corpus, path, process=Process(index, count), **OPTIONS)
        for index in range(count)
    ]


@pytest.mark.parametrize("count", [2, 4])  # the four processes divide three batches
def test_shares_open_as_one_store(asr, corpus, one, tmp_path, count):
    shares = extract_shares(asr, corpus, tmp_path, count)
    joined = store.open(tmp_path, process=Process(0, count))
    joined.verify()
    assert [name for share in shares for name in share.ids] == joined.ids == one.ids
    rows = np.array([4, 0, 3])
    for site in OPTIONS["sites"]:
        for pool in ("speech", "all", "last", "3"):
            assert np.array_equal(joined.activations(site, pool), one.activations(site, pool))
        assert np.array_equal(joined.activations(site, rows=rows), one.activations(site, rows=rows))
        for ids in (None, one.ids[1:4], one.ids[::-1], []):
            for actual, expected in zip(joined.frames(site, ids), one.frames(site, ids)):
                assert np.array_equal(actual, expected)
    assert np.array_equal(joined.mel(), one.mel())
    assert joined.dataset.load().drop_attrs().identical(one.dataset.load().drop_attrs())
    assert joined.complete
    assert joined.attrs["corpus"] == one.attrs["corpus"]
    assert store.covers(tmp_path, asr, corpus, OPTIONS["sites"], OPTIONS["pool"])


def test_labelled_arrays_of_a_joined_store_are_indexed_as_usual(asr, corpus, one, tmp_path):
    extract_shares(asr, corpus, tmp_path, 2)
    name, joined = f"{SITE}.frames", store.open(tmp_path)
    for index in (-1, 70, slice(40, 90), slice(3, None, 7), [5, 80, 2], slice(9, 9)):
        expected = one.dataset[name].isel(encoder_frame=index)
        assert (
            joined.dataset[name]
            .isel(encoder_frame=index)
            .drop_attrs()
            .identical(expected.drop_attrs())
        )


def test_an_unfinished_or_missing_share_is_named(asr, corpus, tmp_path):
    store.extract(asr, corpus, tmp_path, process=Process(0, 2), **OPTIONS)
    with pytest.raises(ValueError, match="process-1-of-2 did not finish"):
        store.open(tmp_path)
    with pytest.raises(TimeoutError, match="process-1-of-2"):
        store.open(tmp_path, process=Process(0, 2), wait_s=0.1)
    assert not store.covers(tmp_path, asr, corpus, OPTIONS["sites"], OPTIONS["pool"])


def test_a_damaged_share_is_named(asr, corpus, tmp_path):
    extract_shares(asr, corpus, tmp_path, 2)
    chunk = next((tmp_path / "process-1-of-2" / SITE / "c").rglob("0/*"))
    files = [path for path in (chunk, *chunk.rglob("*")) if path.is_file()]
    files[0].write_bytes(bytes([255, *files[0].read_bytes()[1:]]))
    with pytest.raises(store.StoreError, match=r"process-1-of-2'.*'encoder.resid_post' is damaged"):
        store.open(tmp_path).activations(SITE)
    with pytest.raises(store.StoreError, match=r"process-1-of-2': encoder.resid_post differ"):
        store.open(tmp_path).verify_checksums()


def test_shares_of_different_extractions_are_not_joined(asr, corpus, tmp_path):
    options = OPTIONS | {"batch": 1}
    store.extract(asr, corpus, tmp_path, process=Process(0, 2), **OPTIONS)
    store.extract(asr, corpus, tmp_path, process=Process(1, 2), **options)
    with pytest.raises(store.StoreError, match="differs in settings"):
        store.open(tmp_path)


def test_a_folder_holds_one_store_or_shares(asr, corpus, one, tmp_path):
    with pytest.raises(store.StoreError, match="holds the store of a single process"):
        store.extract(asr, corpus, one.path, process=Process(0, 2), **OPTIONS)
    extract_shares(asr, corpus, tmp_path, 2)
    with pytest.raises(store.StoreError, match=r"holds the shares of several processes \(2\)"):
        store.extract(asr, corpus, tmp_path, **OPTIONS)
