"""The bench for accelerators runs on a CPU, and a section that fails costs only itself."""

import json
import subprocess
import sys
import time

import pytest
from typer.testing import CliRunner

from experiments.bench import accelerator, accelerator_sections


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize(
    ("section", "names"),
    [
        ("machine", {"library", "tflops"}),
        ("probes", {"first_s", "fits_per_s"}),
        ("decoder_sweep", {"first_s", "cells_per_s"}),
    ],
)
def test_a_dry_run_gives_figures_with_their_origin(section, names, tmp_path):
    out = tmp_path / "figures.jsonl"
    command = [sys.executable, "-m", "experiments.bench", "accelerator", "--size", "tiny"]
    command += ["--section", section, "--out", str(out), "--budget-s", "300", "--alone"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=360, check=False)
    assert done.returncode == 0, done.stderr
    *figures, last = read(out)
    assert last["section"] == section
    assert 0 < last["took_s"] < 300
    for figure in figures:
        assert figure["section"] == section
        assert {"device", "date", "commit", "versions", "size", "dtype"} <= figure.keys()
        assert figure["versions"]["jax"]
    assert figures[0].keys() >= names
    assert f"section {section}" in done.stdout


def job(tmp_path):
    return {
        "size": "tiny",
        "dtype": "float32",
        "alone": True,
        "folder": str(tmp_path),
        "out": str(tmp_path / "figures.jsonl"),
    }


def test_a_section_that_fails_leaves_a_line(tmp_path, capfd):
    assert not accelerator.run_section("no such section", job(tmp_path), 120)
    [line] = read(tmp_path / "figures.jsonl")
    assert line["error"] == "ended with code 1"
    assert "KeyError" in capfd.readouterr().err


def test_a_section_is_stopped_after_its_time(tmp_path):
    start = time.perf_counter()
    assert not accelerator.run_section("machine", job(tmp_path), 1.0)
    assert time.perf_counter() - start < 30
    assert read(tmp_path / "figures.jsonl")[-1]["error"] == "stopped after 1 s"


def test_time_that_a_section_leaves_goes_to_the_later_ones(tmp_path, monkeypatch):
    limits = {}

    def run_section(name, job, limit):
        limits[name] = limit
        return name != "attention"

    monkeypatch.setattr(accelerator, "run_section", run_section)
    app = accelerator.typer.Typer()
    app.command()(accelerator.main)
    options = ["--size", "tiny", "--budget-s", "360", "--out", str(tmp_path / "figures.jsonl")]
    done = CliRunner().invoke(app, options)
    assert done.exit_code == 1
    assert list(limits) == list(accelerator.SECTIONS)
    assert limits["machine"] == pytest.approx(
        360 * 25 / sum(accelerator.SECTIONS.values()), rel=0.01
    )
    # No section took any time, so the last one may take all of it.
    assert limits["capture"] == pytest.approx(360, rel=0.01)


def test_unknown_sizes_and_sections_are_refused():
    app = accelerator.typer.Typer()
    app.command()(accelerator.main)
    for options in (["--size", "small"], ["--section", "atention"]):
        done = CliRunner().invoke(app, options)
        assert done.exit_code == 2
        assert "expected one of" in done.output


@pytest.mark.filterwarnings("ignore:.*found no tokenizer")
def test_random_weights_are_those_of_the_size(tmp_path):
    prepared = accelerator_sections.prepare(job(tmp_path))
    from experiments.bench import models

    model = models.jax_model(prepared)
    assert model.config.n_audio_state == 384
    assert float(abs(model.decoder.blocks.mlp.fc1.kernel).max()) < 0.2
    assert float(model.decoder.ln.scale.min()) == 1
    assert prepared["tokens"][: len(prepared["prompt"])] == prepared["prompt"]
