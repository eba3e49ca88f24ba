"""Transcribes the sentences of study E5, with and without patches.

Each sentence exists with an expected word and with a target word, which sounds similar but does not
fit. A congruent recording speaks the expected word, an incongruent one the target word.
"""

import re
from collections.abc import Callable, Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

import jaxasr
from experiments.data.corpora import Utterance
from experiments.item_cache import Arrays
from experiments.studies.selection import first_window
from interventions.corruptions import white_noise_like
from interventions.edits import AtCell, AtSites, FromRow, Mix, RandomDirection, site_cells
from interventions.edits.cells import Coordinates
from interventions.generation import sequence_sweep
from interventions.generation.transcripts import words
from jaxasr import Memory, Recogniser
from jaxasr.taps import Edit, Edits, select

ENCODER_SITES = ("encoder.attn_out", "encoder.mlp_out")
DECODER_SITES = ("decoder.cross_attn_out", "decoder.attn_out", "decoder.mlp_out")
PATCHED_SITES = (*ENCODER_SITES, *DECODER_SITES)
# Kinds of patches. "noise" moves an activation towards the activation for white noise. "random" is
# the control: it moves the activation equally far in a random direction.
PATCH_KINDS = ("noise", "random")
# Outcomes of a transcription. A text is the sentence with the target word (TARGET), the sentence
# with the expected word (EXPECTED), or neither (OTHER). UNTRIED marks cells that were not run.
OTHER, TARGET, EXPECTED, UNTRIED = 0, 1, 2, -1


def sentences(clip: Utterance) -> tuple[str, str]:
    """Returns the sentence with the target word and the sentence with the expected word.

    Example:
        >>> labels = {"target": "meat", "expected": "feet", "congruent": False}
        >>> sentences(Utterance("a", "a.wav", transcript="My meat hurt.", labels=labels))
        ('My meat hurt.', 'My feet hurt.')
    """
    target, expected = str(clip.label("target")), str(clip.label("expected"))
    spoken, unspoken = (expected, target) if clip.label("congruent") else (target, expected)
    # `\b` marks word boundaries, so that the letters within a longer word are not replaced.
    swapped = re.sub(rf"\b{re.escape(spoken)}\b", unspoken, clip.transcript)
    if clip.label("congruent"):
        return swapped, clip.transcript
    return clip.transcript, swapped


def outcome(text: str, clip: Utterance) -> int:
    """Compares the words of a text with both sentences of a recording.

    Returns:
        `TARGET`, `EXPECTED` or `OTHER`.

    Example:
        >>> labels = {"target": "meat", "expected": "feet", "congruent": False}
        >>> clip = Utterance("a", "a.wav", transcript="My meat hurt.", labels=labels)
        >>> outcome("my feet hurt", clip) == EXPECTED
        True
    """
    with_target, with_expected = sentences(clip)
    if words(text) == words(with_target):
        return TARGET
    return EXPECTED if words(text) == words(with_expected) else OTHER


def transcribe(asr: Recogniser, clip: Utterance) -> Arrays:
    """Transcribes a recording without edits, and returns its `outcome` as an array."""
    memory, _ = asr.model.encode(_mel(asr, first_window(clip)))
    [text] = asr.generate(memory, asr.tokenizer.prompt("en")).text
    return {"outcome": np.asarray(outcome(text, clip))}


def transcribe_patched(
    asr: Recogniser,
    clip: Utterance,
    kind: str,
    alphas: Sequence[float],
    max_new_tokens: int,
    seed: int,
) -> Arrays:
    """Transcribes a recording under a patch of each layer of `PATCHED_SITES`, at each strength.

    Args:
        asr: the model.
        clip: the recording.
        kind: one of `PATCH_KINDS`.
        alphas: strengths of the patch. 0 changes nothing, and 1 replaces the activation.
        max_new_tokens: largest number of tokens per text.
        seed: seed of the white noise and of the random directions.

    Returns:
        `outcome` [cell], in the order of `site_cells(asr.config, PATCHED_SITES, alphas)`.
    """
    audio = first_window(clip)
    mel, noise_mel = _mel(asr, audio), _mel(asr, white_noise_like(audio, seed))
    edit_towards = _edit_towards(kind, seed)
    _, reference = asr.model.encode(noise_mel, readout=select(*ENCODER_SITES))
    outcomes = [
        _outcomes(
            asr,
            clip,
            source=mel,
            cells=_layer_and_strength(site_cells(asr.config, [site], alphas)),
            edits_of=AtCell(edit_towards(reference[site]), site),
            max_new_tokens=max_new_tokens,
        )
        for site in ENCODER_SITES
    ]
    # For the decoder, row 1 of the batch is the noise. Both rows read the tokens of row 0.
    memory, _ = asr.model.encode(jnp.concatenate([mel, noise_mel]))
    edits_of = AtSites(edit_towards(FromRow(jnp.ones(2, jnp.int32))), DECODER_SITES)
    cells = site_cells(asr.config, DECODER_SITES, alphas)
    outcomes.append(_outcomes(asr, clip, memory, cells, edits_of, max_new_tokens))
    return {"outcome": np.concatenate(outcomes)}


def _mel(asr: Recogniser, audio: Float[np.ndarray, "n"]) -> Float[Array, "1 M F"]:
    return jaxasr.log_mel(audio, asr.config.n_mels)[None]


def _edit_towards(kind: str, seed: int) -> Callable[..., Edit]:
    """Returns a function that maps a reference activation to an edit of strength 1."""
    if kind == "noise":
        return lambda value: Mix(jnp.asarray(1.0), value)
    return lambda value: RandomDirection(1.0, value, seed)


def _layer_and_strength(cells: Coordinates) -> Coordinates:
    """Drops the coordinates `site` and `head`, which are the same in all cells of one site."""
    return {name: cells[name] for name in ("layer", "alpha")}


def _outcomes(
    asr: Recogniser,
    clip: Utterance,
    source: Memory | Float[Array, "1 M F"],
    cells: Coordinates,
    edits_of: Callable[..., Edits],
    max_new_tokens: int,
) -> np.ndarray:
    """Generates one text per cell, and returns the outcomes.

    `source` is the log-mel of the recording, or the memory of the recording and the noise.
    """
    n_rows = source.xa.shape[0] if isinstance(source, Memory) else len(source)
    swept = sequence_sweep(
        asr,
        source,
        np.tile(np.asarray(asr.tokenizer.prompt("en"), np.int32), (n_rows, 1)),
        cells,
        edits_of=edits_of,
        # With two rows, the noise (row 1) reads the tokens that row 0 generates.
        leader=np.zeros(2, np.int32) if n_rows == 2 else None,
        max_new_tokens=max_new_tokens,
    )
    return np.array([outcome(str(text), clip) for text in swept.text.isel(example=0).values])
