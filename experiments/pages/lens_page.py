"""One recording under both lenses, as one HTML file that opens from disk and loads nothing.

Axis letters: L layers, T tokens, K candidates, M mel bins, F mel frames.
"""

import base64
import dataclasses
import hashlib
import itertools
import math
from importlib import resources
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from experiments.pages.data_uris import audio_uri, mel_uri
from interventions.storage.text_files import plain
from jaxasr.config import SAMPLE_RATE
from jaxasr.transcript import Word

SHADES = 10  # background steps of the table, from LOWEST to probability 1
LOWEST = math.log(1e-3)  # natural log-probability of the palest cell
_MIN_PX, _MAX_PX, _CHAR_PX, _PAD_PX = 34, 92, 7.4, 14
_INAUDIBLE = 1e-3  # of full scale: -60 dB
_LONG = 8  # characters of a candidate that may widen its column


@dataclasses.dataclass(frozen=True)
class LogitTable:
    """What every decoder layer would say at every generated token.

    `times` holds start and end of each token's word in seconds, NaN where unknown; `rank` counts from 0;
    `saturation` is the earliest layer from which the top candidate stays the final token, L where even the last layer has another.
    """

    tokens: tuple[str, ...]
    times: Float[np.ndarray, "T 2"]
    candidates: tuple[tuple[tuple[str, ...], ...], ...]  # [L][T][K]
    logprobs: Float[np.ndarray, "L T K"]
    rank: Int[np.ndarray, "L T"]
    logprob: Float[np.ndarray, "L T"]
    saturation: Int[np.ndarray, "T"]


@dataclasses.dataclass(frozen=True)
class EncoderRow:
    """What the decoder writes when it listens to one encoder layer: its text, mean log-probability a token, and kind (`categories`)."""

    text: str
    logprob: float
    category: str


@dataclasses.dataclass(frozen=True)
class Signs:
    """What shows that a text may be no transcript of speech.

    Attributes:
        loop: the text that repeats back to back, "" where none does (`interventions.generation.transcripts.longest_loop`).
        times: how often it stands there.
        compression_ratio: of the text; above 2.4 Whisper takes it for a repetition.
        no_speech_prob: probability of <|nospeech|>.
        avg_logprob: mean log-probability of the text's tokens and its end (natural logarithm).
        silent: by the last two, Whisper takes the window for silence, and `transcribe` leaves it out.
        ended: whether the end of the text was generated; if not, it was cut off.
        peak: the largest sample, as a share of full scale. Of digital silence Whisper generates a word or two, such as "you".
    """

    loop: str
    times: int
    compression_ratio: float
    no_speech_prob: float
    avg_logprob: float
    silent: bool
    ended: bool
    peak: float

    def lines(self) -> list[str]:
        """The signs that apply, as sentences."""
        silence = f"no-speech probability {self.no_speech_prob:.2f}, mean log-probability {self.avg_logprob:.2f}"
        repetition = f"Compression ratio {self.compression_ratio:.1f}: above 2.4 Whisper takes a text for a repetition."
        found = {
            f"Loop: “{self.loop}” {self.times} times in a row.": self.times > 0,
            "Cut off: the text reached the largest number of tokens without an end.": not self.ended,
            f"No speech: {silence}. By Whisper’s thresholds this is silence; jaxasr transcribe leaves it out.": self.silent,
            f"Silent recording: the largest sample is {self.peak:.1g} of full scale.": self.peak
            < _INAUDIBLE,
            repetition: self.compression_ratio > 2.4,
        }
        return [line for line, applies in found.items() if applies]


@dataclasses.dataclass(frozen=True)
class LensPage:
    """Everything the page shows: `audio` is 16 kHz mono, `mel` covers just its length."""

    model: str
    source: str
    text: str
    language: str  # code
    audio: Float[np.ndarray, "n"]
    mel: Float[np.ndarray, "M F"]
    logit: LogitTable
    encoder: tuple[EncoderRow, ...]
    words: tuple[Word, ...]
    signs: Signs
    provenance: dict[str, Any]

    @property
    def seconds(self) -> float:
        return len(self.audio) / SAMPLE_RATE


def render(page: LensPage, name: str = "lens.html", **more: Any) -> str:
    """The HTML file, from the template `name`, which may show `more`.

    All text is escaped; a content security policy forbids every load and every script but the page's own.
    """
    script = template("lens.js")
    columns = _columns(
        page.logit.tokens, [_column_px(page.logit, t) for t in range(len(page.logit.tokens))]
    )
    return (
        environment()
        .get_template(name)
        .render(
            **more,
            page=page,
            policy=_policy(script),
            style=template("lens.css"),
            script=script,
            audio=audio_uri(page.audio),
            mel=mel_uri(page.mel),
            columns=columns,
            links=_links(page.logit, columns, page.seconds),
            width=_width(columns),
            seconds_ticks=range(math.floor(page.seconds) + 1),
            rows=_rows(page.logit),
            data=plain({**_cells(page.logit), "seconds": page.seconds}),
            provenance=flat(page.provenance),
            shades=SHADES,
            mean_saturation=float(np.mean(page.logit.saturation))
            if len(page.logit.tokens)
            else math.nan,
        )
    )


def summary(page: LensPage) -> dict[str, Any]:
    """What the page shows without sound and picture, as plain values for JSON."""
    return plain(
        {
            "model": page.model,
            "source": page.source,
            "seconds": page.seconds,
            "text": page.text,
            "language": page.language,
            "logit_lens": dataclasses.asdict(page.logit),
            "encoder_lens": [dataclasses.asdict(row) for row in page.encoder],
            "words": [dataclasses.asdict(word) for word in page.words],
            "signs": dataclasses.asdict(page.signs),
            "provenance": page.provenance,
        }
    )


def _columns(tokens: tuple[str, ...], widths: list[int]) -> list[dict[str, Any]]:
    """Per token: its text and the place of its column, in pixels from the left edge of the first one."""
    lefts = itertools.accumulate(widths, initial=0)
    return [
        {"token": token, "left": left, "width": width}
        for token, left, width in zip(tokens, lefts, widths)
    ]


def _links(
    table: LogitTable, columns: list[dict[str, Any]], seconds: float
) -> list[dict[str, Any]]:
    """Per run of tokens said at one time (a word): those tokens, and from where on the spectrogram to which columns, in pixels."""
    scale = _width(columns) / seconds
    links = []
    for (start, end), run in itertools.groupby(
        range(len(columns)), key=lambda t: tuple(table.times[t])
    ):
        if math.isfinite(start) and math.isfinite(end):
            tokens = list(run)
            right = columns[tokens[-1]]["left"] + columns[tokens[-1]]["width"]
            links.append(
                {
                    "tokens": tokens,
                    "span": (start * scale, end * scale),
                    "columns": (columns[tokens[0]]["left"] + 1, right - 1),
                }
            )
    return links


def _column_px(table: LogitTable, t: int) -> int:
    longest = max(
        len(table.tokens[t]), *(min(len(layer[t][0]), _LONG) for layer in table.candidates), 0
    )
    return round(min(max(longest * _CHAR_PX + _PAD_PX, _MIN_PX), _MAX_PX))


def _width(columns: list[dict[str, Any]]) -> int:
    return columns[-1]["left"] + columns[-1]["width"] if columns else 0


def _rows(table: LogitTable) -> list[list[dict[str, Any]]]:
    """Cells as the table shows them: top candidate, its shade, and whether the token saturates here."""
    return [
        [
            {
                "text": tops[0],
                "shade": _shade(logprobs[0]),
                "saturated": layer == saturation,
                "final": rank == 0,
            }
            for tops, logprobs, saturation, rank in zip(*cells, table.saturation, table.rank[layer])
        ]
        for layer, cells in enumerate(zip(table.candidates, table.logprobs))
    ]


def _shade(logprob: float) -> int:
    share = 1 - min(max(float(logprob), LOWEST), 0) / LOWEST
    return min(int(share * SHADES), SHADES - 1)


def _cells(table: LogitTable) -> dict[str, Any]:
    """What the script needs for the card of a cell."""
    percent = np.round(100 * np.exp(np.asarray(table.logprobs, float)), 2)
    own = np.round(100 * np.exp(np.asarray(table.logprob, float)), 4)
    times = np.round(np.asarray(table.times, float), 3)
    return {
        "tokens": table.tokens,
        "times": times,
        "top": table.candidates,
        "percent": percent,
        "rank": table.rank,
        "own": own,
    }


def flat(values: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested provenance as rows of (dotted key, text)."""
    rows = []
    for key, value in values.items():
        rows += (
            flat(value, f"{prefix}{key}.")
            if isinstance(value, dict)
            else [(f"{prefix}{key}", str(value))]
        )
    return rows


def _policy(script: str) -> str:
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return f"default-src 'none'; img-src data:; media-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"


def template(name: str) -> str:
    """The text of a file of `experiments/pages/templates`."""
    return (
        resources.files("experiments")
        .joinpath("pages", "templates", name)
        .read_text(encoding="utf-8")
    )


def environment() -> Any:
    """Jinja with these templates: everything is escaped, and what is not defined is an error."""
    import jinja2

    settings = {
        "autoescape": True,
        "undefined": jinja2.StrictUndefined,
        "trim_blocks": True,
        "lstrip_blocks": True,
    }
    made = jinja2.Environment(loader=jinja2.FunctionLoader(template), **settings)
    made.filters["shown"] = _shown
    return made


def _shown(token: str) -> str:
    """A token with what is invisible in it made visible."""
    return token.replace(" ", "·").replace("\n", "↵").replace("\t", "⇥") or "∅"
