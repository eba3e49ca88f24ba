"""Makes the three edits against hallucinations that study B3 compares."""

import dataclasses
from collections.abc import Mapping, Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

import jaxasr
from experiments.analyses import lens
from experiments.data.corpora import Utterance
from experiments.item_cache import Arrays, ItemCache
from experiments.studies.ablation import HEADS, ablate
from experiments.studies.selection import first_window, language
from interventions.edits import Add, Project, Scale, only, site_cells
from jaxasr import At, Memory, Recogniser, pytrees
from jaxasr.taps import Edits, select

STREAM = "decoder.resid_post"
EDITS = {
    "mask": "heads set to zero",
    "steer": "mean-difference steering",
    "project": "projection out of a subspace",
}


@dataclasses.dataclass(frozen=True)
class EditSettings:
    """Settings of the three edits.

    Attributes:
        n_heads: number of heads to mask.
        rank: number of directions to project out.
        depth: relative depth of the layer to steer or project.
        strength: factor of the difference of means in steering.
        max_new_tokens: largest number of tokens per generated text.
        seed: seed that `ablate` takes. It has no effect here, because heads are set to zero.
    """

    n_heads: int
    rank: int
    depth: float
    strength: float
    max_new_tokens: int
    seed: int


@pytrees.dataclass
class ScaleHeads:
    """Multiplies each head by its factor; a factor of 0 masks the head."""

    factor: Float[Array, "L H"]

    def __call__(self, x: Float[Array, "B T H Dh"], at: At) -> Float[Array, "B T H Dh"]:
        return Scale(self.factor[at.layer][:, None])(x, at)


def make_edits(
    name: str,
    asr: Recogniser,
    clips: Mapping[str, Sequence[Utterance]],
    settings: EditSettings,
    cache: ItemCache,
) -> Edits:
    """Makes one of `EDITS` from recordings that are not scored later.

    Args:
        name: a key of `EDITS`.
        asr: the model.
        clips: recordings by kind, "clean" and "nonspeech".
        settings: settings of the edits.
        cache: stores the results of single recordings.

    Returns:
        The edits by site.
    """
    if name == "mask":
        return _mask_heads(asr, clips, settings, cache)
    n_layers = asr.config.n_text_layer
    layer = min(round(settings.depth * n_layers), n_layers - 1)
    clean, hallucinated = (
        _text_states(asr, kind, clips[kind], layer, settings, cache)
        for kind in ("clean", "nonspeech")
    )
    if not len(hallucinated):
        hallucinated = clean  # no text was hallucinated, so the difference of means is zero
    differences = hallucinated - clean.mean(0)
    if name == "steer":
        step = jnp.asarray(-differences.mean(0), jnp.float32)
        return {STREAM: only(Add(step, settings.strength), layers=layer)}
    directions = np.linalg.svd(differences, full_matrices=False)[2][: settings.rank]
    return {STREAM: only(Project(jnp.asarray(directions, jnp.float32)), layers=layer)}


def _mask_heads(
    asr: Recogniser,
    clips: Mapping[str, Sequence[Utterance]],
    settings: EditSettings,
    cache: ItemCache,
) -> Edits:
    """Masks the heads with the largest benefit minus cost.

    The benefit is the share of recordings without speech whose words an ablation removes. The cost
    is its change of the word error rate on clean speech.
    """

    def ablate_heads(clip: Utterance) -> Arrays:
        return ablate(asr, clip, HEADS, "zero", settings.max_new_tokens, settings.seed)

    items = {kind: cache.each(f"B3 heads, {kind}", clips[kind], ablate_heads) for kind in clips}
    silenced = np.mean([_silenced(item) for item in items["nonspeech"]], 0)
    cost = np.mean([_wer_change(item) for item in items["clean"]], 0)
    best = np.argsort(-(silenced - cost), kind="stable")[: settings.n_heads]
    cells = site_cells(asr.config, HEADS)
    factor = np.ones((len(HEADS), asr.config.n_text_layer, asr.config.n_text_head), np.float32)
    factor[cells["site"][best], cells["layer"][best], cells["head"][best]] = 0
    return {site: ScaleHeads(jnp.asarray(factor[number])) for number, site in enumerate(HEADS)}


def _silenced(item: Arrays) -> Float[np.ndarray, "K"]:
    return (item["baseline_insertions"] > 0) - (item["insertions"] > 0).astype(float)


def _wer_change(item: Arrays) -> Float[np.ndarray, "K"]:
    return np.minimum(item["wer"], 1) - np.minimum(item["baseline_wer"], 1)


def _text_states(
    asr: Recogniser,
    kind: str,
    clips: Sequence[Utterance],
    layer: int,
    settings: EditSettings,
    cache: ItemCache,
) -> Float[np.ndarray, "N D"]:
    def text_state(clip: Utterance) -> Arrays:
        return {"states": mean_text_state(asr, clip, layer, settings.max_new_tokens)}

    items = cache.each(f"B3 states, {kind}", clips, text_state)
    return np.concatenate([item["states"] for item in items])


def mean_text_state(
    asr: Recogniser, clip: Utterance, layer: int, max_new_tokens: int
) -> Float[np.ndarray, "n D"]:
    """Averages the output of one decoder layer over the tokens of a generated text.

    Returns:
        The mean [1, D]; [0, D] if the text has no word.
    """
    prompt, memory = asr.tokenizer.prompt(language(clip) or "en"), encode_first_window(asr, clip)
    generated = asr.generate(memory, prompt, max_new_tokens=max_new_tokens)
    [ids], [text] = generated.ids, generated.text
    if not any(map(str.isalnum, text)):
        return np.zeros((0, asr.config.n_text_state), np.float32)
    run, _ = lens.make_run(memory, prompt, list(ids), asr)
    _, acts = run.decode(asr.model, readout=select(STREAM))
    text_positions = slice(len(prompt), len(prompt) + len(ids))
    return np.asarray(acts[STREAM])[layer, 0, text_positions].mean(0, keepdims=True)


def encode_first_window(asr: Recogniser, clip: Utterance) -> Memory:
    """Encodes the first 30 s of a recording."""
    return asr.model.encode(jaxasr.log_mel(first_window(clip), asr.config.n_mels)[None])[0]
