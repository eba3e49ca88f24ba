"""`jaxasr patch` on a real recording writes files, a page and a ranking; errors are one line."""

import json
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from html_outline import CHROMIUM, open_in_browser
from small_speech import small_recogniser
from typer.testing import CliRunner

import experiments
import jaxasr
from experiments import cli
from experiments.analyses import patch_texts
from experiments.analyses.patch_question import PatchQuestion
from experiments.pages import patch_page
from interventions.stats.summary import summarize
from interventions.storage.results import load_result

DEMO = str(Path(experiments.__file__).parent / "assets" / "demo.flac")
run = CliRunner().invoke


def run_patch(out: Path, *options: str) -> dict:
    done = run(
        cli.app, ["patch", DEMO, "--out", str(out), "--json", *options], catch_exceptions=False
    )
    assert done.exit_code == 0, done.stderr
    return json.loads(done.stdout) | {"stderr": done.stderr}


@pytest.fixture(scope="module")
def heads(tmp_path_factory):
    """Sweeps all cross-attention heads, with silence as the source. Returns the folder and JSON."""
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
    return out, run_patch(out, *options, "--tokens", "30")


def test_one_token_is_scored_in_every_cell(heads):
    out, numbers = heads
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
    assert numbers["scored"] == "logit(' letter') - logit(' book') after 'The captain read the old'"
    assert "24 cells of 1 example(s)" in numbers["stderr"]
    assert numbers["provenance"]["model"]["sha256"].startswith("1a5afae0")
    result = load_result(out / "result.zarr")
    assert result.value.sizes == {"example": 1, "layer": 4, "head": 6}
    assert result.source.item() < result.baseline.item()
    change = (result.value - result.baseline)[0]
    np.testing.assert_allclose(numbers["summary"]["mean"], change, atol=1e-6)
    ranking = [abs(cell["mean"]) for cell in numbers["cells"]]
    assert ranking == sorted(ranking, reverse=True)
    assert len(ranking) == 24
    assert json.loads((out / "result.json").read_text()).keys() == numbers.keys() - {
        "page",
        "stderr",
    }


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_the_page_opens_without_a_console_message(heads, tmp_path):
    dom = open_in_browser(heads[0] / "index.html", tmp_path)
    assert "decoder.cross_attn.z" in dom
    assert dom.count("<audio") == 2


def test_texts_under_patches_are_loaded_from_the_store(tmp_path):
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
    first = run_patch(tmp_path, *options)
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "cells").iterdir()}
    assert len(kept) == 4
    assert run_patch(tmp_path, *options)["cells"] == first["cells"]
    assert kept == {path: path.stat().st_mtime_ns for path in (tmp_path / "cells").iterdir()}
    result = load_result(tmp_path / "result.zarr")
    assert str(result.baseline_text[0].item()).startswith("The captain read the old letter")
    assert float(result["mean"].max()) > 0.1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--site", "decoder.cross_attn.y"], "Did you mean 'decoder.cross_attn."),
        (["--over", "frame"], "--over: expected some of layer, head"),
        (["--source", "loud"], "--source: expected a file, noise, silence"),
        (["--source", "resample"], "only one is given"),
        (["--alpha", "0;1"], "--alpha: expected numbers"),
        (["--metric", "wer"], "--metric: expected, without --sequence, one of logit_diff"),
        (["--answer", "whale"], "--answer: 'whale' is not in the text"),
    ],
)
def test_errors_are_one_line(tmp_path, change, message):
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
    assert message in done.stderr.splitlines()[-1]


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


def result_of(changes: list[float]) -> dict:
    """Builds the content of result.json for a sweep over heads, with one change per head."""
    values = xr.DataArray(np.array([changes]), dims=("example", "head"))
    values = values.assign_coords(head=np.arange(len(changes)))
    result = xr.Dataset(
        {"resolved": values, "baseline_resolved": ("example", [0.0]), "text": values.astype(str)}
    )
    summary = summarize(result, "resolved")
    return {
        "scored": "resolved against the unpatched text",
        "metric": "resolved",
        "cells": patch_page.rank_cells(summary, result[["text"]]),
        "n_tied": patch_page.count_tied(summary),
        "n_examples": 1,
        "summary": {"mean": summary["mean"].values},
    }


def test_the_ranking_names_ties_and_how_many_cells_are_left_out():
    numbers = result_of([0.0] * 6 + [1.0] * 18)
    lines = patch_page.ranking_lines(numbers, Path("heads"), shorten=True)
    assert lines[1] == "Change of the share of loops that end, largest first (12 of 24 cells):"
    assert all("+1.000" in line for line in lines[2:14])
    assert lines[14] == "  … 12 more cells, all in heads/result.zarr"
    assert (
        lines[15]
        == "  The first 18 cells have changes of the same size, so their order is arbitrary."
    )
    assert len(patch_page.ranking_lines(numbers, Path("heads"), shorten=False)) == 2 + 24 + 1


def test_the_mean_of_an_encoder_site_excludes_padding():
    asr, lengths = small_recogniser(), np.array([40, 70])
    mel = np.random.default_rng(0).normal(size=(2, 80, 3000)).astype(np.float32)
    for site, per_frame in (("encoder.resid_post", 1), ("encoder.conv1", 2)):
        memory, acts = asr.model.encode(mel, readout=jaxasr.select(site))
        targets = patch_texts._Targets(mel, memory, np.zeros((2, 1), int), [[], []], lengths)
        question = PatchQuestion(site, ("layer",), "mean", "resolved", sequence=True)
        mean = patch_texts._mean_activation(asr, targets, question)
        rows = [acts[site][..., b, : per_frame * n, :] for b, n in enumerate(lengths)]
        expected = np.concatenate(rows, -2).mean(-2)
        np.testing.assert_allclose(np.squeeze(mean), np.squeeze(expected), rtol=1e-4, atol=1e-5)
