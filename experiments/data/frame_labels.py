"""Labels encoder frames with phones, words, energy, pitch, or a label of the utterance.

A mel frame begins every 160 samples at 16 kHz, and the second convolution halves the frame rate.
Encoder frame i therefore covers 20 i to 20 (i + 1) ms. A frame gets the label at its middle. The
receptive field of the frame is wider (65 ms), and centred at 20 i ms, where the frame begins.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Shaped

from experiments.data.corpora import Span, Utterance
from experiments.data.corpora.utterance import TIER_OF_KIND
from jaxasr.audio import frame_to_seconds, n_frames
from jaxasr.config import HOP, SAMPLE_RATE, SAMPLES_PER_FRAME

_MIN_POWER = 1e-10  # least mean square: -100 dB of full scale, so that silence has a finite energy
_PITCH_HZ = (65.0, 400.0)  # lowest and highest pitch, for low male to high female voices


def frame_labels(
    utterance: Utterance, kind: str, frames: int | None = None
) -> Shaped[np.ndarray, "T"]:
    """Labels the frames of an utterance.

    Args:
        utterance: the recording.
        kind: "phone" or "word" from the alignment, "energy" in dB of full scale, or "f0" in Hz. Any
            other kind is a label of the utterance. All frames share its value.
        frames: number of frames. None: the frames of the recording, without padding.

    Returns:
        Texts or numbers. A frame without a label has "" or NaN.

    Raises:
        ValueError: the utterance has no alignment of phones or words.

    Example:
        >>> clip = Utterance("a", "a.wav", read=lambda: np.zeros(960), labels={"noise": "snr:10"})
        >>> frame_labels(clip, "noise").tolist()
        ['snr:10', 'snr:10', 'snr:10']
    """
    if kind in ("energy", "f0"):
        values = {"energy": energy, "f0": pitch}[kind](utterance.samples())
        return _fit_length(values, frames)
    n = n_frames(len(utterance.samples())) if frames is None else frames
    if kind in TIER_OF_KIND:
        return span_labels(_aligned_spans(utterance, kind), n)
    value = utterance.label(kind)
    return np.full(n, "" if value is None else value)


def _aligned_spans(utterance: Utterance, kind: str) -> Sequence[Span]:
    spans = utterance.tiers.get(TIER_OF_KIND[kind])
    if not spans:
        tiers = ", ".join(utterance.tiers) or "none"
        raise ValueError(
            f"label {kind!r}: expected {utterance.id!r} to have aligned {TIER_OF_KIND[kind]}; "
            f"it has: {tiers}."
        )
    return spans


def span_labels(spans: Sequence[Span], frames: int) -> Shaped[np.ndarray, "T"]:
    """Labels each frame by the span that covers its middle.

    Args:
        spans: labelled parts of an utterance. Where they overlap, the last one counts.
        frames: number of frames.

    Returns:
        Texts. A frame without a span has "".

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

    The last frame may have fewer samples.

    Example:
        >>> energy(np.full(320, 0.1)).round().tolist()
        [-20.0]
    """
    squares = np.square(np.asarray(audio, np.float64))
    starts = np.arange(0, len(audio), SAMPLES_PER_FRAME)
    counts = np.diff(np.append(starts, len(audio)))
    # `reduceat` sums the squares from each start to the next one.
    return 10 * np.log10(np.maximum(np.add.reduceat(squares, starts) / counts, _MIN_POWER))


def pitch(audio: Float[np.ndarray, "n"]) -> Float[np.ndarray, "T"]:
    """Computes the fundamental frequency at the middle of each frame, in Hz, by librosa's pYIN.

    Unvoiced frames have NaN.
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
    # Frame j of pYIN is centred at sample 160 j. The middle of encoder frame i is sample
    # 320 i + 160, so j is 2 i + 1.
    centres = np.minimum(2 * np.arange(n_frames(len(audio))) + 1, len(f0) - 1)
    return np.where(voiced, f0, np.nan)[centres]


def _fit_length(labels: Float[np.ndarray, "T"], frames: int | None) -> Float[np.ndarray, "T"]:
    """Cuts labels to `frames`, or pads them with NaN."""
    if frames is None:
        return labels
    return np.concatenate([labels[:frames], np.full(max(0, frames - len(labels)), np.nan)])
