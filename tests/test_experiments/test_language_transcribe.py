"""The command `jaxasr transcribe` accepts an audio language model."""

import json

import numpy as np
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
