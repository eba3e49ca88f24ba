"""Makes tones, and a random Whisper with real frame rates that encodes in milliseconds."""

import dataclasses
from pathlib import Path

import numpy as np
import soundfile
from golden.tiny import checkpoint, tiny_state

from experiments.data.corpora import Corpus, Utterance
from jaxasr import Config, Recogniser
from jaxasr.weights import assemble

SMALL = Config(
    n_mels=80,
    n_audio_ctx=1500,
    n_audio_state=10,
    n_audio_head=5,
    n_audio_layer=3,
    n_vocab=101,
    n_text_ctx=23,
    n_text_state=10,
    n_text_head=2,
    n_text_layer=2,
)


def small_recogniser(seed: int = 1) -> Recogniser:
    """Makes a recogniser without a tokenizer. Another seed gives another model and another hash."""
    # `Checkpoint` hashes its file of weights. Here any file serves, one per seed.
    file = Path(__file__).parent / ("conftest.py" if seed == 1 else "small_speech.py")
    weights = checkpoint(SMALL, tiny_state(SMALL, seed))
    weights = dataclasses.replace(weights, weight_files=(file,))
    return Recogniser(assemble(weights), None, weights)


def tone(hz: float, seconds: float, seed: int = 0) -> np.ndarray:
    """Makes a tone with a little noise, as 16 kHz samples."""
    n = round(16_000 * seconds)
    noise = np.random.default_rng(seed).normal(size=n) * 0.01
    return (0.3 * np.sin(2 * np.pi * hz * np.arange(n) / 16_000) + noise).astype(np.float32)


def write(path: Path, audio: np.ndarray) -> Path:
    """Writes 16 kHz samples to a file, and creates its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, audio, 16_000)
    return path


def tones(lengths: list[float]) -> Corpus:
    """Makes a corpus in memory, with a tone of each length in seconds."""
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
