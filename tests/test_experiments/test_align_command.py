"""`jaxasr align` prints the word times of a given text."""

import functools
import json

import pytest
from typer.testing import CliRunner

import jaxasr
from experiments import cli
from experiments.commands.align import read_text
from experiments.data import real_speech

# The words of the demo recording.
TEXT = (
    "The captain read the old letter aloud, and nobody knew whether to believe a word of it. "
    "By morning, the sea was quiet again."
)
run = CliRunner().invoke


@functools.cache
def aligned():
    """Aligns the same text in Python, to compare with the command."""
    return jaxasr.load("tiny.en").align(real_speech.DEMO, TEXT)


def split_lines(text):
    return text.replace(", and", ",\nand").replace(". By", ".\nBy") + "\n"


def test_the_table_has_a_row_for_each_word(tmp_path):
    (tmp_path / "text.txt").write_text("\ufeff" + split_lines(TEXT), encoding="utf-8")
    result = run(cli.app, ["align", str(real_speech.DEMO), "--text", str(tmp_path / "text.txt")])
    assert result.exit_code == 0, result.output
    rows = [line.split() for line in result.stdout.splitlines()]
    assert rows[0] == ["start", "end", "prob", "word"]
    assert [row[3] for row in rows[1:]] == TEXT.split()
    assert float(rows[2][0]) == pytest.approx(aligned()[1].start)


def test_subtitles_have_a_cue_for_each_line():
    result = run(
        cli.app,
        ["align", str(real_speech.DEMO), "--text", "-", "--format", "srt"],
        input=split_lines(TEXT),
    )
    cues = [cue.splitlines() for cue in result.stdout.strip().split("\n\n")]
    assert [cue[2] for cue in cues] == split_lines(TEXT).splitlines()
    assert [cue[0] for cue in cues] == [str(i + 1) for i in range(len(cues))]


def test_json_has_a_segment_for_each_line_and_the_heads():
    result = run(
        cli.app,
        ["align", str(real_speech.DEMO), "--text", "-", "--json", "--heads", "3.2 1.5"],
        input=split_lines(TEXT),
    )
    output = json.loads(result.stdout)
    assert [segment["text"] for segment in output["segments"]] == split_lines(TEXT).splitlines()
    assert [
        "".join(w["text"] for w in segment["words"]).strip() for segment in output["segments"]
    ] == split_lines(TEXT).splitlines()
    assert output["heads"] == [[3, 2], [1, 5]]
    assert output["provenance"]["model"]["name"] == "tiny.en"


def test_control_characters_of_the_text_file_do_not_reach_the_terminal(tmp_path):
    (tmp_path / "text.txt").write_text("The captain\x1b[2J read\x07\n", encoding="utf-8")
    assert read_text(tmp_path / "text.txt").split() == ["The", "captain", "[2J", "read"]


@pytest.mark.parametrize(
    ("arguments", "text", "message"),
    [
        (["--text", "missing.txt"], "", "--text missing.txt: no such file"),
        (["--text", "-"], " \n", "--text standard input: expected words"),
        (["--text", "-"], b"caf\xe9", "expected UTF-8, got byte 0xe9 at 3"),
        (
            ["--text", "-", "--heads", "best"],
            "words",
            "--heads best: expected official, chosen, all or a list",
        ),
        (["--text", "-", "--heads", "1.x"], "words", "--heads 1.x: expected"),
        (
            ["--text", "-", "--heads", "9.0"],
            "words",
            r"heads: expected (layer, head) pairs within 4 layers",
        ),
    ],
)
def test_errors_name_the_option(arguments, text, message):
    result = run(cli.app, ["align", str(real_speech.DEMO), *arguments], input=text)
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())
