"""Makes the golden activations of tiny audio language models: every site, by transformers.

Values are computed in float64 and rounded to float32 at the end. This script needs torch, but
`tests/test_jaxasr/test_audio_language_golden.py`, which reads its files, does not:

    PYTHONPATH=.:tests:tests/live python tests/golden/make_audio_language_golden.py
"""

import numpy as np
from audio_language_reference import build, reference

from jaxasr.language.encoder import count_frames
from tests.audio_language import LENGTHS, TINY, golden_file, tiny_mel, tiny_model, tiny_tokens


def golden(name: str) -> dict[str, np.ndarray]:
    """Returns the activations at every site, of rows of three lengths."""
    model = tiny_model(name)
    tokens, positions = tiny_tokens(model.config, count_frames(model.config, LENGTHS)[1])
    inputs = tiny_mel(model.config), LENGTHS, tokens, positions
    return reference(build(model, double=True), model.config, *inputs)


if __name__ == "__main__":
    for name in TINY:
        arrays = {site: value.astype(np.float32) for site, value in golden(name).items()}
        np.savez_compressed(golden_file(name), **arrays)
        print(golden_file(name).name, golden_file(name).stat().st_size, "bytes")
