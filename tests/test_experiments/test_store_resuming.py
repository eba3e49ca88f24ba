"""An interrupted store continues to the bit, and a run that would add other values is refused."""

import json

import pytest
from small_speech import small_recogniser, tones
from small_stores import LENGTHS_S, SITE, STORE_OPTIONS, kill_after_the_first_batch, variable_files

from experiments import store
from experiments.store import StoreError, integrity
from experiments.store.writing import Writer


@pytest.fixture(scope="module")
def small():
    return small_recogniser()


@pytest.fixture(scope="module")
def full(small, tmp_path_factory):
    """A store with every kind of variable, which no test changes."""
    return store.extract(
        small, tones(LENGTHS_S), tmp_path_factory.mktemp("full") / "store", **STORE_OPTIONS
    )


# Extracts a store slowly, 0.25 s per recording, so that the process can be killed halfway.
_SLOW_EXTRACTION = """
import sys, time, dataclasses
from small_speech import small_recogniser, tones
from experiments import store
corpus = tones({lengths})
def delayed(utterance):
    return dataclasses.replace(utterance, read=lambda: (time.sleep(0.25), utterance.read())[1])
slow = map(delayed, corpus.utterances)
corpus = dataclasses.replace(corpus, utterances=tuple(slow))
store.extract(small_recogniser(), corpus, sys.argv[1], pool=("speech", "frames"), batch=2)
"""


def test_a_killed_and_resumed_store_is_bitwise_the_uninterrupted_one(small, tmp_path):
    lengths, path = [0.2 + 0.1 * i for i in range(12)], tmp_path / "killed"
    options = {"pool": ("speech", "frames"), "batch": 2}
    whole = store.extract(small, tones(lengths), tmp_path / "whole", **options)
    code = _SLOW_EXTRACTION.format(lengths=lengths)
    kill_after_the_first_batch(code, str(path), path=path)
    half = store.open(path)
    done = len(half.done_rows)
    assert 0 < done < len(lengths)
    assert not half.complete
    chunks = path / SITE / "c" / "0" / "0"
    chunks.mkdir(parents=True, exist_ok=True)
    (chunks / "0.0123456789abcdef.partial").write_bytes(b"an interrupted write")
    progress = []
    resumed = store.extract(
        small, tones(lengths), path, **options, progress=lambda done, total: progress.append(done)
    )
    assert progress[0] == done  # finished batches are not computed again
    assert resumed.complete
    assert variable_files(path) == variable_files(whole.path)
    assert resumed.attrs["checksums"] == whole.attrs["checksums"]
    resumed.verify()


def test_another_model_corpus_or_setting_is_refused(small, full):
    with pytest.raises(
        StoreError,
        match=r"differs in model: it has \{'sha256': '\w+'\}, this run has \{'sha256': '\w+'\}",
    ):
        store.extract(small_recogniser(2), tones(LENGTHS_S), full.path, **STORE_OPTIONS)
    with pytest.raises(StoreError, match=r"differs in corpus: .*'n': 5.*this run has .*'n': 4"):
        store.extract(small, tones(LENGTHS_S[:4]), full.path, **STORE_OPTIONS)
    with pytest.raises(
        StoreError,
        match=r"differs in settings: it has \{'dtype': 'float32'\}, this run has .*'float16'",
    ):
        store.extract(small, tones(LENGTHS_S), full.path, **STORE_OPTIONS, dtype="float16")
    assert store.covers(full.path, small, tones(LENGTHS_S), [SITE], ["all"])
    assert not store.covers(full.path, small, tones(LENGTHS_S), ["encoder.resid_mid"], ["all"])
    assert not store.covers(full.path, small_recogniser(2), tones(LENGTHS_S), [SITE], ["all"])


def test_a_store_that_another_version_left_half_written_is_refused(small, tmp_path, monkeypatch):
    monkeypatch.setattr(integrity, "versions", lambda: {"jaxasr": "0.0.9"})
    with monkeypatch.context() as stopped:
        stopped.setattr("experiments.store.writing.Writer.finish", lambda *_: None)
        store.extract(small, tones(LENGTHS_S[:2]), tmp_path / "half", batch=2)
    monkeypatch.undo()
    with pytest.raises(
        StoreError, match=r"differs in versions: .*'jaxasr': '0\.0\.9'.*this run has .*unfinished"
    ):
        store.extract(small, tones(LENGTHS_S[:2]), tmp_path / "half", batch=2)


def test_a_folder_without_a_store_is_refused(small, tmp_path):
    (tmp_path / "else").mkdir()
    (tmp_path / "else" / "notes.txt").write_text("mine")
    with pytest.raises(StoreError, match="holds something else"):
        store.extract(small, tones(LENGTHS_S), tmp_path / "else")
    with pytest.raises(FileNotFoundError, match="found none"):
        store.open(tmp_path / "nowhere")


def interrupt_after_one_batch(monkeypatch, *arguments, **options):
    """Starts an extraction that fails when it writes the second batch."""
    write, written = Writer.write, []

    def write_once(writer, rows, *values):
        if written:
            raise MemoryError
        written.append(rows)
        write(writer, rows, *values)

    with monkeypatch.context() as interrupted:
        interrupted.setattr(Writer, "write", write_once)
        with pytest.raises(MemoryError):
            store.extract(*arguments, **options)


@pytest.mark.parametrize("batch", [1, 5])
def test_a_store_keeps_the_batch_of_its_first_run(small, full, tmp_path, monkeypatch, batch):
    interrupt_after_one_batch(
        monkeypatch, small, tones(LENGTHS_S), tmp_path / "store", **STORE_OPTIONS
    )
    assert len(store.open(tmp_path / "store").done_rows) == STORE_OPTIONS["batch"]
    options = {**STORE_OPTIONS, "batch": batch}
    resumed = store.extract(small, tones(LENGTHS_S), tmp_path / "store", **options)
    assert resumed.attrs["settings"]["batch"] == STORE_OPTIONS["batch"]
    assert variable_files(resumed.path) == variable_files(full.path)
    again = store.extract(small, tones(LENGTHS_S), resumed.path, **options)
    assert variable_files(again.path) == variable_files(full.path)


def test_an_unfinished_store_with_an_impossible_batch_is_refused(small, tmp_path, monkeypatch):
    arguments, options = (small, tones(LENGTHS_S), tmp_path / "store"), {"batch": 2}
    interrupt_after_one_batch(monkeypatch, *arguments, **options)
    file = tmp_path / "store" / "zarr.json"
    metadata = json.loads(file.read_text())
    for batch in (0, -2, "2", True, None):
        metadata["attributes"]["settings"]["batch"] = batch
        file.write_text(json.dumps(metadata))
        with pytest.raises(StoreError, match="differs in settings"):
            store.extract(*arguments, **options)


def test_an_unfinished_store_cannot_be_verified(small, tmp_path, monkeypatch):
    arguments = (small, tones(LENGTHS_S), tmp_path / "store")
    interrupt_after_one_batch(monkeypatch, *arguments, batch=2)
    unfinished = store.open(tmp_path / "store")
    for check in (unfinished.verify_checksums, unfinished.verify):
        with pytest.raises(StoreError, match=r"store'.*expected checksums.*unfinished"):
            check()
    store.extract(*arguments, batch=2).verify()


def test_a_folder_with_nothing_but_a_lock_counts_as_empty(tmp_path):
    (tmp_path / ".activations.lock").touch()
    assert integrity.open_existing(tmp_path) is None
