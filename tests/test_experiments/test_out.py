"""Recordings, options and --out are checked before the model is loaded."""

import json
import os
from pathlib import Path

import pytest
import soundfile
from small_speech import tone
from typer.testing import CliRunner

from experiments import cli, runtime
from experiments.commands import output
from experiments.commands.transcript_folders import choose_folders

PATCH_OPTIONS = ("--source", "zero", "--site", "decoder.cross_attn.z", "--over", "layer,head")
# Every command that reads a recording, with its other arguments.
EACH_COMMAND = pytest.mark.parametrize(
    "command",
    [
        ("transcribe",),
        ("lens", "--out", "o"),
        ("patch", "--out", "o", *PATCH_OPTIONS),
        ("scan", "--out", "o"),
    ],
)


def run_command(*arguments: object, code: int):
    done = CliRunner().invoke(cli.app, [str(argument) for argument in arguments])
    assert done.exit_code == code, (done.output, done.exception)
    return done


@pytest.fixture
def no_model(monkeypatch):
    """Fails the test if a model is loaded."""
    monkeypatch.setattr(runtime, "load", lambda *_: pytest.fail("the model was loaded"))


@pytest.fixture
def recordings(tmp_path):
    """Makes recordings a/x.wav and b/x.wav, which differ, an empty file, and a text file."""
    for name, hz in (("a/x.wav", 300), ("b/x.wav", 500)):
        (tmp_path / name).parent.mkdir()
        soundfile.write(tmp_path / name, tone(hz, seconds=0.3, seed=0), 16_000)
    (tmp_path / "empty.wav").touch()
    (tmp_path / "text.wav").write_text("no sound " * 100)
    return tmp_path


@EACH_COMMAND
@pytest.mark.parametrize(
    ("name", "message"),
    [("none.wav", "none.wav: no such file"), (".", "a folder"), ("empty.wav", "an empty file")],
)
def test_a_missing_file_is_refused_before_jax_starts(
    recordings, no_model, monkeypatch, command, name, message
):
    monkeypatch.setattr(runtime, "start", lambda *_: pytest.fail("JAX was started"))
    done = run_command(command[0], recordings / name, *command[1:], code=2)
    assert message in done.stderr


@EACH_COMMAND
def test_a_pipe_is_refused_rather_than_read(recordings, no_model, command):
    os.mkfifo(recordings / "pipe")
    assert (
        "pipe: expected a file, got a pipe"
        in run_command(command[0], recordings / "pipe", *command[1:], code=2).stderr
    )


@EACH_COMMAND
def test_a_file_without_sound_is_refused_before_the_model_loads(recordings, no_model, command):
    assert (
        "text.wav" in run_command(command[0], recordings / "text.wav", *command[1:], code=2).stderr
    )


@pytest.mark.parametrize(("change", "message"), [
    (["--site", "decoder.cross.z"], "Did you mean 'decoder.cross_attn.z'"),
    (["--over", "frame"], "--over: expected some of layer, head"),
    (["--over", "layer,time"], "--over: 'time' is "),
    (["--metric", "wer"], "--metric: expected, without --sequence, one of logit_diff"),
    (["--source", "nois"], "--source: expected a file, noise, silence"),
    (["--source", "snr:loud"], "--source: expected a file, noise, silence"),
    (["--source", "resample"], "--source: resample takes activations of another TARGET"),
    (["--window", "0.001"], "--window: expected at least one frame, 0.02 s, got 0.001 s"),
    (["--language", "Klingon"], "language: expected a code or an English name"),
])  # fmt: skip
def test_options_of_patch_are_checked_before_the_model_loads(recordings, no_model, change, message):
    options = dict(zip(PATCH_OPTIONS[::2], PATCH_OPTIONS[1::2])) | dict([change])
    arguments = [part for pair in options.items() for part in pair]
    done = run_command(
        "patch", recordings / "a/x.wav", "--out", recordings / "out", *arguments, code=2
    )
    assert message in done.stderr
    assert not (recordings / "out").exists()


@EACH_COMMAND
def test_languages_are_checked_before_jax_starts(recordings, no_model, monkeypatch, command):
    monkeypatch.setattr(runtime, "start", lambda *_: pytest.fail("JAX was started"))
    done = run_command(
        command[0], recordings / "a/x.wav", *command[1:], "--language", "German", code=2
    )
    assert "--language German: tiny.en is English-only. Use a multilingual model" in done.stderr
    done = run_command(
        command[0],
        recordings / "a/x.wav",
        *command[1:],
        "--language",
        "Klingon",
        "--model",
        "tiny",
        code=2,
    )
    assert "language: expected a code or an English name, got 'Klingon'" in done.stderr


@pytest.mark.parametrize(("change", "message"), [
    (["--label", "sex"], "'sex' with values in people.csv. It has the columns speaker,"),
    (["--group", "singer"], "--group: no column 'singer' with values in people.csv."),
    (["--types", "kind"], "--types: no column 'kind'"),
    (["--label", "phone"], "--label: no column 'phone'"),
    (["--site", "encoder.resid"], "--site: 'encoder.resid' is not a site"),
    (["--pool", "middle"], "--pool: expected speech, audio, all"),
    (["--target", "number"], "--target: expected class or value"),
    (["--target", "value"], "expected numbers for --target value"),
    (["--text", "spoken"], "--text: expected greedy or transcript"),
    (["--where", "accent=US"], "speaker, recording, gender"),
    (["--penalty", "-1"], "--penalty: expected numbers of at least 0, got -1"),
    (["--group", "speaker", "--folds", "3"], "2 groups cannot be split into 3 folds"),
])  # fmt: skip
def test_questions_that_the_manifest_cannot_answer_are_refused(
    recordings, no_model, change, message
):
    rows = [
        f"{name}/x.wav,s{name},{gender}"
        for name, gender in (("a", "F"), ("b", "M"))
        for _ in range(1)
    ]
    spans = [f"{row},{start},{start + 0.1}" for row in rows for start in (0.0, 0.1, 0.2)]
    (recordings / "people.csv").write_text(
        "path,speaker,gender,start,end\n" + "\n".join(spans) + "\n"
    )
    options = {"--label": "gender", "--folds": "2"} | dict(zip(change[::2], change[1::2]))
    done = run_command(
        "probe",
        recordings / "people.csv",
        "--out",
        recordings / "p",
        *[part for pair in options.items() for part in pair],
        code=2,
    )
    assert message in " ".join(done.stderr.split())
    assert not (recordings / "p").exists()


def test_a_manifest_without_its_recordings_is_refused(recordings, no_model):
    (recordings / "m.csv").write_text("path,gender\ngone.wav,F\nlost.wav,M\n")
    done = run_command(
        "probe", recordings / "m.csv", "--label", "gender", "--out", recordings / "p", code=2
    )
    assert "expected recordings, found none of its 2" in done.stderr


@pytest.mark.parametrize(
    "command", [("lens",), ("patch", *PATCH_OPTIONS), ("scan",), ("transcribe",)]
)
def test_a_file_as_out_is_refused_at_once(recordings, no_model, monkeypatch, command):
    monkeypatch.setattr(runtime, "start", lambda *_: pytest.fail("JAX was started"))
    (recordings / "note.txt").write_text("mine")
    for out in (recordings / "note.txt", recordings / "note.txt" / "below"):
        done = run_command(command[0], recordings / "a/x.wav", *command[1:], "--out", out, code=2)
        assert "note.txt is a file" in done.stderr
    assert (recordings / "note.txt").read_text() == "mine"


def test_a_folder_that_cannot_be_written_to_is_refused_at_once(recordings, no_model, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: path != recordings.absolute())
    done = run_command(
        "lens", recordings / "a/x.wav", "--out", recordings / "new" / "below", code=2
    )
    assert f"no permission to write into {recordings}" in done.stderr


def test_only_the_same_command_and_input_may_replace_files(recordings):
    def open_output(recording: str, overwrite: bool = False, **options):
        description = output.describe_origin(
            "patch", [recordings / recording], "tiny.en", **options
        )
        files = dict.fromkeys(("index.html", "cells"), description)
        return output.open_output(recordings / "heads", files, overwrite)

    with open_output("a/x.wav", site="z").writing():
        pass
    open_output(
        "b/x.wav", site="z"
    )  # the folder has only the record of the command, so no file is lost
    with open_output("a/x.wav", site="z").writing() as new:
        (new / "index.html").write_text("one")
    open_output("a/x.wav", site="z")
    with pytest.raises(
        ValueError,
        match=r"holds index.html from x.wav with other content.* Use --overwrite, or another",
    ):
        open_output("b/x.wav", site="z")
    (recordings / "a/x.wav").rename(recordings / "a/y.wav")
    with pytest.raises(
        ValueError, match=r"holds index.html from x.wav, not from the present y.wav"
    ):
        open_output("a/y.wav", site="z")
    (recordings / "a/y.wav").rename(recordings / "a/x.wav")
    with pytest.raises(ValueError, match="made with site 'z', not 'q'"):
        open_output("a/x.wav", site="q")
    (recordings / "heads" / "cells").mkdir()
    assert (
        open_output("b/x.wav", overwrite=True, site="z").prepare_folder("cells")
        == recordings / "heads/cells"
    )
    assert not (recordings / "heads" / "cells").exists()
    (
        recordings / "heads" / "cells"
    ).mkdir()  # a folder of an interrupted run, which the same command continues
    open_output("b/x.wav", overwrite=True, site="z").prepare_folder("cells")
    assert (recordings / "heads" / "cells").exists()
    with pytest.raises(RuntimeError), open_output("b/x.wav", overwrite=True, site="z").writing():
        raise RuntimeError
    open_output("a/x.wav", site="z", overwrite=True)
    with open_output("b/x.wav", overwrite=True, site="z").writing() as new:
        (new / "index.html").write_text("two")
    open_output("b/x.wav", site="z")
    (recordings / "heads" / output.RECORD).write_text("damaged")
    with pytest.raises(ValueError, match="made by another program or by an earlier version"):
        open_output("b/x.wav", site="z")


@pytest.mark.parametrize("command", [("lens",), ("patch", *PATCH_OPTIONS), ("scan",)])
def test_a_folder_of_another_recording_is_refused_before_jax_starts(
    recordings, no_model, monkeypatch, command
):
    monkeypatch.setattr(runtime, "start", lambda *_: pytest.fail("JAX was started"))
    (recordings / "out").mkdir()
    (recordings / "out" / "index.html").write_text("mine")
    done = run_command(
        command[0], recordings / "a/x.wav", *command[1:], "--out", recordings / "out", code=2
    )
    assert "holds index.html" in done.stderr
    assert "Use --overwrite, or another folder" in done.stderr
    assert (recordings / "out" / "index.html").read_text() == "mine"


def test_transcripts_of_equal_names_have_separate_folders(recordings, monkeypatch, asr):
    monkeypatch.setattr(runtime, "load", lambda *_: asr)
    out = recordings / "o"
    run_command("transcribe", recordings / "a/x.wav", recordings / "b/x.wav", "--out", out, code=0)
    texts = sorted(str(path.relative_to(out)) for path in out.rglob("x*"))
    assert texts == ["a/x.wav.json", "a/x.wav.txt", "b/x.wav.json", "b/x.wav.txt"]
    assert json.loads((out / "b/x.wav.json").read_text())["audio"].endswith("b/x.wav")
    run_command("transcribe", recordings / "a/x.wav", "--out", out / "a", code=0)  # the same again
    monkeypatch.setattr(runtime, "load", lambda *_: pytest.fail("the model was loaded"))
    done = run_command("transcribe", recordings / "b/x.wav", "--out", out / "a", code=2)
    assert "holds x.wav.txt from x.wav with other content" in done.stderr


@pytest.mark.parametrize(("names", "places"), [
    (["a/x.wav", "a/x.mp3"], ["o", "o"]),  # names of output files include the suffix
    (["a/x.wav", "b/x.wav", "b/y.wav"], ["o/a", "o/b", "o/b"]),
    (["a/x.wav", "x.wav"], ["o/a", "o"]),
    (["a/x.wav", "b/X.WAV"], ["o/a", "o/b"]),
])  # fmt: skip
def test_recordings_of_equal_names_have_separate_folders(names, places):
    assert [
        str(place) for place in choose_folders(Path("o"), [Path(name) for name in names]).values()
    ] == places


def test_a_recording_given_twice_is_refused():
    with pytest.raises(ValueError, match=r"b/\.\./a/x\.wav: given twice"):
        choose_folders(Path("o"), [Path("a/x.wav"), Path("b/../a/x.wav")])
