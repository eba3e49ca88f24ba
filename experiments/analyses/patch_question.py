"""Describes the experiment of `jaxasr patch` and its result. The import does not load JAX."""

import dataclasses
import re
from pathlib import Path
from typing import TYPE_CHECKING

from experiments.site_names import check_site

if TYPE_CHECKING:
    import numpy as np
    import xarray as xr
    from jaxtyping import Float

DIMENSIONS = ("layer", "head", "position", "time", "alpha")
TOKEN_METRICS = ("logit_diff", "logprob", "kl", "rank")
# Metrics of generated texts. "resolved" is 1 if the patch stops a loop, else 0.
TEXT_METRICS = (
    "wer",
    "cer",
    "insertions",
    "repeat_span",
    "loop",
    "resolved",
    "length",
    "no_speech_prob",
    "avg_logprob",
)
MAX_NEW_TOKENS = 224  # most tokens per text; Whisper's default, half of the decoder's context
FRAME_S = 0.02  # seconds per encoder frame

# Sources that are not files.
_NUMBER = r"[-+]?\d*\.?\d+"
_SOURCE = re.compile(
    rf"zero|mean|noise|silence|resample(:\d+)?|snr:{_NUMBER}"
    rf"|(bandstop|mask):\d*\.?\d+-\d*\.?\d+"
)


@dataclasses.dataclass(frozen=True)
class PatchQuestion:
    """A patching experiment, as the options of `jaxasr patch` describe it.

    Attributes:
        site: site that is patched.
        over: dimensions of the grid, each one of `DIMENSIONS`.
        source: where patches are taken from: "zero", "mean", "resample[:SEED]", a corruption of the
            target such as "snr:0", or a file.
        metric: one of `TOKEN_METRICS`, or with `sequence` one of `TEXT_METRICS`.
        sequence: True to generate whole texts, False to score one token.
        text: words before the scored token, or with `sequence` the reference text. "": the text
            that the model generates.
        answer: the scored word. "": with `text`, the likeliest word after it. Without `text`, the
            word whose probability a source recording changes most; for other sources, the last one.
        foil: the word that logit_diff compares with the answer. "": the likeliest other word,
            under the source if it is a recording, else under the target.
        alphas: strengths of the patch. 0 is the target's activation, and 1 the source's. (): the
            patch replaces the activation.
        window_s: seconds per window of the dimension "time".
        language: language of the speech, as a code or English name. None: English.
        seed: seed of noise.
        new_tokens: most tokens per text.

    Raises:
        ValueError: an option has a value that no model supports.

    Example:
        >>> PatchQuestion("decoder.mlp_out", ("layer",), source="zero", metric="logprob").dims
        ('layer',)
    """

    site: str
    over: tuple[str, ...]
    source: str
    metric: str
    sequence: bool = False
    text: str = ""
    answer: str = ""
    foil: str = ""
    alphas: tuple[float, ...] = ()
    window_s: float = 0.5
    language: str | None = None
    seed: int = 0
    new_tokens: int = MAX_NEW_TOKENS

    def __post_init__(self) -> None:
        check_site(self.site)
        for dim in self.over:
            if dim not in DIMENSIONS:
                raise ValueError(f"--over: expected some of {', '.join(DIMENSIONS)}, got {dim!r}.")
        metrics = TEXT_METRICS if self.sequence else TOKEN_METRICS
        if self.metric not in metrics:
            when = "with" if self.sequence else "without"
            raise ValueError(
                f"--metric: expected, {when} --sequence, one of {', '.join(metrics)}, "
                f"got {self.metric!r}."
            )
        if not _SOURCE.fullmatch(self.source) and not Path(self.source).is_file():
            raise ValueError(
                "--source: expected a file, noise, silence, snr:DB, bandstop:LOW-HIGH, "
                f"mask:START-STOP, zero, mean or resample[:SEED], got {self.source!r}."
            )
        # A window is rounded to whole frames.
        if round(self.window_s / FRAME_S) < 1:
            raise ValueError(
                f"--window: expected at least one frame, {FRAME_S:g} s, got {self.window_s:g} s."
            )

    def check_targets(self, n_targets: int) -> None:
        """Raises ValueError if the source or the metric does not allow this number of targets."""
        if self.resamples and n_targets < 2:
            raise ValueError(
                "--source: resample takes activations of another TARGET, but only one is given. "
                "Give two or more recordings."
            )
        if n_targets > 1 and not self.sequence and not self.text:
            raise ValueError(
                "--text: several recordings need the same words before the scored token. "
                "Give them with --text."
            )

    @property
    def resamples(self) -> bool:
        """Whether patches are taken from another target."""
        return self.source.partition(":")[0] == "resample"

    @property
    def dims(self) -> tuple[str, ...]:
        """Dimensions of the grid: `over`, and "alpha" if there are strengths."""
        return self.over if not self.alphas or "alpha" in self.over else (*self.over, "alpha")


@dataclasses.dataclass(frozen=True)
class PatchAnswer:
    """The result of a patching experiment, with its labels.

    Attributes:
        result: metric of each cell, as `sweep` or `sequence_sweep` returns it.
        plan: description of what was computed.
        scored: description of what was measured.
        texts: for each recording the words before the scored token, or the unpatched text.
        source_sound: the first recording that patches were taken from. None if patches were not
            taken from recordings.
        words: words of the first target, each with its start and end in seconds. () if "time" is
            not a dimension.
    """

    result: "xr.DataArray | xr.Dataset"
    plan: str
    scored: str
    texts: "list[str]"
    source_sound: "Float[np.ndarray, 'n'] | None" = None
    words: "tuple[tuple[str, float, float], ...]" = ()
