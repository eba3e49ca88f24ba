"""`jaxasr info` describes audio language models without their weights."""

import json

from test_cli import plain_words
from typer.testing import CliRunner

from experiments import cli
from experiments.commands.info import describe

run = CliRunner().invoke


def test_info_counts_the_prefix_of_an_audio_language_model():
    options = ["--json", "--batch", "2", "--tokens", "5", "--dtype", "bfloat16"]
    description = json.loads(run(cli.app, ["info", "qwen2-audio-7b", *options]).stdout)
    assert description["n_parameters"] == 8_397_094_912
    shapes = {row["site"]: row["shape"] for row in description["sites"]}
    assert shapes["encoder.project"] == [2, 750, 4096]
    assert shapes["decoder.mlp.up"] == [32, 2, 5, 11_008]
    assert not any("cross" in site for site in shapes)
    assert description["prefix"] == {
        "audio_tokens": 750,
        "bytes": 2 * 2 * 750 * 4096,
        "cache_bytes": 2 * 393_216_000,  # 32 layers of keys and values of 32 heads
    }
    assert describe("tiny.en", 1, 1)["prefix"] is None


def test_info_prints_the_prefix_and_the_heads_of_keys():
    done = run(cli.app, ["info", "voxtral-mini-3b", "--dtype", "bfloat16"])
    assert done.exit_code == 0
    printed = plain_words(done.stdout)
    assert "prefix 375 audio tokens per window of 30 s, 2.3 MB; their keys and values" in printed
    assert "32 heads (8 of keys and values)" in printed
