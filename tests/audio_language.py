"""Makes tiny audio language models with random weights, and inputs for them."""

import functools
from pathlib import Path

import jax
import numpy as np
from golden.tiny import GOLDEN, uniform

import jaxasr
from jaxasr import AudioLanguageModel, Config, sites
from jaxasr.weights.assemble import abstract_model, parameter_name

# As many sizes as possible differ, so that a transposed axis fails.
_QWEN = Config(
    n_mels=8,
    n_audio_ctx=20,
    n_audio_state=18,
    n_audio_head=3,
    n_audio_layer=3,
    n_audio_mlp=34,
    n_vocab=99,
    n_text_ctx=64,
    n_text_state=28,
    n_text_head=4,
    n_text_layer=2,
    n_text_mlp=46,
    n_text_kv_head=2,
    n_text_head_width=10,
    tied=False,
    family="qwen2_audio",
    audio_token=98,
    eos=(7,),
)
TINY = {
    "qwen2_audio": _QWEN,
    # 4 frames make one audio token, so the MLP of the encoder has 4 times its width.
    "voxtral": _QWEN.replace(family="voxtral", n_audio_mlp=72, rope_theta=5e3, n_text_kv_head=4),
}
# Its parts are those of the other two, in another combination, so few tests run it.
FLAMINGO = {"audioflamingo3": _QWEN.replace(family="audioflamingo3", rope_theta=2e4)}
LENGTHS = np.array([40, 29, 9], np.int32)  # mel frames: the middle one makes 15 encoder frames
PAD = 0  # the token of padding


def golden_file(name: str) -> Path:
    return GOLDEN / f"audio_language_{name}.npz"


@functools.cache
def tiny_model(name: str = "qwen2_audio", seed: int = 0, **changes: object) -> AudioLanguageModel:
    """Returns a model in which no two parameters are equal, also not in norms and biases."""
    config = (TINY | FLAMINGO)[name].replace(**changes)
    paths, treedef = jax.tree_util.tree_flatten_with_path(abstract_model(config))
    arrays = [
        _make_parameter(parameter_name(path), leaf.shape, 100 * seed + i).astype(leaf.dtype)
        for i, (path, leaf) in enumerate(paths)
    ]
    return jax.tree.unflatten(treedef, map(jax.numpy.asarray, arrays))


def _make_parameter(name: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
    """Returns a random parameter on the scale that its name needs."""
    x = uniform(seed, *shape)
    if name.endswith("scale"):
        return 1 + x / 2
    if name.endswith("kernel"):
        return x * np.float32(2 / np.sqrt(np.prod(shape[-2:-1])))
    return x if "embedding" in name or "projection" in name else x / 2


def tiny_mel(config: Config, lengths: np.ndarray = LENGTHS) -> np.ndarray:
    """Returns mel [B, M, F], with other values in the padding than in the recording."""
    mel = uniform(5, len(lengths), config.n_mels, config.n_mel_frames)
    is_audio = np.arange(config.n_mel_frames) < lengths[:, None, None]
    return np.where(is_audio, mel, 3 * mel + 1)


def tiny_tokens(
    config: Config, n_audio: np.ndarray, n_text: int = 6
) -> tuple[np.ndarray, np.ndarray]:
    """Returns left-padded tokens and positions: text, audio tokens, and `n_text` text tokens.

    Row b has 2 + b tokens before its audio.
    """
    text = ((uniform(9, len(n_audio), n_text + 9) + 1) * 40).astype(np.int32)
    rows = [
        [*row[: 2 + i], *[config.audio_token] * n, *row[-n_text:]]
        for i, (row, n) in enumerate(zip(text, n_audio))
    ]
    width = max(map(len, rows))
    tokens = np.array([[PAD] * (width - len(row)) + row for row in rows], np.int32)
    pads = np.array([width - len(row) for row in rows])
    return tokens, np.arange(width, dtype=np.int32) - pads[:, None]


def activations(
    model: jaxasr.AudioLanguageModel, lengths: np.ndarray = LENGTHS
) -> dict[str, np.ndarray]:
    """Returns the activations at every site, for rows of these lengths."""
    encoder, decoder = (
        jaxasr.select(*[site for site in model.sites if site.startswith(stack)])
        for stack in ("encoder", "decoder")
    )
    prefix, acts = model.encode(tiny_mel(model.config, lengths), readout=encoder, lengths=lengths)
    tokens, positions = tiny_tokens(model.config, np.asarray(prefix.lengths))
    logits, more = model.decode(tokens, prefix, readout=decoder, positions=positions)
    np.testing.assert_array_equal(logits, more["decoder.logits"])
    np.testing.assert_array_equal(prefix.xa, acts["encoder.project"])
    return {site: np.asarray(value) for site, value in (acts | more).items()}


def visible_error(
    site: str, ours: np.ndarray, reference: np.ndarray, positions: np.ndarray
) -> float:
    """Returns the largest error outside of the padding, in units of max(1, max|reference|)."""
    assert ours.shape == reference.shape, site
    assert np.isfinite(ours).all(), site
    axes = (*"L" * (site in sites.LAYERED), *sites.SITES[site])
    is_visible = np.ones(ours.shape, bool)
    if site.startswith("decoder."):
        for axis in {"T", "S"} & {*axes}:
            shape = [n if name in ("B", axis) else 1 for name, n in zip(axes, ours.shape)]
            is_visible &= (positions >= 0).reshape(shape)
    error = np.abs(ours - reference)[is_visible].max()
    return float(error / max(1.0, np.abs(reference[is_visible]).max()))
