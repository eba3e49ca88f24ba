"""Several data folders are read as one."""

import json
import os
from pathlib import Path

import pytest

from experiments.data import real_speech
from experiments.data.corpora import Utterance
from experiments.studies.reproduce import open_recordings
from experiments.studies.selection import language


def make_folder(path: Path, *names: str, nested: bool = False) -> Path:
    """Writes a manifest with one row per name; `nested` paths begin with the folder's name."""
    path.mkdir()
    rows = []
    for name in names:
        (path / name).touch()
        audio = f"{path.name}/{name}" if nested else name
        rows.append({"path": audio, "set": path.name, "transcript": "", "lang": "en"})
    lines = [json.dumps(row | {"duration_s": 1.0}) for row in rows]
    (path / "manifest.jsonl").write_text("\n".join(lines))
    return path


@pytest.fixture
def two(tmp_path, monkeypatch):
    folders = (
        make_folder(tmp_path / "one", "a.wav", nested=True),
        make_folder(tmp_path / "two", "b.wav", "c.wav"),
    )
    monkeypatch.setenv("JAXASR_DATA", os.pathsep.join(map(str, folders)))
    return folders


def test_recordings_of_all_folders_are_listed_and_exist(two):
    assert real_speech.folders() == two
    assert real_speech.folder() == two[0]
    clips = real_speech.recordings()
    assert [clip.path.name for clip in clips] == ["a.wav", "b.wav", "c.wav"]
    assert all(clip.path.is_file() for clip in clips)
    assert [clip.set for clip in real_speech.recordings(["two"])] == ["two", "two"]


def test_rows_come_from_the_folders_that_have_the_file(two):
    (two[0] / "recipes.jsonl").write_text('{"id": 1}\n')
    assert real_speech.rows("recipes") == [{"id": 1}]
    assert real_speech.rows("missing") == []
    assert len(real_speech.rows("manifest")) == 3


def test_a_folder_without_a_manifest_is_named(two, monkeypatch, tmp_path):
    monkeypatch.setenv("JAXASR_DATA", os.pathsep.join([str(two[0]), str(tmp_path)]))
    with pytest.raises(FileNotFoundError, match=f"JAXASR_DATA: .*{tmp_path.name}'"):
        real_speech.folders()


def test_a_run_joins_the_data_folders(two):
    corpus, preset = open_recordings()
    assert (corpus.name, preset) == ("one+two", "here")
    assert [clip.id for clip in corpus.utterances] == ["one/a.wav", "b.wav", "c.wav"]


def test_ids_stay_unique_if_two_corpora_repeat_them(tmp_path):
    folders = [make_folder(tmp_path / name, "a.wav") for name in ("left", "right")]
    corpus, _ = open_recordings(folders)
    assert [clip.id for clip in corpus.utterances] == ["a.wav", "right/a.wav"]
    assert [clip.path.parent.name for clip in corpus.utterances] == ["left", "right"]


def test_the_same_corpus_twice_is_refused(tmp_path):
    folder = make_folder(tmp_path / "left", "a.wav")
    with pytest.raises(ValueError, match=r"'a.wav' twice in 'left\+left'"):
        open_recordings([folder, folder])


def test_a_recording_in_several_languages_has_no_language():
    assert language(Utterance("a", Path("a.wav"), labels={"lang": "en+zh"})) == ""
    assert language(Utterance("a", Path("a.wav"), labels={"lang": "en-GB"})) == "en"
