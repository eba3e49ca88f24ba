"""Scores the next token under each patch of a recording, in one compiled program per stack.

A patch moves the outputs of one or more modules towards the outputs for white noise (kind 0), or
equally far in a random direction (kinds 1, 2, ...). The decoder reads given tokens (teacher
forcing), so that every patch is scored at the same place of the text.

An encoder cell starts from the stored residual before its lowest edited layer. A decoder cell is a
whole pass. JAX traces the functions that compute cells.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import threadpoolctl
from jaxtyping import Array, Bool, Float, Int

import jaxasr
from interventions.corruptions import white_noise_like
from interventions.edits.base import EditBase
from interventions.patching.resumed_encoder import RESIDUAL_SITES, resumed_memory
from interventions.patching.sources import encoder_activations
from interventions.run import encode_mel
from jaxasr import Recogniser, compiled, pytrees, sites
from jaxasr.cache import EncodedAudio
from jaxasr.config import HOP, Config
from jaxasr.language.recogniser import PromptedRecogniser
from jaxasr.model import SpeechModel, full_precision
from jaxasr.taps import NOTHING, At, Edits, select

ENCODER_SITES = ("encoder.attn_out", "encoder.mlp_out")
DECODER_SITES = ("decoder.cross_attn_out", "decoder.attn_out", "decoder.mlp_out")
PATCHED_SITES = (*ENCODER_SITES, *DECODER_SITES)
SCORES = ("odd", "fit", "top")  # the columns of the scores of a cell
_CELLS_TOGETHER = 16  # decoder cells per batch


@pytrees.dataclass
class Move(EditBase):
    """Moves an activation by α·(value - x)·R at some layers and frames.

    `R` is the identity or a random rotation. A rotation keeps the length of every move and the
    angles between the moves at different frames, so that only the direction is random.

    Args:
        value: [L, 1, T, D], the activation to move towards.
        rotation: [D, D], orthogonal.
        alpha: strength. 1 replaces the activation if `rotation` is the identity.
        low: the lowest edited layer.
        high: the layer above the highest edited one.
        mask: bool [T], the edited frames or positions.
    """

    value: Float[Array, "L 1 T D"]
    rotation: Float[Array, "D D"]
    alpha: Float[Array, ""]
    low: Int[Array, ""]
    high: Int[Array, ""]
    mask: Bool[Array, "T"]

    def __call__(self, x: Array, at: At) -> Array:
        move = (self.value[at.layer] - x) @ self.rotation
        edited = (at.layer >= self.low) & (at.layer < self.high) & self.mask[None, :, None]
        return jnp.where(edited, x + self.alpha * move, x)


@pytrees.dataclass
class Spoken:
    """A recording, its source, and the text before the target word.

    Attributes:
        tokens: int32 [1, N], prompt and text before the target word, then padding.
        scored: index of the last token before the target word.
        words: int32 [2], the tokens of the odd word and of the fitting word.
        memory: the encoded recording.
        noise_memory: the encoded white noise.
        residuals: residuals before and after every encoder layer.
        values: outputs of the encoder's modules for white noise, by site.
        masks: bool [W, S], the frames of each window.
        rotations: [K, D, D], the identity and the random rotations, by stack.
        lengths: int32 [1], mel frames of the recording before its padding, for an audio language
            model.
    """

    tokens: Int[Array, "1 N"]
    scored: Int[Array, ""]
    words: Int[Array, "2"]
    memory: EncodedAudio
    noise_memory: EncodedAudio
    residuals: tuple[Array, Array]
    values: dict[str, Array]
    masks: Bool[Array, "W S"]
    rotations: dict[str, Float[Array, "K D D"]]
    lengths: Int[Array, "1"] | None = None


def rotations(width: int, n_random: int, seed: int) -> Float[np.ndarray, "K D D"]:
    """Returns the identity and `n_random` random rotations of the activations.

    Example:
        >>> turned = np.ones(8, np.float32) @ rotations(8, 1, seed=0)[1]
        >>> bool(np.isclose(np.linalg.norm(turned), 8**0.5))
        True
    """
    # On a busy machine, the threads of BLAS wait for each other longer than one thread computes.
    with threadpoolctl.threadpool_limits(1, "blas"):
        draws = [
            np.linalg.qr(np.random.default_rng([seed, kind]).normal(size=(width, width)))[0]
            for kind in range(1, n_random + 1)
        ]
    return np.stack([np.eye(width), *draws]).astype(np.float32)


def rotations_by_stack(
    config: Config, n_random: int, seed: int
) -> dict[str, Float[np.ndarray, "K D D"]]:
    """Returns `rotations` for both stacks, the same ones if they have the same width.

    Example:
        >>> import jaxasr
        >>> sorted(rotations_by_stack(jaxasr.SIZES["tiny.en"], 1, seed=0))
        ['decoder', 'encoder']
    """
    encoder = rotations(config.encoder.width, n_random, seed)
    if config.decoder.width == config.encoder.width:
        return {"encoder": encoder, "decoder": encoder}
    return {"encoder": encoder, "decoder": rotations(config.decoder.width, n_random, seed)}


def prepare(
    asr: Recogniser | PromptedRecogniser,
    audio: Float[np.ndarray, "n"],
    prefix: list[int],
    words: tuple[int, int],
    masks: Bool[np.ndarray, "W S"],
    directions: dict[str, Float[np.ndarray, "K D D"]],
    seed: int,
    n_tokens: int,
) -> Spoken:
    """Runs the unedited passes of a recording and of white noise of its length and level."""
    config = asr.config
    mel, noise = (
        jaxasr.log_mel(samples, config.n_mels, config.n_mel_frames)[None]
        for samples in (audio, white_noise_like(audio, seed))
    )
    is_whisper = config.audio_language is None
    lengths = None if is_whisper else jnp.array([-(-len(audio) // HOP)], jnp.int32)
    acts = encoder_activations(asr.model, mel, *RESIDUAL_SITES, lengths=lengths)
    pre, post = (acts[site] for site in RESIDUAL_SITES)
    noise_memory, values = encode_mel(asr.model, noise, lengths, readout=select(*ENCODER_SITES))
    tokens = np.full((1, n_tokens), prefix[-1], np.int32)
    tokens[0, : len(prefix)] = prefix
    return Spoken(
        tokens=jnp.asarray(tokens),
        scored=jnp.int32(len(prefix) - 1),
        words=jnp.asarray(words, jnp.int32),
        memory=encode_mel(asr.model, mel, lengths)[0],
        noise_memory=noise_memory,
        residuals=(pre, post),
        values=values,
        masks=jnp.asarray(masks),
        rotations={stack: jnp.asarray(rotation) for stack, rotation in directions.items()},
        lengths=lengths,
    )


def decoder_sites(config: Config) -> tuple[str, ...]:
    """Returns those of `DECODER_SITES` that a model has.

    Example:
        >>> import jaxasr
        >>> decoder_sites(jaxasr.SIZES["tiny.en"]) == DECODER_SITES
        True
    """
    return tuple(site for site in DECODER_SITES if site in sites.of(config))


def score(
    model: SpeechModel, spoken: Spoken, cells: dict[str, np.ndarray]
) -> Float[np.ndarray, "C 3"]:
    """Returns the scores `SCORES` under each patch.

    Args:
        model: the model.
        spoken: the recording.
        cells: the patches, one array per coordinate; see `grid.Grid`.

    Returns:
        The logit of the odd word, the logit of the fitting word, and the most likely token.
    """
    in_encoder = np.asarray(cells["sites"][:, : len(ENCODER_SITES)].any(1))
    scores = np.empty((len(in_encoder), len(SCORES)))
    for chosen, program in ((in_encoder, _encoder_cells), (~in_encoder, _decoder_cells)):
        if chosen.any():
            part = {name: values[chosen] for name, values in cells.items()}
            scores[chosen] = np.asarray(compiled.call(program, model, spoken, part))
    return scores


def _encoder_cells(model: SpeechModel, spoken: Spoken, cells: Any) -> Array:
    def score_cell(cell: Any) -> Array:
        edits = _edits(spoken, cell, ENCODER_SITES, spoken.values, spoken.masks[cell["window"]])
        start = spoken.residuals, edits, cell["low"], spoken.lengths
        memory = resumed_memory(model, ENCODER_SITES[0], *start)
        return _score(model, spoken, memory, {})

    with full_precision(model):
        return jax.lax.map(score_cell, cells)


def _decoder_cells(model: SpeechModel, spoken: Spoken, cells: Any) -> Array:
    with full_precision(model):
        # The noise reads the same tokens (lock-step).
        edited = decoder_sites(model.config)
        _, values = model.decode(spoken.tokens, spoken.noise_memory, readout=select(*edited))
        everywhere = jnp.ones(spoken.tokens.shape[1], bool)

        def score_cell(cell: Any) -> Array:
            edits = _edits(spoken, cell, edited, values, everywhere)
            return _score(model, spoken, spoken.memory, edits)

        return jax.lax.map(score_cell, cells, batch_size=_CELLS_TOGETHER)


def _edits(
    spoken: Spoken, cell: Any, edited: tuple[str, ...], values: dict[str, Array], mask: Array
) -> Edits:
    rotation = spoken.rotations[sites.stack_of(edited[0])][cell["kind"]]

    def edit(site: str) -> Move:
        alpha = jnp.where(cell["sites"][PATCHED_SITES.index(site)], cell["alpha"], 0.0)
        return Move(values[site], rotation, alpha, cell["low"], cell["high"], mask)

    return {site: edit(site) for site in edited}


def _score(
    model: SpeechModel, spoken: Spoken, memory: EncodedAudio, edits: Edits
) -> Float[Array, "3"]:
    positions = jnp.arange(spoken.tokens.shape[1], dtype=jnp.int32)[None]
    x = model.decoder.residual(spoken.tokens, positions, memory, edits, NOTHING)[0]
    # Later positions are padding, which the scored position does not attend to.
    logits = model.decoder.ln(x[0, spoken.scored]) @ model.decoder.unembedding.T
    return jnp.append(logits[spoken.words], logits.argmax().astype(logits.dtype))
