"""Ablates the layers or heads of decoder sites one at a time, and measures the generated texts."""

from collections.abc import Mapping, Sequence

import jax.numpy as jnp
import numpy as np
import xarray as xr

import jaxasr
from experiments.data.corpora import Utterance
from experiments.item_cache import Arrays
from experiments.studies.selection import first_window, language
from interventions.corruptions import white_noise_like
from interventions.edits import AtSites, FromRow, Patch, Zero, site_cells
from interventions.edits.attention import mean_ablation
from interventions.edits.cells import Coordinates
from interventions.generation import sequence_sweep
from jaxasr import Recogniser, pytrees
from jaxasr.taps import Edit, Edits

# Sites with one cell per layer, and sites with one cell per head.
COMPONENT_SITES = ("decoder.cross_attn_out", "decoder.attn_out", "decoder.mlp_out")
HEAD_SITES = ("decoder.cross_attn.z", "decoder.attn.z")
ABLATION_KINDS = ("noise", "zero")  # what replaces an ablated activation in E6
# Names of the measurements of a generated text.
TEXT_MEASURES = (
    "length",
    "loop",
    "wer",
    "cer",
    "insertions",
    "avg_logprob",
    "no_speech_prob",
    "compression_ratio",
)
_MAX_MEAN_TOKENS = 48  # largest number of generated tokens per text that means are taken over


@pytrees.dataclass
class EditPerSite:
    """Maps a cell of a sweep to the edits of all sites. Each site has an edit of its own.

    Attributes:
        edits: one edit per site.
        sites: site names, in the order of `edits`.
    """

    edits: tuple[Edit, ...]
    sites: tuple[str, ...] = pytrees.field(pytree_node=False)

    def __call__(self, cell: dict[str, np.ndarray]) -> Edits:
        # `AtSites` limits the edit to the cell's site, layer and head. It is inactive elsewhere.
        return {
            site: AtSites(edit, self.sites)(cell)[site]
            for site, edit in zip(self.sites, self.edits)
        }


def mean_edits(
    asr: Recogniser, clips: Sequence[Utterance], sites: Sequence[str]
) -> dict[str, Patch]:
    """Computes the edits of mean ablation.

    Args:
        asr: the model.
        clips: recordings to average over, none of which may be scored later.
        sites: decoder sites.

    Returns:
        An edit per site, which replaces the activations of a layer or head by their mean. The mean
        is taken over all positions of prompts and generated texts. Texts end after 48 tokens.
    """
    mels = [jaxasr.log_mel(first_window(clip), asr.config.n_mels) for clip in clips]
    memory, _ = asr.model.encode(jnp.stack(mels))
    prompt = np.tile(np.asarray(asr.tokenizer.prompt("en"), np.int32), (len(clips), 1))
    generated = asr.generate(memory, prompt, max_new_tokens=_MAX_MEAN_TOKENS).generation
    tokens = np.concatenate([prompt, np.asarray(generated.tokens)], 1)
    lengths = prompt.shape[1] + np.asarray(generated.lengths)
    valid = np.arange(tokens.shape[1]) < lengths[:, None]  # [B, T], excludes padding
    _, acts = asr.model.decode(jnp.asarray(tokens), memory, readout=jaxasr.select(*sites))
    return {site: mean_ablation(acts[site], site, valid) for site in sites}


def ablate(
    asr: Recogniser,
    clip: Utterance,
    sites: Sequence[str],
    kind: str,
    max_new_tokens: int,
    seed: int = 0,
    means: Mapping[str, Edit] | None = None,
) -> Arrays:
    """Generates one text per layer or head of `sites`, with that layer or head ablated.

    Texts are generated greedily, without timestamps.

    Args:
        asr: the model.
        clip: the recording; word errors are counted against its transcript.
        sites: decoder sites.
        kind: "zero", "mean" or "noise". "noise" inserts the activations for white noise of the
            recording's length and level. The decoder reads the same tokens for the recording and
            for the noise.
        max_new_tokens: largest number of tokens per text.
        seed: seed of the white noise.
        means: edits by site, from `mean_edits`; required for "mean".

    Returns:
        Each of `TEXT_MEASURES` as [cell], in the order of `interventions.edits.site_cells`. Names
        that begin with `baseline_` are the values without an edit. Word errors are NaN without a
        transcript.

    Raises:
        ValueError: the kind is unknown, or "mean" is used without `means`.
    """
    audio, code = first_window(clip), language(clip) or "en"
    recordings = [audio, white_noise_like(audio, seed)] if kind == "noise" else [audio]
    mels = [jaxasr.log_mel(samples, asr.config.n_mels) for samples in recordings]
    memory, _ = asr.model.encode(jnp.stack(mels))
    prompt = np.tile(np.asarray(asr.tokenizer.prompt(code), np.int32), (len(mels), 1))
    swept = sequence_sweep(
        asr,
        memory,
        prompt,
        site_cells(asr.config, sites),
        edits_of=_edits_of(kind, tuple(sites), means),
        references=[clip.transcript],
        language=code,
        max_new_tokens=max_new_tokens,
        # Row 0 is the recording, row 1 the noise. Both rows read the tokens generated for row 0.
        leader=np.zeros(2, np.int32) if kind == "noise" else None,
    )
    names = [name for measure in TEXT_MEASURES for name in (measure, f"baseline_{measure}")]
    return {name: swept[name].isel(example=0).values for name in names}


def _edits_of(
    kind: str, sites: tuple[str, ...], means: Mapping[str, Edit] | None
) -> AtSites | EditPerSite:
    if kind == "zero":
        return AtSites(Zero(), sites)
    if kind == "noise":
        # Both rows take their activations from row 1, the noise.
        return AtSites(Patch(FromRow(jnp.ones(2, jnp.int32))), sites)
    if kind == "mean" and means is not None:
        return EditPerSite(tuple(means[site] for site in sites), sites)
    raise ValueError(f"kind: expected 'zero', 'noise', or 'mean' with means, got {kind!r}.")


def to_dataset(
    clips: Sequence[Utterance],
    items: Sequence[Sequence[Arrays]],
    kinds: Sequence[str],
    sites: Sequence[str],
    cells: Coordinates,
) -> xr.Dataset:
    """Collects the results of `ablate` in one dataset.

    Args:
        clips: the recordings.
        items: results of `ablate`, one list per recording with one result per kind.
        kinds: kinds of ablation.
        sites: the ablated sites.
        cells: from `interventions.edits.site_cells`.

    Returns:
        `TEXT_MEASURES` [example, kind, cell], `baseline_...` [example], and the coordinates `site`,
        `layer` and `head` of the cells.
    """
    shape = (len(clips), len(kinds), len(cells["site"]))
    edited = {
        name: np.array([[item[name] for item in row] for row in items], float).reshape(shape)
        for name in TEXT_MEASURES
    }
    # Without an edit, all kinds of a recording generate the same text.
    baseline = {
        f"baseline_{name}": np.array([row[0][f"baseline_{name}"] for row in items], float)
        for name in TEXT_MEASURES
    }
    return xr.Dataset(
        {name: (("example", "kind", "cell"), values) for name, values in edited.items()}
        | {name: ("example", values) for name, values in baseline.items()},
        {
            "example": [clip.id for clip in clips],
            "kind": list(kinds),
            "site": ("cell", [sites[number] for number in cells["site"]]),
            "layer": ("cell", cells["layer"]),
            "head": ("cell", cells["head"]),
        },
    )


def wer_change(arrays: xr.Dataset) -> xr.DataArray:
    """Computes how much each ablation raises the word error rate.

    Both rates are limited to 1, because a repetitive text can contain very many words.

    Example:
        >>> arrays = xr.Dataset({"wer": ("cell", [0.25, 3.0]), "baseline_wer": 0.5})
        >>> wer_change(arrays).values
        array([-0.25,  0.5 ])
    """
    return np.minimum(arrays.wer, 1) - np.minimum(arrays.baseline_wer, 1)


def cells_of_site(values: xr.DataArray, site: str) -> xr.DataArray:
    """Selects the cells of one site."""
    return values.isel(cell=np.flatnonzero(values.site.values == site))


def layer_grid(values: xr.DataArray, site: str) -> np.ndarray:
    """Arranges the cells of one site as [layer, head], or as [layer, 1] if it has no heads.

    Example:
        >>> cells = {"site": ("cell", ["z", "z", "z"]), "layer": ("cell", [0, 1, 2])}
        >>> layer_grid(xr.DataArray([5, 6, 7], coords=cells, dims="cell"), "z").tolist()
        [[5], [6], [7]]
    """
    cells = cells_of_site(values, site)
    return cells.values.reshape(cells.layer.values.max() + 1, -1)
