"""Computes the rates of study B3 and judges its claims. Its recordings are held out."""

import numpy as np
import xarray as xr

from experiments.studies.claims import SECONDARY, Claim, Finding
from experiments.studies.evidence import interval_evidence, mean_evidence, share_evidence
from experiments.studies.hallucination_edits import EDIT_TITLES
from experiments.studies.pair_evidence import with_width
from interventions.stats import share_interval
from interventions.stats.roc import auroc_interval

# Default thresholds of openai/whisper.
NO_SPEECH_THRESHOLD = 0.6  # probability that there is no speech
LOGPROB_THRESHOLD = -1.0  # mean natural-log probability per token
COMPRESSION_THRESHOLD = 2.4  # compression ratio of the text
MARGIN = 0.02  # largest rise of the word error rate that counts as no cost
# With fewer clean recordings, an edit that ruins one recording in fifty would often seem harmless.
MIN_CLEAN = 100
_CALM_WHISPER = "not asked; Calm-Whisper: over 75 % fewer by training 3 heads"


def _edit_claims(name: str, title: str) -> dict[str, Claim]:
    """Makes the claims that an edit prevents hallucinations, and that it spares clean speech."""
    return {
        f"{name}_fewer": Claim(
            f"Fewer recordings without speech get words under the edit: {title}",
            _CALM_WHISPER if name == "mask" else "not asked",
            "share of held-out recordings without speech that get words without the edit, minus "
            "the share with it; before any filter",
            least=0.25,
            unit="%",
            units="sources",
            family=SECONDARY,
            floor="Whisper's filter without an edit: the share of texts that it rejects",
        ),
        f"{name}_cheap": Claim(
            f"Clean speech is transcribed as well as before under the edit: {title}",
            "not asked",
            "change of the word error rate of held-out clean recordings; rates above 1 count as 1",
            null=MARGIN,
            least=MARGIN,
            side="below",
            unit="%",
            units="speakers",
            family=SECONDARY,
        ),
    }


CLAIMS = {
    "filter": Claim(
        "Whisper's filter rejects hallucinated texts more often than texts of clean speech",
        "not asked; the thresholds are openai/whisper's",
        "without an edit, area under the ROC curve of the filter's decisions: texts of recordings "
        "without speech against texts of clean speech",
        null=0.5,
        least=0.6,
        units="sources and speakers",
        family=SECONDARY,
    )
}
for _name, _title in EDIT_TITLES.items():
    CLAIMS |= _edit_claims(_name, _title)


def is_filtered(arrays: xr.Dataset) -> xr.DataArray:
    """Marks texts that openai/whisper would drop as silence or decode again as repetitive."""
    seems_silent = arrays.no_speech_prob > NO_SPEECH_THRESHOLD
    is_unsure = arrays.avg_logprob < LOGPROB_THRESHOLD
    return (seems_silent & is_unsure) | (arrays.compression_ratio > COMPRESSION_THRESHOLD)


def hallucination_rates(arrays: xr.Dataset) -> dict[str, xr.DataArray]:
    """Computes three rates per recording and condition.

    Returns:
        Arrays [example, condition] by name.
        `raw`: 1 if a recording without speech gets words, else 0.
        `filtered`: 1 if a recording without speech gets words that pass Whisper's filter, else 0.
        `wer`: word error rate of clean speech, at most 1.
        All rates are NaN for an edit that cannot be made.
    """
    without_speech, clean = (
        arrays.isel(example=np.flatnonzero(arrays.recording.values == kind))
        for kind in ("nonspeech", "clean")
    )
    insertions = without_speech.insertions
    raw = (insertions > 0).astype(float).where(insertions.notnull())
    return {
        "raw": raw,
        "filtered": raw * ~is_filtered(without_speech),
        "wer": np.minimum(clean.wer, 1),
    }


def judge_cost(claim: Claim, cost: xr.DataArray, seed: int) -> Finding:
    """Tests whether the mean change of the word error rate is below `MARGIN`."""
    if cost.size < MIN_CLEAN:
        reason = f"{cost.size} clean recordings; at least {MIN_CLEAN} are needed for this claim"
        return claim.judge(None, reason)
    return claim.judge_mean(cost.values, seed, clusters=cost.source.values, bounds=(-1.0, 1.0))


def share_changed(cost: np.ndarray) -> dict[str, float]:
    """Returns the share of recordings with another word error rate, and its exact upper end."""
    if not cost.size:
        return {}
    share, _, high, n = share_interval(int((cost != 0).sum()), cost.size)
    return {"share": round(share, 4), "high": round(high, 4), "n": n}


def judge_filter(baseline: xr.Dataset, seed: int) -> Finding:
    """Tests whether the filter rejects hallucinated texts more often than texts of speech."""
    has_text = (baseline.recording.values == "clean") | (baseline.insertions.values > 0)
    texts = baseline.isel(example=np.flatnonzero(has_text))
    is_nonspeech = texts.recording.values == "nonspeech"
    if is_nonspeech.all() or not is_nonspeech.any():
        return CLAIMS["filter"].judge(None, "texts of one kind of recording only")
    rejected = is_filtered(texts).values.astype(float)
    area = auroc_interval(rejected, is_nonspeech, texts.source.values, seed=seed)
    return CLAIMS["filter"].judge(interval_evidence(with_width(area), CLAIMS["filter"].null))


def rate_interval(values: xr.DataArray, seed: int) -> list[float]:
    """Returns a mean rate of `hallucination_rates` and both ends of its interval.

    Args:
        values: [example], rates of one condition.
        seed: seed of the bootstrap.

    Returns:
        Three numbers; [] for fewer than two sources with a rate. The interval of a share of
        independent recordings is exact.
    """
    x, sources = values.values, values.source.values
    known = np.isfinite(x)
    if len(set(sources[known])) < 2:
        return []
    if np.isin(x[known], (0, 1)).all():
        mean = share_evidence(x, sources, null=0.5)
    else:
        mean = mean_evidence(x, sources, bounds=(0.0, 1.0), seed=seed)
    return [round(float(number), 4) for number in (mean.value, mean.low, mean.high)]
