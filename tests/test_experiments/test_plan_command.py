"""`jaxasr plan` prints plans as tables and JSON, and its errors are one line."""

import json
import re

import pytest
from test_cli import plain_words
from typer.testing import CliRunner

import jaxasr
from experiments import cli
from experiments.commands import plan
from interventions import planning

run = CliRunner().invoke
ENCODE = ["plan", "encode", "--model", "tiny", "--device", "h100"]


@pytest.mark.parametrize("name", plan.COMMANDS)
def test_help_ends_with_an_example_that_has_known_options(name):
    done = run(cli.app, ["plan", name, "--help"])
    assert done.exit_code == 0
    text, _, example = plain_words(done.output).rpartition("Example:")
    assert example.strip() == plan.COMMANDS[name][1]
    assert example.strip().startswith(f"jaxasr plan {name}")
    assert all(option in text for option in re.findall(r"--[a-z-]+", example))


def test_json_has_the_numbers_of_the_plan():
    done = run(cli.app, [*ENCODE, "--windows", "3", "--json"])
    assert done.exit_code == 0, done.output
    config = jaxasr.SIZES["tiny"].replace(dtype="bfloat16", param_dtype="bfloat16")
    expected = planning.plan_encode(config, planning.find_device("h100"), 3)
    printed = json.loads(done.output)
    assert printed["flops_per_device"] == expected.flops
    assert printed["seconds"] == pytest.approx(expected.seconds)
    assert [program["name"] for program in printed["programs"]] == ["encode"]


def test_a_table_lists_programs_and_the_sums():
    done = run(cli.app, ENCODE)
    assert done.exit_code == 0, done.output
    assert "encode 1 windows, on h100 (1 device)" in done.output
    assert re.search(r"encode +1 +0.0405 +\S+ MB", done.output)
    assert "of 85.9 GB, not known whether it fits" in done.output
    assert "at the peak of the device" in done.output


def test_a_sweep_and_its_estimate_are_planned():
    site = ["--site", "decoder.cross_attn.z", "--over", "layer,head", "--tokens", "5"]
    options = ["--model", "tiny", "--device", "cpu", *site, "--json"]
    sweep, estimate = (
        json.loads(run(cli.app, ["plan", "patch", *options, *more]).output)
        for more in ([], ["--estimate"])
    )
    assert any("24 cells" in note for note in sweep["notes"])
    assert "resumed_decoder_cells" in {program["name"] for program in sweep["programs"]}
    assert "_estimate" in {program["name"] for program in estimate["programs"]}
    assert sweep["seconds"] is None


def test_audio_language_models_are_planned_on_one_card():
    options = ["--model", "qwen2-audio-7b", "--device", "h100", "--windows", "2", "--json"]
    done = run(cli.app, ["plan", "generate", *options])
    assert done.exit_code == 0, done.output
    printed = json.loads(done.output)
    weights = 2 * 8_397_094_912  # bytes of its parameters
    assert all(program["argument_bytes"] > weights for program in printed["programs"])
    assert printed["peak_bytes_per_device"] < 1.01 * weights


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--device", "tpu"], "--device tpu: expected"),
        (["--device", "cpu", "--model", "huge"], "--model huge: expected one of tiny,"),
        (["--device", "cpu", "--model-axis", "8"], "--model-axis 8: expected 1, because cpu"),
    ],
)
def test_errors_are_one_line(arguments, message):
    done = run(cli.app, ["plan", "encode", *arguments])
    assert done.exit_code == 2
    assert done.stderr.startswith(f"jaxasr: {message}")
    assert done.stderr.count("\n") == 1
