"""`jaxasr scan` has one text in all parts, and ranks heads by their effect on its words."""

import json
import re

import jax.numpy as jnp
import numpy as np
import pytest
from html_outline import CHROMIUM, Outline, open_in_browser
from test_cli import DEMO, TEXT
from typer.testing import CliRunner

import interventions as iv
from experiments import cli, runtime
from experiments.analyses.lens import make_lens_page, transcribe_window
from experiments.analyses.scan import head_effects, render, segments, summary
from experiments.progress import Progress
from interventions.edits import AtCell, Zero
from interventions.generation import text_logprobs
from jaxasr.rules import Rules
from jaxasr.transcript import Word


@pytest.fixture(scope="module")
def scanned(asr, tmp_path_factory):
    """Returns the JSON that `jaxasr scan` prints, and its folder."""
    out = tmp_path_factory.mktemp("scan") / "out"
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(runtime, "load", lambda *_: asr)
        done = CliRunner().invoke(
            cli.app, ["scan", str(DEMO), "--out", str(out), "--json"], catch_exceptions=False
        )
    assert done.exit_code == 0, done.stderr
    return json.loads(done.stdout), out


def test_one_text_in_every_part(scanned):
    numbers, out = scanned
    assert numbers["text"] == TEXT
    assert " ".join(part["text"] for part in numbers["segments"]) == TEXT
    assert "".join(word["text"] for word in numbers["words"]).strip() == TEXT
    assert "".join(tops[0] for tops in numbers["logit_lens"]["candidates"][-1]).strip() == TEXT
    assert numbers["encoder_lens"][-1]["text"] == TEXT
    assert numbers["signs"]["times"] == 0
    assert sorted(path.name for path in out.iterdir()) == [
        "command.json",
        "index.html",
        "scan.json",
    ]
    assert json.loads((out / "scan.json").read_text()).keys() == numbers.keys() - {"page"}


def test_the_page_has_words_with_their_confidence_and_every_head(scanned, asr):
    numbers, out = scanned
    page = Outline((out / "index.html").read_text())
    words = [
        (a["title"], text) for a, text in page.of("span") if ", probability " in a.get("title", "")
    ]
    assert " ".join(text for _, text in words) == TEXT
    shown = [float(re.search(r"probability ([\d.]+)", title)[1]) for title, _ in words]
    np.testing.assert_allclose(
        shown, [word["probability"] for word in numbers["words"]], atol=0.006
    )
    assert len(page.of("table", **{"class": "heads"})) == 1
    assert np.shape(numbers["heads"]["change"]) == (4, 6)  # layers and heads of tiny.en
    assert numbers["confidence"]["lowest"] <= numbers["confidence"]["mean"]


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_the_page_opens_without_a_console_message(scanned, tmp_path):
    dom = open_in_browser(scanned[1] / "index.html", tmp_path)
    assert 'data-ready="yes"' in dom


def test_heads_are_ranked_and_list_the_words_they_change_most(scanned):
    heads = scanned[0]["heads"]
    changes = [row["change"] for row in heads["largest"]]
    assert changes == sorted(changes)
    assert changes[0] == np.min(heads["change"])
    assert (heads["largest"][0]["layer"], heads["largest"][0]["head"]) == (1, 2)
    assert all(word["change"] < 0 for word in heads["largest"][0]["words"])


@pytest.mark.parametrize(("with_rules"), [False, True])
def test_text_logprobs_equal_those_of_one_edit_at_a_time(tiny_model, with_rules):
    rng, config = np.random.default_rng(0), tiny_model.config
    memory, _ = tiny_model.encode(
        rng.normal(size=(2, config.n_mels, 2 * config.n_audio_ctx)).astype(np.float32)
    )
    # All tokens have odd ids, because the rules suppress even ids.
    tokens = jnp.asarray(rng.integers(1, config.n_vocab // 2, (2, 6)) * 2 - 1, jnp.int32)
    is_even = jnp.arange(config.n_vocab) % 2 == 0
    odd_ids_only = Rules(
        suppress=is_even,
        suppress_begin=jnp.zeros_like(is_even),
        max_initial=jnp.int32(0),
        timestamps=False,
        eot=config.n_vocab - 1,
        timestamp_begin=config.n_vocab,
    )
    rules = odd_ids_only if with_rules else None
    site, run = "decoder.cross_attn.z", iv.Run(memory=memory, tokens=tokens)
    cells = {
        "layer": np.array([0, 1, config.n_text_layer], np.int32),
        "head": np.array([1, 2, 0], np.int32),
    }
    logprobs = text_logprobs(
        tiny_model, run, cells, edits_of=AtCell(Zero(), site), rules=rules, prompt_len=2
    )
    assert logprobs.shape == (3, 2, 6)
    assert np.isnan(logprobs[:, :, -1]).all()
    # The same three cells as edits. The last cell's layer does not exist, so nothing is edited.
    for k, edits in enumerate(
        [
            {site: iv.only(Zero(), layers=0, heads=1)},
            {site: iv.only(Zero(), layers=1, heads=2)},
            None,
        ]
    ):
        logits = np.asarray(run.decode(tiny_model, edits)[0], np.float64)
        logits[:, :, ::2] = -np.inf if with_rules else logits[:, :, ::2]
        rows = logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True)
        expected = np.take_along_axis(rows[:, :-1], np.asarray(tokens)[:, 1:, None], -1)[..., 0]
        np.testing.assert_allclose(logprobs[k, :, :-1], expected, atol=1e-4)


def test_silence_has_a_page_too(asr):
    """The text is empty, so there are no words and no heads, and no error."""
    transcription = transcribe_window(asr, np.zeros(16_000, np.float32), Progress(quiet=True))
    page = make_lens_page(asr, transcription, "silence.wav", Progress(quiet=True), model="tiny.en")
    heads = head_effects(asr, transcription)
    assert heads.change.shape == (4, 6)
    assert np.isfinite(heads.change).all()
    assert page.encoder[-1].text == page.text
    assert "Silent recording: the largest sample is 0 of full scale." in page.signs.lines()
    assert summary(page, heads)["text"] == page.text
    assert "Cross-attention heads" in render(page, heads)


def test_segments_end_with_a_sentence_or_before_a_pause():
    def word(text: str, start: float, end: float) -> Word:
        return Word(text, start, end, 0.5, (1,))

    words = [
        word(" One", 0, 0.2),
        word(" two.", 0.2, 0.5),
        word(' "Three."', 0.6, 0.9),
        word(" four", 0.9, 1),
        word(" five", 1.5, 2),
    ]
    parts = segments(words)
    assert [part.text for part in parts] == ["One two.", '"Three."', "four", "five"]
    assert (parts[0].start, parts[0].end) == (0, 0.5)
    assert segments([]) == []
