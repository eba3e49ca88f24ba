"""Corpora are read in their published layouts, with labels. Errors name file and line."""

import json
import sys
import types
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from small_speech import tone, write

from experiments.data.corpora import Corpus, Span, Utterance, open_corpus


def test_a_jsonl_manifest_has_labels_parts_and_tiers(tmp_path):
    write(tmp_path / "a.wav", tone(300, seconds=1.0))
    rows = [
        {
            "path": "a.wav",
            "speaker": "s1",
            "gender": "F",
            "age": 31,
            "transcript": "hello",
            "phones": [[0.0, 0.5, "hh"], [0.5, 0.9, "ah"]],
        },
        {"path": "a.wav", "speaker": "s2", "gender": "", "start": 0.25, "end": 0.75},
    ]
    (tmp_path / "manifest.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    corpus = open_corpus(tmp_path)
    first, part = corpus.utterances
    assert (corpus.layout, len(corpus)) == ("manifest", 2)
    assert (first.speaker, first.transcript, first.label("age"), first.label("speaker")) == (
        "s1",
        "hello",
        31,
        "s1",
    )
    assert first.tiers["phones"] == (Span(0.0, 0.5, "hh"), Span(0.5, 0.9, "ah"))
    assert (part.id, len(part.samples())) == ("a.wav#0.25-0.75", 8_000)
    np.testing.assert_array_equal(part.samples(), first.samples()[4_000:12_000])
    assert corpus.labels("gender") == ["F", None]
    assert corpus.to_table().loc[1, "start_s"] == 0.25
    assert open_corpus(tmp_path / "manifest.jsonl").sha256() == corpus.sha256()


def test_paths_of_a_csv_manifest_can_be_relative_to_the_folder_above(tmp_path):
    write(tmp_path / "dev" / "x" / "a.wav", tone(300, seconds=0.2))
    (tmp_path / "dev" / "manifest.csv").write_text(
        "path,speaker,accent\ndev/x/a.wav,s1,Welsh\ndev/x/gone.wav,s2,\n"
    )
    corpus = open_corpus(tmp_path / "dev")
    assert corpus.utterances[0].path == tmp_path / "dev" / "x" / "a.wav"
    assert corpus.labels("accent") == ["Welsh", None]
    # A missing file is reported when it is read, not before.
    with pytest.raises(FileNotFoundError, match=r"gone\.wav"):
        corpus.utterances[1].samples()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"path": "a.wav"', "line 1: expected a JSON object"),
        ('["a.wav"]', "expected a JSON object, got list"),
        ('{"file": "a.wav"}', "expected a column `path`, got the columns file"),
        ('{"path": "a.wav", "start": "soon"}', "expected `start` in seconds, got 'soon'"),
    ],
)
def test_a_broken_manifest_names_the_line(tmp_path, line, message):
    (tmp_path / "manifest.jsonl").write_text(line)
    with pytest.raises(ValueError, match=message):
        open_corpus(tmp_path)


def test_librispeech_has_speakers_transcripts_and_conditions(tmp_path):
    folder = tmp_path / "test-other" / "367" / "130732"
    write(folder / "367-130732-0000.flac", tone(300, seconds=0.3))
    (folder / "367-130732.trans.txt").write_text(
        "367-130732-0000 LOBSTERS AND LOBSTERS\n367-130732-0001 WHEN IS A LOBSTER\n"
    )
    (tmp_path / "SPEAKERS.TXT").write_text(
        "; a comment | x\n367   | M | test-other | 8.01 | a reader\n"
    )
    for path in (tmp_path, tmp_path / "test-other"):
        first, second = open_corpus(path).utterances
        assert (first.id, first.speaker, first.transcript) == (
            "test-other/367-130732-0000",
            "367",
            "LOBSTERS AND LOBSTERS",
        )
        assert [first.label(name) for name in ("gender", "condition", "subset", "chapter")] == [
            "M",
            "other",
            "test-other",
            "130732",
        ]
        assert len(first.samples()) == 4_800
        assert not second.path.exists()  # reported when it is read


def test_common_voice_has_speakers_sentences_and_labels(tmp_path):
    write(tmp_path / "clips" / "cv_1.wav", tone(300, seconds=0.2))
    head = "client_id\tpath\tsentence\tgender\taccents\n"
    (tmp_path / "validated.tsv").write_text(
        head + 'abc\tcv_1.wav\tHe said "no.\tfemale\tWales English\n'
    )
    (tmp_path / "test.tsv").write_text(head + "abc\tcv_2.wav\tYes.\t\t\n")
    [row] = open_corpus(tmp_path).utterances
    assert (row.speaker, row.transcript, row.label("accents")) == (
        "abc",
        'He said "no.',
        "Wales English",
    )
    assert len(row.samples()) == 3_200
    assert open_corpus(tmp_path / "test.tsv").utterances[0].label("gender") is None
    (tmp_path / "reported.tsv").write_text("sentence_id\tsentence\n1\tYes.\n")
    with pytest.raises(ValueError, match=r"reported\.tsv: expected the columns .*'client_id'"):
        open_corpus(tmp_path / "reported.tsv")


@pytest.mark.parametrize("upper", [True, False])
def test_timit_has_dialects_and_alignments(tmp_path, upper):
    case = str.upper if upper else str.lower
    folder = tmp_path / case("train") / case("dr3") / case("fcke0")
    write(folder / case("sa1.wav"), tone(300, seconds=1.0))
    (folder / case("sa1.phn")).write_text("0 3200 h#\n3200 8000 sh\n8000 16000 h#\n")
    (folder / case("sa1.wrd")).write_text("3200 8000 she\n")
    (folder / case("sa1.txt")).write_text("0 16000 She had.\n")
    [row] = open_corpus(tmp_path).utterances
    assert (row.id, row.speaker, row.transcript) == ("train/dr3/fcke0/sa1", "fcke0", "She had.")
    labels = [row.label(name) for name in ("gender", "dialect_region", "dialect", "kind", "split")]
    assert labels == ["F", 3, "North Midland", "SA", "train"]
    assert row.tiers["phones"][1] == Span(0.2, 0.5, "sh")
    assert row.tiers["words"] == (Span(0.2, 0.5, "she"),)
    assert len(row.samples()) == 16_000


def test_hugging_face_needs_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install 'jaxasr\[datasets\]'"):
        open_corpus("hf:org/name@test")


def test_a_hugging_face_dataset_has_class_names(monkeypatch, tmp_path):
    class Audio:
        def __init__(self, decode: bool = True):
            self.decode = decode

    class Names:
        def int2str(self, value: int) -> str:
            return ["F", "M"][value]

    class Rows(list):
        features: ClassVar = {"audio": Audio(), "sentence": None, "client_id": None, "sex": Names()}

        def cast_column(self, name: str, kind: Audio) -> "Rows":
            assert (name, kind.decode) == ("audio", False)
            return self

    sound = {"bytes": write(tmp_path / "a.wav", tone(300, 0.2)).read_bytes(), "path": "a.wav"}
    rows = Rows(
        [
            {"audio": sound, "sentence": "Hi.", "client_id": "c", "sex": 1},
            {"audio": sound, "sentence": None, "client_id": None, "sex": 0},
        ]
    )
    requests = []
    fake = types.SimpleNamespace(
        Audio=Audio, load_dataset=lambda *names, split: requests.append((names, split)) or rows
    )
    monkeypatch.setitem(sys.modules, "datasets", fake)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: fake)
    row, unlabelled = open_corpus("hf:org/name:en@test").utterances
    assert requests == [(("org/name", "en"), "test")]
    assert (row.speaker, row.transcript, row.label("sex")) == ("c", "Hi.", "M")
    assert len(row.samples()) == 3_200
    assert (unlabelled.speaker, unlabelled.transcript) == ("", "")


def test_an_unknown_layout_lists_the_known_ones(tmp_path):
    with pytest.raises(FileNotFoundError, match="found nothing at"):
        open_corpus(tmp_path / "gone")
    with pytest.raises(
        ValueError,
        match=r"has an unknown layout.*manifest\.jsonl.*TIMIT.*LibriSpeech.*Common Voice.*hf:",
    ):
        open_corpus(tmp_path)
    (tmp_path / "manifest.jsonl").write_text("")
    with pytest.raises(ValueError, match="at least one utterance"):
        open_corpus(tmp_path)


def test_a_corpus_selects_by_label_and_refuses_duplicate_ids():
    utterances = [Utterance(f"u{i}", Path(f"u{i}"), labels={"kind": i % 2}) for i in range(3)]
    corpus = Corpus("made", "memory", tuple(utterances))
    assert [clip.id for clip in corpus.where({"kind": ["0"]}).utterances] == ["u0", "u2"]
    with pytest.raises(ValueError, match=r"no utterance.*Labels are: speaker, recording, kind"):
        corpus.where({"kind": ["7"]})
    with pytest.raises(ValueError, match=r"got 'gender'\. No utterance has this label"):
        corpus.labels("gender")
    with pytest.raises(ValueError, match="'u0' twice"):
        Corpus("made", "memory", corpus.utterances[:1] * 2)
    with pytest.raises(
        ValueError, match=r"span within the recording, got 0\.1 to 0\.9 s of 0\.500 s"
    ):
        Utterance(
            "u", Path("u"), read=lambda: tone(300, seconds=0.5), start_s=0.1, end_s=0.9
        ).samples()


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        (
            "m.jsonl",
            b'\xef\xbb\xbf{"path": "a.wav"}\n{"path": "b.wav", "start": "x"}',
            "line 2: expected `start` in seconds",
        ),
        (
            "m.jsonl",
            b'{"path": "a.wav"}\n\n{"path": "b.wav", "start": true}',
            "line 3: expected `start` in seconds",
        ),
        ("m.jsonl", b'{"path": "a.wav", "end": NaN}', "line 1: expected `end` in seconds"),
        ("m.jsonl", b'{"path": "a.wav"}\n\xff\xfe', "line 2: expected UTF-8"),
        ("m.jsonl", b'{"path": 3}', "line 1: expected text as `path`"),
        (
            "m.jsonl",
            b'{"path": "a.wav", "words": 3}',
            "line 1: expected a list of .start, end, label. as `words`",
        ),
        ("m.jsonl", b'{"path": "a.wav", "words": [[0, "x", "y"]]}', "line 1: expected a list of"),
        (
            "m.jsonl",
            b'{"path": "a.wav"}\n' + b'{"a":' * 100_000,
            "line 2: expected a JSON object, .*RecursionError",
        ),
        (
            "m.jsonl",
            b'{"path": "a.wav"}\n' + b" " * (17 << 20),
            "line 2: expected a line of at most",
        ),
        ("m.csv", b"path,label\na.wav,1\nb.wav,2,3\n", "line 3: expected 2 fields"),
        (
            "m.csv",
            b"path,label\na.wav," + b"x" * 200_000,
            "line 2: expected a row of a CSV file .field larger",
        ),
        (
            "m.csv",
            b"path,label\n\na.wav," + b"x" * 200_000,
            "line 3: expected a row of a CSV file .field larger",
        ),
        ("m.csv", b"path,label\n\xff.wav,1\n", "line 2: expected UTF-8"),
    ],
)
def test_a_malformed_manifest_names_file_and_line(tmp_path, name, data, message):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ValueError, match=rf"{name}, {message}"):
        open_corpus(tmp_path / name)


def test_a_byte_order_mark_is_skipped(tmp_path):
    (tmp_path / "m.csv").write_bytes(b"\xef\xbb\xbfpath,label\na.wav,x\n")
    (tmp_path / "m.jsonl").write_bytes(b'\xef\xbb\xbf{"path": "a.wav"}\n')
    for name in ("m.csv", "m.jsonl"):
        assert [clip.id for clip in open_corpus(tmp_path / name).utterances] == ["a.wav"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"abc\tcv_1.wav\tN\xffo.\n", r"expected UTF-8 \(invalid start byte at byte 14\)"),
        (b"abc\tcv_1.wav\t" + b"x" * 200_000 + b"\n", r"expected tab-separated text \(field lar"),
        (b"abc\tcv_1.wav\n", "expected a value for sentence"),
        (b"abc\tcv_1.wav\tNo.\tmore\n", "expected as many values as the table has columns"),
    ],
)
def test_a_malformed_common_voice_table_names_the_line(tmp_path, line, message):
    (tmp_path / "clips").mkdir()
    head = b"client_id\tpath\tsentence\n"
    rows = b"".join(b"abc\tcv_%d.wav\tYes.\n" % number for number in range(4))
    (tmp_path / "test.tsv").write_bytes(head + rows + b"\n" + line + rows)
    with pytest.raises(ValueError, match=rf"test\.tsv, line 7: {message}"):
        open_corpus(tmp_path / "test.tsv")


def test_tables_of_other_layouts_name_file_and_line(tmp_path):
    (tmp_path / "cv" / "clips").mkdir(parents=True)
    (tmp_path / "cv" / "validated.tsv").write_bytes(b"client_id\tpath\tsentence\nc\n")
    with pytest.raises(ValueError, match=r"validated\.tsv, line 2: expected a value for path"):
        open_corpus(tmp_path / "cv")
    chapter = tmp_path / "ls" / "test-clean" / "1" / "2"
    chapter.mkdir(parents=True)
    (chapter / "1-2.trans.txt").write_text("1-2-0000 GOOD\nnonsense\n")
    with pytest.raises(
        ValueError, match=r"1-2\.trans\.txt, line 2: expected SPEAKER-CHAPTER-NUMBER"
    ):
        open_corpus(tmp_path / "ls")
