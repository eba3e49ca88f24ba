"""`jaxasr patch` on a real recording: files, page, numbers, errors."""

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
from html_outline import CHROMIUM
from typer.testing import CliRunner

import experiments
from experiments import cli
from interventions.storage.results import load_result

DEMO = str(Path(experiments.__file__).parent / "assets" / "demo.flac")
run = CliRunner().invoke


def patched(out: Path, *options: str) -> dict:
    done = run(
        cli.app, ["patch", DEMO, "--out", str(out), "--json", *options], catch_exceptions=False
    )
    assert done.exit_code == 0, done.stderr
    return json.loads(done.stdout) | {"stderr": done.stderr}


@pytest.fixture(scope="module")
def heads(tmp_path_factory):
    """The folder and the JSON of a sweep over the heads that listen, silence in their place."""
    out = tmp_path_factory.mktemp("patch") / "heads"
    options = (
        "--source",
        "silence",
        "--site",
        "decoder.cross_attn.z",
        "--over",
        "layer,head",
        "--metric",
        "logit_diff:letter,book",
    )
    return out, patched(out, *options, "--tokens", "30")


def test_one_token(heads):
    out, found = heads
    names = {path.name for path in out.iterdir()}
    assert names == {
        "index.html",
        "figure.png",
        "figure.svg",
        "result.json",
        "result.zarr",
        "cells",
        "command.json",
    }
    assert found["scored"] == "logit(' letter') - logit(' book') after 'The captain read the old'"
    assert "24 cells of 1 example(s)" in found["stderr"]
    assert found["provenance"]["model"]["sha256"].startswith("1a5afae0")
    kept = load_result(out / "result.zarr")
    assert kept.value.sizes == {"example": 1, "layer": 4, "head": 6}
    assert kept.source.item() < kept.baseline.item()
    np.testing.assert_allclose(found["summary"]["mean"], (kept.value - kept.baseline)[0], atol=1e-6)
    assert json.loads((out / "result.json").read_text()).keys() == found.keys() - {"page", "stderr"}


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_the_page_opens_without_a_console_message(heads, tmp_path):
    options = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--enable-logging=stderr",
        "--v=0",
        f"--user-data-dir={tmp_path}/profile",
    ]
    command = [
        CHROMIUM,
        *options,
        "--virtual-time-budget=2000",
        "--dump-dom",
        (heads[0] / "index.html").as_uri(),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert not [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    assert "decoder.cross_attn.z" in done.stdout
    assert done.stdout.count("<audio") == 2


def test_texts_under_patches_and_again_from_what_is_kept(tmp_path):
    options = (
        "--source",
        "zero",
        "--site",
        "decoder.cross_attn_out",
        "--sequence",
        "--tokens",
        "30",
        "--over",
        "layer",
    )
    first = patched(tmp_path, *options)
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "cells").iterdir()}
    assert len(kept) == 4
    assert patched(tmp_path, *options)["cells"] == first["cells"]
    assert kept == {path: path.stat().st_mtime_ns for path in (tmp_path / "cells").iterdir()}
    result = load_result(tmp_path / "result.zarr")
    assert str(result.baseline_text[0].item()).startswith("The captain read the old letter")
    assert float(result["mean"].max()) > 0.1


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (["--site", "decoder.cross_attn.y"], "Did you mean 'decoder.cross_attn."),
        (["--over", "frame"], "'frame' is no dimension of a sweep"),
        (["--source", "loud"], "source: expected noise, zero"),
        (["--source", "resample"], "there is one"),
        (["--alpha", "0;1"], "--alpha: expected numbers"),
        (["--metric", "wer"], "--metric: expected, without --sequence, one of logit_diff"),
        (["--answer", "whale"], "--answer: 'whale' is not in the text"),
    ],
)
def test_errors_are_one_line(tmp_path, change, said):
    base = {"--source": "zero", "--site": "decoder.attn.z", "--over": "layer"} | dict([change])
    done = run(
        cli.app,
        [
            "patch",
            DEMO,
            "--out",
            str(tmp_path / "out"),
            *[part for pair in base.items() for part in pair],
        ],
    )
    assert done.exit_code == 2
    assert said in done.stderr.splitlines()[-1]


def test_a_missing_file_is_named(tmp_path):
    done = run(
        cli.app,
        [
            "patch",
            "none.wav",
            "--out",
            str(tmp_path),
            "--source",
            "zero",
            "--site",
            "decoder.attn.z",
        ],
    )
    assert done.exit_code == 2
    assert "none.wav" in done.stderr
