"""Every site of tiny audio language models equals transformers, in float32 and in float64."""

# ruff: noqa: E402 (torch is imported first, because without it this file is skipped)
import jax
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from audio_language_reference import build, model_inputs, reference

from jaxasr.language.encoder import count_frames
from tests.audio_language import (
    FLAMINGO,
    TINY,
    activations,
    tiny_mel,
    tiny_model,
    tiny_tokens,
    visible_error,
)

TOLERANCE = 5e-5  # of max(1, max|reference|), in float32
EXACT = 1e-8  # of max(1, max|reference|), in float64
CASES = [
    (name, n_kv_head, lengths)
    for name in TINY
    for n_kv_head in (2, 4)
    for lengths in ([40, 29, 9], [31, 40, 18])
]
CASES += [(name, 2, [40, 29, 9]) for name in FLAMINGO]


@pytest.mark.parametrize("double", [False, True], ids=["float32", "float64"])
@pytest.mark.parametrize(("name", "n_kv_head", "lengths"), CASES)
def test_every_site_agrees_with_transformers(name, n_kv_head, lengths, double):
    lengths = np.array(lengths)
    dtype = "float64" if double else "float32"
    model = tiny_model(name, n_text_kv_head=n_kv_head)
    config = model.config
    theirs = build(model, double)
    tokens, positions = tiny_tokens(config, np.asarray(count_frames(config, lengths)[1]))
    expected = reference(theirs, config, tiny_mel(config, lengths), lengths, tokens, positions)
    with jax.enable_x64(double):
        ours = activations(
            tiny_model(name, n_text_kv_head=n_kv_head, dtype=dtype, param_dtype=dtype), lengths
        )
    assert {value.dtype for value in ours.values()} == {np.dtype(dtype)}
    errors = {site: visible_error(site, ours[site], expected[site], positions) for site in expected}
    print(max(errors.values()))  # with pytest -s
    assert errors.keys() == ours.keys()
    assert max(errors.values()) < (EXACT if double else TOLERANCE), errors


@pytest.mark.parametrize("name", TINY)
def test_long_windows_agree_with_transformers_without_a_readout(name):
    """With 300 frames, attention with a mask of frames does not store its scores."""
    lengths = np.array([600, 401, 9])
    model = tiny_model(name, n_audio_ctx=300, n_text_ctx=256)
    config = model.config
    mel, n_audio = tiny_mel(config, lengths), np.asarray(count_frames(config, lengths)[1])
    tokens, positions = tiny_tokens(config, n_audio)
    expected = reference(build(model), config, mel, lengths, tokens, positions)
    prefix, _ = model.encode(mel, lengths=lengths)
    logits, _ = model.decode(tokens, prefix, positions=positions)
    errors = [
        visible_error(site, np.asarray(ours), expected[site], positions)
        for site, ours in (("encoder.project", prefix.xa), ("decoder.logits", logits))
    ]
    print(errors)
    assert max(errors) < TOLERANCE


def test_several_windows_in_one_prompt_of_voxtral_agree_with_transformers():
    """The windows are rows of the encoder, and one row of the language model."""
    model = tiny_model("voxtral")
    config, whole = model.config, np.full(2, 40)
    mel, theirs = tiny_mel(config, whole), build(model)
    n_audio = np.array([2 * config.n_audio_tokens])
    tokens, positions = tiny_tokens(config, n_audio)
    arguments = model_inputs(theirs, config, mel, whole, tokens, positions)
    with torch.no_grad():
        expected = theirs(**arguments, use_cache=False).logits.numpy()
    prefix, _ = model.encode(mel)
    joined = model.memory(prefix.xa.reshape(1, -1, prefix.xa.shape[-1]))
    logits, _ = model.decode(tokens, joined, positions=positions)
    assert visible_error("decoder.logits", np.asarray(logits), expected, positions) < TOLERANCE
