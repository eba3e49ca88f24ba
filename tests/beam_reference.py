"""A plain beam search in Python, and helpers of the tests of beam search."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from jaxasr import pytrees
from jaxasr.beam import beam_search
from jaxasr.rules import Rules

# Of the 101 ids of the tiny model, those below 60 count as text and those from 62 on as timestamps.
EOT, NO_TIMESTAMPS, BEGIN = 60, 61, 62
N_PROMPT, N_NEW, CONTEXT = 3, 11, 23


@pytrees.dataclass
class Sharpened:
    """Scales the logits of a random model, raises that of the end-of-text, then applies rules."""

    scale: float
    end_bias: float
    rules: Rules | None = None

    def __call__(self, logits, tokens, length, prompt_len):
        logits = (logits * self.scale).at[:, EOT].add(self.end_bias)
        if self.rules is None:
            return logits
        return self.rules(logits, tokens, length, prompt_len)


def timestamp_rules(max_initial=9, suppress=()):
    def mask(ids):
        return jnp.asarray(np.isin(np.arange(101), sorted(ids)))

    return Rules(
        mask({NO_TIMESTAMPS, *suppress}),
        mask({1, EOT}),
        jnp.asarray(max_initial, jnp.int32),
        True,
        EOT,
        BEGIN,
    )


def encode_random(model, seed, batch=1):
    mel = np.random.default_rng(seed).normal(size=(batch, 7, 22)).astype(np.float32)
    prompt = np.random.default_rng(seed + 1).integers(0, 60, (batch, N_PROMPT))
    return model.encode(jnp.asarray(mel))[0], jnp.asarray(prompt, jnp.int32)


@functools.cache
def teacher_forced(model):
    """Returns a function from prefixes to log-probabilities, by teacher-forced passes."""

    @jax.jit
    def logprobs(memory, tokens, n, rules, edits):
        logits = jax.vmap(lambda row: model.decode(row[None], memory, edits=edits)[0][0, n - 1])(
            tokens
        )
        return jax.nn.log_softmax(rules(logits, tokens, n, N_PROMPT))

    def after(memory, rules, beam_size, edits, prefixes):
        tokens = np.zeros((beam_size, CONTEXT), np.int32)
        for row, prefix in zip(tokens, prefixes):
            row[: len(prefix)] = prefix
        return np.asarray(
            logprobs(memory, jnp.asarray(tokens), jnp.int32(len(prefixes[0])), rules, edits)
        )[: len(prefixes)]

    return after


def reference_search(logprobs, prompt, beam_size, patience=1.0, penalty=None):
    """Returns the tokens of one recording's best text and their summed log-probability.

    Follows openai/whisper's BeamSearchDecoder and MaximumLikelihoodRanker, with two exceptions. It
    keeps no text of probability zero. An empty text counts as one token long, where openai/whisper
    would divide by zero.
    """
    beams, finished, max_ended = {tuple(prompt): 0.0}, {}, round(beam_size * patience)
    for _ in range(N_NEW):
        scores = {}
        for (prefix, total), row in zip(beams.items(), logprobs(list(beams))):
            for token in np.argsort(-row, kind="stable")[: beam_size + 1]:
                if row[token] > -math.inf:
                    scores[(*prefix, int(token))] = total + float(row[token])
        beams, ended = {}, {}
        for text in sorted(scores, key=scores.get, reverse=True):
            (ended if text[-1] == EOT else beams)[text] = scores[text]
            if len(beams) == beam_size:
                break
        for text, total in ended.items():
            if len(finished) < max_ended:
                finished[text] = total
        if len(finished) >= max_ended or not beams:
            break
    for text, total in beams.items():
        if len(finished) < beam_size:
            finished[(*text, EOT)] = total
    texts = {text[N_PROMPT:-1]: total for text, total in finished.items()}

    def score(item):
        n, total = len(item[0]), item[1]
        return total / (max(n, 1) if penalty is None else ((5 + n) / 6) ** penalty)

    return max(texts.items(), key=score)


def text_ids(generation, row=0):
    """Returns the ids of a row before the end-of-text, and checks the padding after it."""
    n = int(generation.lengths[row])
    assert (np.asarray(generation.tokens[row, n:]) == EOT).all()
    assert (np.asarray(generation.logprobs[row, n + 1 :]) == 0).all()
    return tuple(np.asarray(generation.tokens[row, :n]).tolist())


def search(model, memory, prompt, **options):
    return beam_search(model, memory, prompt, max_new_tokens=N_NEW, eot=EOT, **options)


def assert_text(generation, expected, row=0):
    """Asserts that a row has the expected ids and summed log-probability."""
    tokens, total = expected
    assert text_ids(generation, row) == tokens
    np.testing.assert_allclose(float(generation.logprobs[row].sum()), total, rtol=0, atol=2e-4)
