"""Every function that takes a token id refuses ids outside of the vocabulary."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import interventions as iv
import jaxasr
from interventions import metrics, scoring
from interventions.effects import paths

V = 101  # tokens in the vocabulary of the tiny model
T = 4  # tokens per row of a run
# Ids outside of the vocabulary, with the end of their error message.
UNKNOWN_IDS = [(V, "got 101"), (-1, "got -1"), (60_000, "got 60000")]


@pytest.fixture(scope="module")
def runs(tiny_model):
    config = tiny_model.config
    mels = jax.random.normal(jax.random.key(1), (2, 2, config.n_mels, 2 * config.n_audio_ctx))
    tokens = np.arange(2 * T).reshape(2, T)
    return iv.Run(mel=mels[0], tokens=tokens), iv.Run(mel=mels[1], tokens=tokens)


def run_sweep(model, target, source, metric):
    return iv.sweep(
        model, target, source, site="decoder.resid_post", over=("layer",), metric=metric
    )


def run_attribution(model, target, source, metric):
    return iv.attribution(
        model,
        target=target,
        source=source,
        site="decoder.resid_post",
        over=("layer",),
        metric=metric,
    )


def run_path_patch(model, target, source, metric):
    nodes = {
        "senders": [paths.Node("decoder.mlp_out", 0)],
        "receivers": [paths.Node("decoder.logits")],
    }
    return iv.path_patch(model, target, source, **nodes, metric=metric)


@pytest.mark.parametrize("measure", [run_sweep, run_attribution, run_path_patch])
@pytest.mark.parametrize(("token", "got"), UNKNOWN_IDS)
def test_a_metric_of_an_unknown_token_is_refused(tiny_model, runs, measure, token, got):
    cases = [
        (iv.logprob(token), "answer"),
        (iv.logit_diff(token, 3), "answer"),
        (iv.logit_diff(3, token), "foil"),
    ]
    for metric, name in (*cases, (iv.logprob(jnp.array([3, token])), "answer")):
        with pytest.raises(
            ValueError,
            match=f"{name}: expected token ids from 0 to 100, {got}.*another model's tokenizer",
        ):
            measure(tiny_model, *runs, metric)


def test_tokens_for_another_number_of_rows_are_refused(tiny_model, runs):
    for metric in (
        iv.logprob(np.arange(3)),
        iv.metrics.rank(np.arange(1)),
        iv.logit_diff(np.arange(3), 5),
    ):
        with pytest.raises(
            ValueError, match="answer: expected one token, or one for each of 2 rows, got shape"
        ):
            run_sweep(tiny_model, *runs, metric)
    with pytest.raises(ValueError, match=r"to: expected logits \[2, 101\]"):
        run_sweep(tiny_model, *runs, iv.kl(jnp.zeros((2, V + 1))))
    run_sweep(tiny_model, *runs, iv.kl(jnp.zeros((1, V))))  # one distribution may serve all rows


def test_tokens_that_are_not_integers_are_refused():
    for bad in (3.0, np.array([1.5, 2.0]), True, "the", 2**40):
        for make in (iv.logprob, iv.metrics.rank, lambda token: iv.logit_diff(3, token)):
            with pytest.raises(ValueError, match=r"(answer|foil): expected token ids"):
                make(bad)


def test_a_traced_unknown_token_gives_nan():
    logits, embedding = jax.random.normal(jax.random.key(0), (2, V)), jnp.ones((V, 3))

    @jax.jit
    def score(token):
        logit_diff = metrics.LogitDiff(jnp.stack([token, jnp.int32(3)]))
        scores = [
            metrics.LogProb(token)(logits),
            metrics.Rank(token)(logits),
            logit_diff(scoring.needed_logits(logits, logit_diff)),
        ]
        return jnp.stack(
            [*scores, logit_diff(scoring.unembed_scored(embedding, jnp.ones((2, 3)), logit_diff))]
        )

    for token in (V, 60_000, -1, -100, -V - 1):
        assert np.isnan(score(token)).all()
    assert np.isfinite(score(V - 1)).all()


def test_direct_logits_and_the_logit_lens_refuse_unknown_tokens(tiny_model, runs):
    for token, got in UNKNOWN_IDS:
        with pytest.raises(ValueError, match=f"answer: expected token ids .*{got}"):
            iv.direct_logit_attribution(tiny_model, runs[0], token)
        with pytest.raises(ValueError, match=f"foil: expected token ids .*{got}"):
            iv.direct_logit_attribution(tiny_model, runs[0], 3, token)
        with pytest.raises(ValueError, match=f"final: expected token ids .*{got}"):
            iv.logit_lens(tiny_model, runs[0], final=np.full((2, T), token))
    with pytest.raises(
        ValueError, match=r"final: expected token ids, which are integers .* got float64"
    ):
        iv.logit_lens(tiny_model, runs[0], final=np.zeros((2, T)))


def test_generation_refuses_unknown_tokens(tiny_model, runs):
    memory = tiny_model.encode(runs[0].mel)[0]
    for token, got in UNKNOWN_IDS:
        for options, name in (
            ({"eot": token}, "eot"),
            ({"eot": 100, "no_speech": (0, token)}, "no_speech"),
        ):
            with pytest.raises(ValueError, match=f"{name}: expected token ids .*{got}"):
                jaxasr.generate(tiny_model, memory, runs[0].tokens, max_new_tokens=2, **options)
    with pytest.raises(
        ValueError, match="no_speech: expected a column from 0 to 3 of the prompt, got 4"
    ):
        jaxasr.generate(
            tiny_model, memory, runs[0].tokens, max_new_tokens=2, eot=100, no_speech=(4, 17)
        )
