"""Patches of E5 agree with the sweep of the engine and with edits written by hand."""

import jax.numpy as jnp
import numpy as np
import pytest

import interventions as iv
import jaxasr
from experiments.studies.context import grid, patches
from interventions.corruptions import white_noise_like
from jaxasr.sites import SITES

ALPHAS = (0.25, 1.0)


@pytest.fixture(scope="module")
def asr():
    return jaxasr.load("tiny.en")


@pytest.fixture(scope="module")
def sample(asr):
    """The demo recording, a prefix of its text, and two tokens."""
    audio = jaxasr.load_audio("experiments/assets/demo.flac")
    tokens = [*asr.tokenizer.prompt("en"), *asr.tokenizer.encode(" The captain read the old")]
    words = asr.tokenizer.encode(" letter")[0], asr.tokenizer.encode(" book")[0]
    return audio, tokens, words


@pytest.fixture(scope="module")
def scored(asr, sample):
    audio, tokens, words = sample
    listed = grid.patches(asr.config, ALPHAS, ALPHAS, ALPHAS, 0.5, 2)
    # The first, second and last groups, and some places, to keep the test short.
    chosen = [
        patch
        for i, patch in enumerate(listed)
        if patch.unit == "none" or i % 9 == 0 or patch.window in ("word", "context")
    ][:24]
    masks = grid.window_masks((1.0, 1.4), len(audio), asr.config.n_audio_ctx)
    directions = patches.rotations_by_stack(asr.config, 2, seed=0)
    spoken = patches.prepare(asr, audio, tokens, words, masks, directions, 0, 24)
    scores = patches.score(asr.model, spoken, grid.cells(chosen))
    return chosen, masks, directions, scores


def score_by_hand(asr, sample, patch, masks, directions) -> np.ndarray:
    """Scores one patch by whole passes and an edit that is a plain function."""
    audio, tokens, words = sample
    mels = [
        jaxasr.log_mel(sound, asr.config.n_mels)[None]
        for sound in (audio, white_noise_like(audio, 0))
    ]
    noise_memory, values = asr.model.encode(mels[1], readout=jaxasr.select(*patches.ENCODER_SITES))
    ids = np.array([tokens])
    _, of_decoder = asr.model.decode(
        ids, noise_memory, readout=jaxasr.select(*patches.DECODER_SITES)
    )
    values = {**values, **of_decoder}
    in_window = masks[grid.WINDOWS.index(patch.window)]

    def edit_of(site):
        def edit(x, at):
            towards = values[site][at.layer] - x
            rotation = directions[site.partition(".")[0]][patch.direction]
            moved = x + patch.alpha * (towards @ rotation)
            edited = jnp.asarray(in_window)[None, :, None] if site.startswith("enc") else True
            return jnp.where(edited & (at.layer >= patch.low) & (at.layer < patch.high), moved, x)

        return edit

    edits = {site: edit_of(site) for site in patch.sites}
    of_stack = {
        stack: {site: edit for site, edit in edits.items() if site.startswith(stack)}
        for stack in ("encoder", "decoder")
    }
    memory, _ = asr.model.encode(mels[0], of_stack["encoder"])
    logits, _ = asr.model.decode(ids, memory, of_stack["decoder"])
    return np.asarray(logits[0, -1])[list(words)]


def test_patches_agree_with_edits_written_by_hand(asr, sample, scored):
    chosen, masks, directions, scores = scored
    n_checked = 0
    for patch, score in list(zip(chosen, scores))[2::4]:
        by_hand = score_by_hand(asr, sample, patch, masks, directions)
        np.testing.assert_allclose(score[:2], by_hand, atol=2e-3, err_msg=str(patch))
        n_checked += 1
    assert n_checked >= 5
    # The patches have different effects, so that the comparison means something.
    assert np.ptp(scores[:, 0] - scores[:, 1]) > 0.5


def test_patches_agree_with_a_sweep(asr, sample):
    audio, tokens, words = sample
    site = "encoder.mlp_out"
    assert site in SITES
    target, source = (
        iv.Run(mel=jaxasr.log_mel(sound, asr.config.n_mels)[None], tokens=np.array([tokens]))
        for sound in (audio, white_noise_like(audio, 0))
    )
    swept = iv.sweep(
        asr.model,
        target,
        source,
        site=site,
        over=("layer", "alpha"),
        metric=iv.logit_diff(*words),
        alphas=ALPHAS,
        layers=[2, 3],
    )
    listed = [
        grid.Patch("place", "encoder", (site,), layer, layer + 1, site, "noise", alpha)
        for layer in (2, 3)
        for alpha in ALPHAS
    ]
    masks = grid.window_masks(None, len(audio), asr.config.n_audio_ctx)
    directions = patches.rotations_by_stack(asr.config, 0, seed=0)
    spoken = patches.prepare(asr, audio, tokens, words, masks, directions, 0, 24)
    scores = patches.score(asr.model, spoken, grid.cells(listed))
    np.testing.assert_allclose(scores[:, 0] - scores[:, 1], swept.values.ravel(), atol=2e-3)


def test_a_rotation_keeps_lengths_and_angles():
    x = np.random.default_rng(0).normal(size=(5, 32)).astype(np.float32)
    rotated = x @ patches.rotations(32, 1, seed=0)[1]
    np.testing.assert_allclose(rotated @ rotated.T, x @ x.T, atol=1e-4)
    assert np.abs(rotated - x).max() > 0.1


def test_rotations_keep_lengths_and_differ_between_recordings():
    turned = [patches.rotations(64, 2, seed) for seed in (0, 0, 1)]
    np.testing.assert_array_equal(turned[0], turned[1])
    for rotation in turned[0]:
        np.testing.assert_allclose(rotation @ rotation.T, np.eye(64), atol=1e-5)
    np.testing.assert_array_equal(turned[0][0], np.eye(64))
    directions = [matrix for one in (turned[0], turned[2]) for matrix in one[1:]]
    for i, first in enumerate(directions):
        for second in directions[i + 1 :]:
            assert np.abs(np.trace(first @ second.T)) < 0.5 * 64
