"""Compares models whose weights are divided over 8 devices with the same models on one device.

Run it in a process of its own, because the number of devices is fixed when JAX starts:
`PYTHONPATH=.:tests python -m tests.devices.divided_weights`.
"""

import sys
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from flax import nnx

import interventions as iv
import jaxasr
from jaxasr.divided_weights import MODEL, divide_weights
from tests import audio_language
from tests.devices import meshes
from tests.golden import tiny

N_DEVICES = 8
# Sums over devices have another order, so the last digits differ. Values are about 1.
TOLERANCE = 2e-5
LENGTHS = audio_language.LENGTHS
# 8 devices hold one head, one of 8 heads of keys, and as many hidden units and tokens each. The
# encoder has 4 heads, which 8 devices cannot divide.
SHAPE = dict(
    n_audio_state=32,
    n_audio_head=4,
    n_audio_mlp=64,
    n_vocab=104,
    n_text_head=16,
    n_text_kv_head=8,
    n_text_mlp=48,
)


def language_model(**changes: Any) -> jaxasr.AudioLanguageModel:
    """Returns a tiny audio language model."""
    return audio_language.tiny_model(**SHAPE | changes)


def whisper(**changes: Any) -> jaxasr.Whisper:
    """Returns a tiny Whisper."""
    sizes = dict(n_audio_state=32, n_text_state=32, n_audio_head=8, n_text_head=8, n_vocab=104)
    config = tiny.TINY["80 mels"].replace(**sizes | changes)
    return jaxasr.Whisper(config, rngs=nnx.Rngs(0))


def decode(model: jaxasr.AudioLanguageModel) -> Any:
    """Encodes and decodes padded rows, with edits of divided activations."""
    readout = jaxasr.select("encoder.attn.z", "encoder.mlp.post", "encoder.project")
    mel = audio_language.tiny_mel(model.config)
    prefix, acts = model.encode(mel, readout=readout, lengths=LENGTHS)
    tokens, positions = audio_language.tiny_tokens(model.config, np.asarray(prefix.lengths))
    readout = jaxasr.select("decoder.attn.pattern", "decoder.attn.k_rot", "decoder.resid_post")
    edits = {
        "decoder.attn.z": iv.edits.only(iv.Scale(3.0), heads=[3]),
        "decoder.mlp.post": iv.Scale(1.5),
    }
    return acts, model.decode(tokens, prefix, edits, readout, positions=positions)


def generate(model: jaxasr.AudioLanguageModel) -> Any:
    """Generates with a cache."""
    prefix, _ = model.encode(audio_language.tiny_mel(model.config), lengths=LENGTHS)
    tokens, positions = audio_language.tiny_tokens(model.config, np.asarray(prefix.lengths))
    out = jaxasr.generate(model, prefix, tokens, positions=positions, max_new_tokens=6)
    return out.tokens, out.logprobs


def sweep(model: jaxasr.Whisper) -> Any:
    """Sweeps heads and positions of a Whisper."""
    runs = meshes.make_run(model.config, 1, 2), meshes.make_run(model.config, 2, 2)
    over = "layer", "head", "position"
    options = dict(site="decoder.cross_attn.z", over=over, metric=iv.logit_diff(3, 9))
    return iv.sweep(model, *runs, **options).values


COMPARED: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "decode": (decode, language_model),
    "generate": (generate, language_model),
    "sweep": (sweep, whisper),
}


def largest_difference(results: Any, expected: Any) -> float:
    """Returns the largest difference of all arrays, relative to values of at least 1."""
    pairs = zip(jax.tree.leaves(results), jax.tree.leaves(expected), strict=True)
    differences = [
        np.max(np.abs(a - b)) / max(1.0, np.max(np.abs(b)))
        for a, b in ((np.asarray(a, np.float64), np.asarray(b, np.float64)) for a, b in pairs)
    ]
    return float(max(differences))


def main() -> None:
    jax.config.update("jax_num_cpu_devices", N_DEVICES)
    failed = False
    for name in sys.argv[1:] or COMPARED:
        compute, make_model = COMPARED[name]
        model = make_model()
        divided = divide_weights(model)
        n_divided = sum(MODEL in leaf.sharding.spec for leaf in jax.tree.leaves(divided))
        difference = largest_difference(compute(divided), compute(model))
        print(f"{name}: {n_divided} divided weights, largest difference {difference:.1e}")
        failed |= difference > TOLERANCE or not n_divided
    sys.exit(failed)


if __name__ == "__main__":
    main()
