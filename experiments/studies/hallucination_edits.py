"""Makes the three edits against hallucinations that study B3 compares.

A hallucination is a text with words that is generated for a recording without speech.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

import jaxasr
from experiments.analyses import lens
from experiments.data.corpora import Utterance
from experiments.item_cache import Arrays, ItemCache
from experiments.studies.ablation import HEAD_SITES, ablate
from experiments.studies.probing import Untestable
from experiments.studies.selection import first_window, language
from interventions.edits import Add, Project, Scale, only, site_cells
from jaxasr import At, Memory, Recogniser, pytrees
from jaxasr.taps import Edits, select

DECODER_STREAM = "decoder.resid_post"
# Names of the edits, and their descriptions in claims.
EDIT_TITLES = {
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
        depth: relative depth of the decoder layer that is steered or projected.
        strength: factor of the steering vector.
        max_new_tokens: largest number of tokens per generated text.
    """

    n_heads: int
    rank: int
    depth: float
    strength: float
    max_new_tokens: int


@pytrees.dataclass
class ScaleHeads:
    """Multiplies the output of each head by a factor; 0 masks the head."""

    factor: Float[Array, "L H"]

    def __call__(self, x: Float[Array, "B T H Dh"], at: At) -> Float[Array, "B T H Dh"]:
        # The factors [H, 1] broadcast over positions and over the width of a head.
        return Scale(self.factor[at.layer][:, None])(x, at)


def identity(asr: Recogniser) -> Edits:
    """Returns an edit that changes nothing."""
    factor = jnp.ones((asr.config.n_text_layer, asr.config.n_text_head), jnp.float32)
    return {HEAD_SITES[0]: ScaleHeads(factor)}


def make_all_edits(
    asr: Recogniser,
    clips: Mapping[str, Sequence[Utterance]],
    settings: EditSettings,
    cache: ItemCache,
) -> tuple[dict[str, Edits], dict[str, str]]:
    """Makes all of `EDIT_TITLES`; see `make_edits`.

    Returns:
        The edits by name, and the reasons why edits cannot be made, also by name.
    """
    edits, reasons = {}, {}
    for name in EDIT_TITLES:
        try:
            edits[name] = make_edits(name, asr, clips, settings, cache)
        except Untestable as reason:
            reasons[name] = str(reason)
    return edits, reasons


def make_edits(
    name: str,
    asr: Recogniser,
    clips: Mapping[str, Sequence[Utterance]],
    settings: EditSettings,
    cache: ItemCache,
) -> Edits:
    """Makes one of `EDIT_TITLES` from recordings that are not scored later.

    Args:
        name: a key of `EDIT_TITLES`.
        asr: the model.
        clips: recordings by kind, "clean" and "nonspeech".
        settings: settings of the edits.
        cache: stores the results of single recordings.

    Returns:
        The edits by site.

    Raises:
        Untestable: no recording without speech gets words, or no clean recording does.
    """
    if name == "mask":
        return _mask_heads(asr, clips, settings, cache)
    n_layers = asr.config.n_text_layer
    layer = min(round(settings.depth * n_layers), n_layers - 1)
    clean, hallucinated = (
        _text_states(asr, kind, clips[kind], layer, settings, cache)
        for kind in ("clean", "nonspeech")
    )
    _check_texts(n_hallucinated=len(hallucinated), n_clean=len(clean))
    differences = hallucinated - clean.mean(0)
    if name == "steer":
        step = jnp.asarray(-differences.mean(0), jnp.float32)
        return {DECODER_STREAM: only(Add(step, settings.strength), layers=layer)}
    # The rows of the third factor, Vᵀ, are the directions of largest difference, largest first.
    directions = np.linalg.svd(differences, full_matrices=False)[2][: settings.rank]
    return {DECODER_STREAM: only(Project(jnp.asarray(directions, jnp.float32)), layers=layer)}


def _mask_heads(
    asr: Recogniser,
    clips: Mapping[str, Sequence[Utterance]],
    settings: EditSettings,
    cache: ItemCache,
) -> Edits:
    """Masks the heads with the largest benefit minus cost.

    The benefit of an ablation is the share of recordings without speech that lose all words, minus
    the share that gain words. Its cost is the change of the word error rate of clean speech.
    """

    def ablate_heads(clip: Utterance) -> Arrays:
        return ablate(asr, clip, HEAD_SITES, kind="zero", max_new_tokens=settings.max_new_tokens)

    items = {kind: cache.each(f"B3 heads, {kind}", clips[kind], ablate_heads) for kind in clips}
    n_hallucinated = sum(bool(item["baseline_insertions"] > 0) for item in items["nonspeech"])
    _check_texts(n_hallucinated, n_clean=len(items["clean"]))
    silenced = np.mean([_silenced(item) for item in items["nonspeech"]], 0)
    cost = np.mean([_wer_change(item) for item in items["clean"]], 0)
    # Of equal cells, a stable sort chooses the first, whichever algorithm NumPy uses.
    best = np.argsort(-(silenced - cost), kind="stable")[: settings.n_heads]
    cells = site_cells(asr.config, HEAD_SITES)
    # factor[site, layer, head] is 0 for the chosen heads.
    factor = np.ones((len(HEAD_SITES), asr.config.n_text_layer, asr.config.n_text_head), np.float32)
    factor[cells["site"][best], cells["layer"][best], cells["head"][best]] = 0
    return {site: ScaleHeads(jnp.asarray(factor[number])) for number, site in enumerate(HEAD_SITES)}


def _check_texts(n_hallucinated: int, n_clean: int) -> None:
    """Raises `Untestable` if hallucinated texts or texts of clean speech are missing."""
    if not n_hallucinated:
        raise Untestable(
            "the edit cannot be made: no recording without speech gets words in the half of the "
            "recordings from which edits are made"
        )
    if not n_clean:
        raise Untestable(
            "the edit cannot be made: no clean recording gets words in the half of the recordings "
            "from which edits are made"
        )


def _silenced(item: Arrays) -> Float[np.ndarray, "K"]:
    """Returns 1 per cell if all words disappear, -1 if words appear, else 0."""
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
    """Returns one row per text that has words: the mean of its decoder states."""

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
    _, acts = run.decode(asr.model, readout=select(DECODER_STREAM))
    # The prompt is left out, because it is the same for all texts.
    text_positions = slice(len(prompt), len(prompt) + len(ids))
    return np.asarray(acts[DECODER_STREAM])[layer, 0, text_positions].mean(0, keepdims=True)


def encode_first_window(asr: Recogniser, clip: Utterance) -> Memory:
    """Encodes the first 30 s of a recording."""
    return asr.model.encode(jaxasr.log_mel(first_window(clip), asr.config.n_mels)[None])[0]
