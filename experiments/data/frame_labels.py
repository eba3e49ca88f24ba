"""Labels of encoder frames: phones, words, speaker, energy, pitch, noise.

Mel frames hop 160 samples at 16 kHz and the second convolution takes every other one, so encoder
frame i stands for 20 i to 20 (i + 1) ms (`jaxasr.audio.frame_to_seconds`). A frame has the label at
its middle. Its receptive field is wider: 65 ms, centred at 20 i ms, where the frame begins.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Shaped

from experiments.data.corpora import Span, Utterance
from jaxasr.audio import frame_to_seconds, n_frames
from jaxasr.config import HOP, SAMPLE_RATE, SAMPLES_PER_FRAME

KINDS = ("phone", "word", "speaker", "energy", "f0", "noise")
TIERS = {"phone": "phones", "word": "words"}
_SILENCE = 1e-10  # smallest mean square: -100 dB of full scale
_PITCH_HZ = (65.0, 400.0)  # from low male to high female voices


def frame_labels(
    utterance: Utterance, kind: str, frames: int | None = None
) -> Shaped[np.ndarray, "T"]:
    """Labels the frames of an utterance.

    Args:
        utterance: the recording.
        kind: "phone" or "word", from its alignment; "energy", in dB of full scale; "f0", in Hz, NaN
            without voicing; else a label of the utterance, the same in every frame.
        frames: number of frames; None: those of the recording, without padding.

    Returns:
        Texts ("" where there is no label) or numbers (NaN where there is none).

    Raises:
        ValueError: the utterance has no such alignment.
    """
    if kind in ("energy", "f0"):
        values = {"energy": energy, "f0": pitch}[kind](utterance.samples())
        return _fit_length(values, frames)
    n = n_frames(len(utterance.samples())) if frames is None else frames
    if kind in TIERS:
        return span_labels(_tier(utterance, kind), n)
    value = utterance.label(kind)
    return np.full(n, "" if value is None else value)


def _tier(utterance: Utterance, kind: str) -> Sequence[Span]:
    tier = utterance.tiers.get(TIERS[kind])
    if not tier:
        tiers = ", ".join(utterance.tiers) or "none"
        raise ValueError(
            f"label {kind!r}: expected {utterance.id!r} to have aligned {TIERS[kind]}; "
            f"it has: {tiers}."
        )
    return tier


def span_labels(spans: Sequence[Span], frames: int) -> Shaped[np.ndarray, "T"]:
    """Labels each frame by the span that covers its middle.

    Args:
        spans: labelled stretches; of overlapping ones the last counts.
        frames: number of frames.

    Returns:
        Texts; "" where there is no span.

    Example:
        >>> span_labels([Span(0.0, 0.04, "s"), Span(0.04, 0.1, "iy")], 3).tolist()
        ['s', 's', 'iy']
    """
    middles = frame_to_seconds(np.arange(frames) + 0.5)
    labels = np.full(frames, "", dtype=object)
    for span in spans:
        labels[(middles >= span.start_s) & (middles < span.end_s)] = span.label
    return labels.astype(str)


def energy(audio: Float[np.ndarray, "n"]) -> Float[np.ndarray, "T"]:
    """Computes the mean power of each frame in dB of full scale, at least -100.

    The mean of the last frame is over the samples that it has.
    """
    squares = np.square(np.asarray(audio, np.float64))
    starts = np.arange(0, len(audio), SAMPLES_PER_FRAME)
    counts = np.diff(np.append(starts, len(audio)))
    return 10 * np.log10(np.maximum(np.add.reduceat(squares, starts) / counts, _SILENCE))


def pitch(audio: Float[np.ndarray, "n"]) -> Float[np.ndarray, "T"]:
    """Computes the fundamental frequency of each frame in Hz, NaN without voicing.

    Source: librosa's pYIN, at the middle of each frame.
    """
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
    # Frame j of pYIN is centred at sample 160 j; the middle of encoder frame i is 320 i + 160.
    centres = np.minimum(2 * np.arange(n_frames(len(audio))) + 1, len(f0) - 1)
    return np.where(voiced, f0, np.nan)[centres]


def _fit_length(labels: Float[np.ndarray, "T"], frames: int | None) -> Float[np.ndarray, "T"]:
    """Cuts labels to `frames`, or fills them up with NaN."""
    if frames is None:
        return labels
    return np.concatenate([labels[:frames], np.full(max(0, frames - len(labels)), np.nan)])
