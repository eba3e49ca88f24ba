"""Sizes and helpers of the tests of cached generation."""

import jax
import numpy as np

import jaxasr

N_PROMPT, N_NEW, EOT = 4, 11, 100


def generate(model, inputs, edits=None, **options):
    """Generates from `inputs`, a memory and a prompt."""
    memory, prompt = inputs
    options = {"max_new_tokens": N_NEW, "eot": EOT, "edits": edits} | options
    return jaxasr.generate(model, memory, prompt, **options)


def teacher_forced(model, inputs, generation, edits=None, positions=None):
    """Returns log-probabilities [B, T, V] for each generated token, by one pass over all tokens."""
    memory, prompt = inputs
    tokens = np.concatenate([prompt, generation.tokens], 1)[:, :-1]
    logits = model.decode(tokens, memory, edits, positions=positions)[0]
    return np.asarray(jax.nn.log_softmax(logits))[:, prompt.shape[1] - 1 :]


def is_generated(generation) -> np.ndarray:
    """Returns bool [B, T]: True at tokens and the end-of-text, False at padding."""
    return np.arange(generation.tokens.shape[1]) <= np.asarray(generation.lengths)[:, None]
