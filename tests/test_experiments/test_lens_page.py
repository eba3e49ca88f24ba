"""The lens page shows every value, escapes texts, loads nothing, and opens without an error."""

import base64
import io
import json
import re

import numpy as np
import pytest
from fake_page import CANDIDATES, LAYERS, SECONDS, TOKENS, fake_page, fake_table
from html_outline import CHROMIUM, Outline, open_in_browser

from experiments.pages import lens_page as pages
from experiments.pages.lens_page import render, summary


@pytest.fixture(scope="module")
def outline() -> Outline:
    """Parses the fake page. `outline.of(tag)` lists the (attributes, text) of its elements."""
    return Outline(render(fake_page()))


def test_table_has_a_cell_for_every_layer_and_token(outline):
    cells = outline.of("td")
    assert len(cells) == LAYERS * len(TOKENS)
    assert [text for _, text in cells[-len(TOKENS) :]] == [
        "·a",
        "·<script>alert(1)</script>",
        "↵",
        "·b&",
        "∅",
    ]
    saturated = [i for i, (a, _) in enumerate(cells) if "sat" in a["class"].split()]
    assert saturated == sorted(
        layer * len(TOKENS) + t for t, layer in enumerate(fake_table().saturation)
    )


def test_words_stand_under_the_spectrogram_where_their_time_is_known(outline):
    spans = [a for a, _ in outline.of("span") if "data-from" in a]
    assert [a["data-from"] for a in spans] == ["0", "1", "2", "3"]
    assert spans[1]["style"] == "left:20.000%;width:20.000%"
    table = fake_table()
    table.times[1:3] = table.times[1], table.times[1]
    spans = Outline(render(fake_page(logit=table))).of("span")
    tokens = [(a["data-from"], a["data-to"]) for a, _ in spans if "data-from" in a]
    assert tokens == [("0", "0"), ("1", "2"), ("3", "3")]


def test_a_long_text_wraps_and_keeps_the_time_scale():
    """The width of the spectrogram depends only on the recording, and tables fit the page."""
    tokens = tuple(f" word{i}" for i in range(200))
    page = Outline(render(fake_page(logit=fake_table(tokens=tokens))))
    tables = [attributes for attributes, _ in page.of("table")]
    widths = [int(re.search(r"(\d+)px", table["style"])[1]) for table in tables]
    assert len(tables) > 5
    assert max(widths) <= pages.BLOCK_PX
    assert min(widths) > 0.8 * max(widths)
    headers = [a["data-t"] for a, _ in page.of("th") if "data-t" in a]
    assert headers == [str(t) for t in range(200)]
    [(band, _)] = page.of("div", **{"class": "band"})
    assert band["style"] == f"--seconds:{SECONDS:.3f}"


def test_the_page_suggests_next_steps_and_explains_its_numbers():
    text = " ".join(render(fake_page()).split())
    assert "jaxasr lens my-recording.wav --out my-lens" in text
    assert "log-probability per token" in text
    assert "Lower layers are often empty, because" in text


def test_long_encoder_texts_fold(outline):
    assert [text for a, text in outline.of("span") if a.get("class", "").startswith("kind")] == [
        "empty",
        "loop",
        "correct",
    ]
    assert len(outline.of("details")) == 2  # the loop and the provenance


def test_cards_have_the_values_of_every_cell(outline):
    [(_, text)] = outline.of("script", id="data")
    data = json.loads(text)
    assert np.shape(data["percent"]) == (LAYERS, len(TOKENS), CANDIDATES)
    assert data["times"][-1] == [None, None]
    assert data["tokens"] == list(TOKENS)


def test_text_is_never_markup(outline):
    assert len(outline.of("script")) == 2
    assert all("class" in a for a, _ in outline.of("b"))
    assert len(outline.of("img")) == 1
    assert [text for _, text in outline.of("h1")] == ["a <script>alert(1)</script> \"b\" & 'c'"]


def test_the_page_loads_nothing(outline):
    sources = [
        a[key]
        for _, a, _ in outline.elements
        for key in ("src", "href", "srcset", "action", "poster")
        if key in a
    ]
    assert sources
    assert all(source.startswith("data:") for source in sources)
    assert not outline.of("link")
    assert not re.search(r"https?://|url\(|@import|fetch\(|XMLHttpRequest", render(fake_page()))
    [(policy, _)] = [
        (a, t) for a, t in outline.of("meta") if a.get("http-equiv") == "Content-Security-Policy"
    ]
    assert policy["content"].startswith("default-src 'none'")


def test_audio_and_spectrogram_survive_the_round_trip(outline):
    import soundfile
    from PIL import Image

    page = fake_page()
    [(a, _)] = outline.of("audio")
    audio, rate = soundfile.read(io.BytesIO(base64.b64decode(a["src"].split(",")[1])))
    assert rate == 16_000
    np.testing.assert_allclose(audio, page.audio, atol=1 / 32_000)
    [(a, _)] = outline.of("img")
    assert (
        Image.open(io.BytesIO(base64.b64decode(a["src"].split(",")[1]))).size
        == page.mel.shape[::-1]
    )


def test_an_empty_text_has_a_page_too():
    empty = fake_table(tokens=())
    text = render(fake_page(logit=empty, text="", encoder=()))
    assert "(no text)" in text
    assert 'lang="de"' in text
    assert not Outline(text).of("td")


@pytest.mark.parametrize(
    ("logprob", "shade"),
    [(0.0, 9), (-np.inf, 0), (np.log(1e-3), 0), (np.log(1e-3) / 2, 5), (1e-7, 9)],
)
def test_shade_is_even_in_log_probability(logprob, shade):
    assert pages._choose_shade(logprob) == shade


def test_summary_is_strict_json():
    value = json.loads(json.dumps(summary(fake_page()), allow_nan=False))
    assert value["seconds"] == SECONDS
    assert value["logit_lens"]["times"][-1] == [None, None]
    assert value["encoder_lens"][1]["category"] == "loop"


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_opens_in_a_browser_without_a_console_message(tmp_path):
    (tmp_path / "page.html").write_text(render(fake_page()), encoding="utf-8")
    dom = open_in_browser(tmp_path / "page.html", tmp_path)
    assert 'data-ready="yes"' in dom  # the script ran to its end
