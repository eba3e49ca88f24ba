"""A random Whisper with the real clock (80 mels, 1,500 frames), small enough to hear a recording in milliseconds; and tones to hear."""

import dataclasses
from pathlib import Path

import numpy as np
import soundfile
from golden.tiny import checkpoint, tiny_state

from experiments.data.corpora import Corpus, Utterance
from jaxasr import Config, Recogniser
from jaxasr.weights import assemble

SMALL = Config(80, 1500, 10, 5, 3, 101, 23, 10, 2, 2)


def small_recogniser(seed: int = 1) -> Recogniser:
    """Without a tokenizer: for sites of the encoder. Another seed is another model, with another hash."""
    stands_for_weights = Path(__file__).parent / ("conftest.py" if seed == 1 else "small_speech.py")
    held = dataclasses.replace(
        checkpoint(SMALL, tiny_state(SMALL, seed)), weight_files=(stands_for_weights,)
    )
    return Recogniser(assemble(held), None, held)


def tone(hz: float, seconds: float, seed: int = 0) -> np.ndarray:
    """A tone in a little noise."""
    n = round(16_000 * seconds)
    noise = np.random.default_rng(seed).normal(size=n) * 0.01
    return (0.3 * np.sin(2 * np.pi * hz * np.arange(n) / 16_000) + noise).astype(np.float32)


def write(path: Path, audio: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, audio, 16_000)
    return path


def tones(lengths: list[float]) -> Corpus:
    """A corpus in memory, one tone an utterance."""
    rows = [
        Utterance(
            f"u{i}",
            Path(f"u{i}.wav"),
            start_s=0.0,
            end_s=seconds,
            read=lambda i=i, n=seconds: tone(200 + 90 * i, n, i),
        )
        for i, seconds in enumerate(lengths)
    ]
    return Corpus("tones", "memory", tuple(rows))
