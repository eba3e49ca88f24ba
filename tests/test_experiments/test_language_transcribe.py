"""The command `jaxasr transcribe` accepts an audio language model; others name those that do."""

import json

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

from experiments import cli
from jaxasr.language.toy import write_toy


def test_a_recording_is_transcribed_on_the_command_line(tmp_path):
    folder = write_toy(tmp_path / "toy")
    sound = np.random.default_rng(0).normal(size=40_000) / 20
    soundfile.write(tmp_path / "noise.wav", sound, 16_000)
    arguments = ["transcribe", str(tmp_path / "noise.wav"), "--model", str(folder), "--json"]
    done = CliRunner().invoke(cli.app, [*arguments, "--language", "de"])
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    parts = [*result["segments"], *result["silences"]]
    assert {(part["start"], part["end"]) for part in parts} == {(0.0, 2.0), (2.0, 2.5)}
    assert result["language"] == "de"
    assert result["provenance"]["model"]["name"] == "toy"
    done = CliRunner().invoke(cli.app, [*arguments, "--words"])
    assert done.exit_code == 2
    assert "word_timestamps: not supported by an audio language model" in done.output


@pytest.mark.parametrize(
    "arguments",
    [
        ["lens", "a.wav"],
        ["scan", "a.wav"],
        ["patch", "a.wav", "--source", "noise", "--site", "decoder.attn.z"],
        ["align", "a.wav", "--text", "m.jsonl"],
        ["loops", "m.jsonl", "--clean", "m.jsonl"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_commands_for_cross_attention_expect_a_whisper(tmp_path, monkeypatch, arguments):
    monkeypatch.chdir(tmp_path)
    soundfile.write("a.wav", np.random.default_rng(0).normal(size=16_000) / 20, 16_000)
    (tmp_path / "m.jsonl").write_text(
        json.dumps({"path": "a.wav", "id": "a", "speaker": "one", "transcript": "a word"})
    )
    output = [] if arguments[0] == "align" else ["--out", "out"]
    model = ["--model", str(write_toy(tmp_path / "toy"))]
    done = CliRunner().invoke(cli.app, [*arguments, *model, *output])
    assert done.exit_code == 2, done.output
    message = "--model: expected a Whisper, got "
    assert message in " ".join(done.output.split())
