"""Progress, interruptions and explanations go to standard error. Tables in a log are complete."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np

from experiments.progress import Progress


def test_an_interruption_is_one_line(tmp_path):
    """SIGINT during a study leads to exit status 130 and one line on how to continue."""
    # The child handles SIGINT again, because a background job of a shell ignores it.
    code = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "import time, experiments.runtime as r\n"
        "def start(device, distributed):\n    print('started', flush=True); time.sleep(60)\n"
        "r.start = start\nfrom experiments.cli import app; app()"
    )
    command = [sys.executable, "-c", code, "reproduce", "E7", "--out", str(tmp_path)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        assert process.stdout.readline() == "started\n"
        os.kill(process.pid, signal.SIGINT)
        _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert stderr.splitlines()[-1] == "jaxasr: stopped; run the same command again to continue."


def test_progress_without_a_terminal_is_printed_as_lines(capsys, monkeypatch):
    monkeypatch.setattr("experiments.progress.LINE_INTERVAL_S", 0.0)
    with Progress().bar("E7 [x]") as progress:
        for done in range(3):
            progress(done, 2)
    lines = capsys.readouterr().err.splitlines()
    assert [line.split() for line in lines[:2]] == [
        ["0", "of", "2", "E7", "[x]"],
        ["1", "of", "2", "E7", "[x]"],
    ]
    assert len(lines) == 3


def test_progress_is_not_printed_at_every_step(capsys):
    with Progress().bar("many") as progress:
        for done in range(1000):
            progress(done, 1000)
    assert len(capsys.readouterr().err.splitlines()) == 2


def test_the_table_of_probes_is_complete_in_a_log(capsys):
    from experiments.commands.probe import _print_result

    names = [
        "layer",
        "penalty",
        "accuracy",
        "low",
        "high",
        "folds_sd",
        "shuffled",
        "majority",
        "mel",
        "embed",
        "balanced",
    ]
    row = dict.fromkeys(names, 0.123456)
    _print_result(
        {"classes": {"a": 1}, "rows": 1, "left_out": {"rows": {}}, "table": [row]}, json=False
    )
    printed = capsys.readouterr().out
    assert all(name in printed for name in names)
    assert "…" not in printed
    assert np.isclose(float(printed.split()[-1]), 0.123)


def test_transcribe_explains_a_missing_text(capsys):
    from experiments.commands.transcribe import _explain_windows_without_text

    numbers = {"no_speech_prob": 0.876, "avg_logprob": -1.234}
    silences = [
        {"start": 0, "end": 3.7, "left_out": True},
        {"start": 30, "end": 31, "left_out": False},
    ]
    _explain_windows_without_text(
        Path("x.wav"), {"silences": [silence | numbers for silence in silences]}
    )
    printed = capsys.readouterr()
    assert printed.out == ""
    probabilities = "no-speech probability 0.88, mean log-probability -1.23"
    assert printed.err.splitlines() == [
        f"x.wav: 0.00 to 3.70 s: left out as silence ({probabilities}).",
        f"x.wav: 30.00 to 31.00 s: the model generated no text ({probabilities}).",
    ]
