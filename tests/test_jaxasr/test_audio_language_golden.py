"""Every site of tiny audio language models equals transformers, whose values are stored."""

import jax
import numpy as np
import pytest

from jaxasr.precision import precision_fields
from tests.audio_language import (
    LENGTHS,
    TINY,
    activations,
    golden_file,
    tiny_mel,
    tiny_model,
    tiny_tokens,
    visible_error,
)

# Tolerances in units of max(1, max|reference|). The documentation promises 5e-5, but rounding
# errors of tiny models are far smaller.
FLOAT32, ROUNDED_TO_FLOAT32 = 5e-6, 6e-8


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", TINY)
def test_every_site_agrees_with_transformers(name, dtype):
    with jax.enable_x64(dtype == "float64"):
        model = tiny_model(name, dtype=dtype, param_dtype=dtype)
        ours = activations(model)
        n_tokens = model.encode(tiny_mel(model.config), lengths=LENGTHS)[0].lengths
    positions = tiny_tokens(model.config, np.asarray(n_tokens))[1]
    with np.load(golden_file(name)) as golden:
        assert set(golden) == set(ours)
        errors = {
            site: visible_error(site, value, golden[site], positions)
            for site, value in ours.items()
        }
    tolerance = FLOAT32 if dtype == "float32" else ROUNDED_TO_FLOAT32
    assert max(errors.values()) < tolerance, max(errors.items(), key=lambda item: item[1])


@pytest.mark.parametrize("precision", ["high", "mixed", "bfloat16"])
def test_every_precision_gives_similar_logits(precision):
    fields = precision_fields(precision)
    expected, ours = activations(tiny_model()), activations(tiny_model(**fields))
    assert ours["decoder.logits"].dtype == np.float32
    assert ours["decoder.resid_post"].dtype == fields["dtype"]
    visible = expected["decoder.logits"][0], ours["decoder.logits"][0]
    correlation = np.corrcoef(*map(np.ravel, visible))[0, 1]
    assert correlation > 0.999, correlation


def test_rows_have_as_many_audio_tokens_as_in_transformers():
    """A row of 29 mel frames has 15 encoder frames, and the last one has no partner."""
    for name, expected in (("qwen2_audio", [10, 7, 2]), ("voxtral", [5, 5, 5])):
        model = tiny_model(name)
        prefix, _ = model.encode(tiny_mel(model.config), lengths=LENGTHS)
        assert prefix.lengths.tolist() == expected


def test_mel_in_the_padding_changes_no_audio_token():
    """Two frames after the end are read by the convolutions, as in transformers."""
    model = tiny_model()
    mel = tiny_mel(model.config)
    is_unread = np.arange(mel.shape[-1]) >= LENGTHS[:, None, None] + 2
    before, after = (
        model.encode(changed, lengths=LENGTHS)[0] for changed in (mel, np.where(is_unread, 9, mel))
    )
    for row, length in enumerate(before.lengths):
        np.testing.assert_array_equal(before.xa[row, :length], after.xa[row, :length])
    full_length = np.full(3, 40)
    with pytest.raises(AssertionError):  # these frames count if no length excludes them
        np.testing.assert_array_equal(
            model.encode(mel, lengths=full_length)[0].xa[1, :7], before.xa[1, :7]
        )


@pytest.mark.parametrize("name", TINY)
def test_neither_padded_tokens_nor_padded_audio_change_a_logit(name):
    model = tiny_model(name)
    prefix, _ = model.encode(tiny_mel(model.config), lengths=LENGTHS)
    tokens, positions = tiny_tokens(model.config, np.asarray(prefix.lengths))
    logits = model.decode(tokens, prefix, positions=positions)[0]
    is_audio = np.arange(prefix.xa.shape[1]) < np.asarray(prefix.lengths)[:, None]
    noisy = prefix.replace(xa=np.where(is_audio[:, :, None], prefix.xa, 99).astype(np.float32))
    other_tokens = np.where(positions < 0, model.config.audio_token, tokens)
    other = model.decode(other_tokens, noisy, positions=positions)[0]
    visible = positions >= 0
    assert not visible.all()
    np.testing.assert_array_equal(logits[visible], other[visible])


def test_a_row_alone_equals_the_same_row_in_a_padded_batch():
    model = tiny_model()
    mel = tiny_mel(model.config)
    prefix, _ = model.encode(mel, lengths=LENGTHS)
    tokens, positions = tiny_tokens(model.config, np.asarray(prefix.lengths))
    together = model.decode(tokens, prefix, positions=positions)[0]
    for row in range(3):
        alone, _ = model.encode(mel[row : row + 1], lengths=LENGTHS[row : row + 1])
        visible = positions[row] >= 0
        logits = model.decode(tokens[row : row + 1, visible], alone)[0]
        np.testing.assert_allclose(logits[0], together[row, visible], rtol=0, atol=2e-5)


def test_the_audio_frame_of_every_position_is_known_to_edits():
    model = tiny_model()
    prefix, _ = model.encode(tiny_mel(model.config), lengths=LENGTHS)
    tokens, positions = tiny_tokens(model.config, np.asarray(prefix.lengths))
    seen = {}

    def remember(x, at):
        frames = at.frames if at.keys is None else at.key_frames
        jax.debug.callback(lambda frames: seen.update({at.site: frames}), frames)
        return x

    names = ("decoder.embed", "decoder.mlp_out", "decoder.attn.k", "decoder.attn.scores")
    model.decode(tokens, prefix, dict.fromkeys(names, remember), positions=positions)
    jax.effects_barrier()
    assert set(seen) == set(names)
    for frames in seen.values():
        for row, length in enumerate(prefix.lengths):
            is_audio = tokens[row] == model.config.audio_token
            np.testing.assert_array_equal(frames[row, is_audio], np.arange(length))
            assert (frames[row, ~is_audio] == -1).all()
