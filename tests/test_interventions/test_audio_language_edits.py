"""Edits without effect and self-patches change no bit of an audio language model."""

import jax.numpy as jnp
import numpy as np
import pytest

import jaxasr
from interventions.edits import Add, Mix, Patch, Scale, Zero, chain, only
from jaxasr.sites import of, sites_of
from tests.audio_language import TINY, tiny_mel, tiny_model

# Compiled with all optimisations, because tests compare bit by bit.
pytestmark = pytest.mark.optimised

SITES = of(TINY["qwen2_audio"])


LENGTHS = np.array([40, 37], np.int32)  # mel frames: 10 and 9 audio tokens of Qwen2-Audio


@pytest.fixture(scope="module", params=TINY)
def case(request):
    """Returns a model, its activations, and the result of a pass without edits."""
    model = tiny_model(request.param)
    *plain, acts = run(model, {}, readout=True)
    return model, acts, plain


def run(model, edits, readout=False):
    """Returns the encoded audio, the logits, and with `readout` all activations.

    Rows have equally many tokens, because a patch counts from the first one.
    """
    encoder, decoder = (sites_of(stack, model.config.family) for stack in ("encoder", "decoder"))
    prefix, acts = model.encode(
        tiny_mel(model.config, LENGTHS),
        {site: edit for site, edit in edits.items() if site in encoder},
        jaxasr.select(*encoder) if readout else None,
        lengths=LENGTHS,
    )
    n_audio = np.asarray(prefix.lengths)
    tokens = np.stack([[3] * (14 - n) + [98] * n + [5, 6, 8] for n in n_audio])
    logits, more = model.decode(
        tokens,
        prefix,
        {site: edit for site, edit in edits.items() if site in decoder},
        jaxasr.select(*decoder) if readout else None,
    )
    return np.asarray(prefix.xa), np.asarray(logits), *([acts | more] if readout else [])


def assert_same(ours, expected):
    for a, b in zip(ours, expected, strict=True):
        np.testing.assert_array_equal(a, b)


def test_edits_that_do_not_apply_change_no_bit(case):
    model, acts, plain = case
    assert_same(run(model, {}), plain)
    assert_same(run(model, {site: only(Zero(), when=False) for site in acts}), plain)


def test_edits_of_strength_zero_change_nothing(case):
    """The compiler fuses them with their neighbours, which rounds differently."""
    model, acts, plain = case

    def idle(site):
        return chain(Mix(jnp.float32(0), 7 * acts[site]), Add(jnp.float32(0)), Scale(1.0))

    for ours, expected in zip(run(model, {site: idle(site) for site in acts}), plain, strict=True):
        np.testing.assert_allclose(ours, expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("stack", ["encoder", "decoder"])
def test_self_patches_change_no_bit(case, stack):
    model, acts, plain = case
    sites = sites_of(stack, model.config.family)
    assert_same(run(model, {site: Patch(acts[site]) for site in sites}), plain)


@pytest.mark.parametrize("site", SITES)
def test_an_edit_at_every_site_fires(site):
    """All sites have an edit, and all except one do nothing, so that all cases share a program."""
    model = tiny_model()

    def edits(value):
        scales = {name: jnp.float32(1 + value * (name == site)) for name in SITES}
        return {name: Scale(scale) for name, scale in scales.items()}

    changed = [
        not np.array_equal(a, b)
        for a, b in zip(run(model, edits(0)), run(model, edits(1)), strict=True)
    ]
    assert changed == [site.startswith("encoder"), True]
