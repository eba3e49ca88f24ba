"""Makes the golden activations of the tiny models: every site, by torch in float64.

The values are rounded to float32 at the end. This script needs torch, but
`tests/test_jaxasr/test_golden.py`, which reads its files, does not:

    PYTHONPATH=.:tests:tests/live python tests/golden/make_golden.py
"""

import numpy as np
from golden.tiny import TINY, golden_file, left_padded, tiny_inputs, tiny_state
from torch_reference import reference

from experiments.bench.torch_whisper import build

# Sites at which the golden file also has the values of left-padded rows.
PADDED_SITES = ("decoder.resid_post", "decoder.ln", "decoder.logits")


def golden(name: str) -> dict[str, np.ndarray]:
    """Returns the activations at every site, and those of left-padded rows at a few sites."""
    config = TINY[name]
    model = build(config, tiny_state(config)).double()
    mel, tokens = tiny_inputs(config)
    sites = reference(model, mel, tokens)
    padded = reference(model, mel, tokens, PADDED_SITES, positions=left_padded())
    return sites | {f"padded/{site}": value for site, value in padded.items()}


if __name__ == "__main__":
    for name in TINY:
        np.savez_compressed(
            golden_file(name),
            **{key: value.astype(np.float32) for key, value in golden(name).items()},
        )
        print(golden_file(name).name, golden_file(name).stat().st_size, "bytes")
