"""One label for every encoder frame: phones, words, speaker, energy, pitch, noise.

The clock: mel frames hop 160 samples at 16 kHz, the second convolution takes every other one, so encoder frame i covers
[20 i, 20 (i + 1)) ms (`jaxasr.audio.frame_to_seconds`). A frame has the label that covers its middle. (What it hears is wider, 65 ms,
and centred at 20 i ms, where its own 20 ms begin.)
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from experiments.data.corpora import Span, Utterance
from jaxasr.audio import frame_to_seconds, n_frames
from jaxasr.config import HOP, SAMPLE_RATE, SAMPLES_PER_FRAME

KINDS = ("phone", "word", "speaker", "energy", "f0", "noise")
TIERS = {"phone": "phones", "word": "words"}
_QUIET = 1e-10  # mean square below which a frame is silent: -100 dB of full scale
_PITCH_HZ = (65.0, 400.0)  # of speech, from low male to high female voices


def frame_labels(utterance: Utterance, kind: str, frames: int | None = None) -> np.ndarray:
    """Labels of the true frames of an utterance, or of the first `frames`: text ("" is none) or numbers (NaN is none).

    "phone", "word": from its alignment. "speaker", "noise": the utterance's own, in every frame. "energy": dB of full scale.
    "f0": Hz, NaN where there is no voice. Any other kind is a label of the utterance. Raises ValueError for an alignment it lacks.
    """
    if kind in ("energy", "f0"):
        return _fitted({"energy": energy, "f0": pitch}[kind](utterance.samples()), frames)
    if kind in TIERS:
        tier = utterance.tiers.get(TIERS[kind])
        if not tier:
            have = ", ".join(utterance.tiers) or "none"
            raise ValueError(
                f"label {kind!r}: expected {utterance.id!r} to have aligned {TIERS[kind]}; it has: {have}."
            )
        return span_labels(tier, n_frames(len(utterance.samples())) if frames is None else frames)
    value = utterance.label(kind)
    n = n_frames(len(utterance.samples())) if frames is None else frames
    return np.full(n, "" if value is None else value)


def span_labels(spans: Sequence[Span], frames: int) -> np.ndarray:
    """The label of the span that covers the middle of each frame; "" where there is none, the later one where two do."""
    middles = frame_to_seconds(np.arange(frames) + 0.5)
    labels = np.full(frames, "", dtype=object)
    for span in spans:
        labels[(middles >= span.start_s) & (middles < span.end_s)] = span.label
    return labels.astype(str)


def energy(audio: Float[np.ndarray, "n"]) -> Float[np.ndarray, "T"]:
    """Mean power of each frame in dB of full scale, at least -100; the last, partly filled frame counts what it has."""
    squares = np.square(np.asarray(audio, np.float64))
    starts = np.arange(0, len(audio), SAMPLES_PER_FRAME)
    counts = np.diff(np.append(starts, len(audio)))
    return 10 * np.log10(np.maximum(np.add.reduceat(squares, starts) / counts, _QUIET))


def pitch(audio: Float[np.ndarray, "n"]) -> Float[np.ndarray, "T"]:
    """Fundamental frequency of each frame in Hz, NaN where there is no voice (librosa's pYIN, read at the middle of each frame)."""
    import librosa

    low, high = _PITCH_HZ
    f0, voiced, _ = librosa.pyin(
        np.asarray(audio, np.float32),
        fmin=low,
        fmax=high,
        sr=SAMPLE_RATE,
        frame_length=1024,
        hop_length=HOP,
    )
    # Its frame j is centred at sample 160 j; the middle of encoder frame i is sample 320 i + 160.
    centres = 2 * np.arange(n_frames(len(audio))) + 1
    centres = np.minimum(centres, len(f0) - 1)
    return np.where(voiced, f0, np.nan)[centres]


def _fitted(labels: Float[np.ndarray, "T"], frames: int | None) -> Float[np.ndarray, "T"]:
    """The first `frames`; NaN for what is not there."""
    if frames is None:
        return labels
    return np.concatenate([labels[:frames], np.full(max(0, frames - len(labels)), np.nan)])
