"""Ablates the layers or heads of decoder sites one at a time, and measures the generated texts."""

from collections.abc import Mapping, Sequence

import jax.numpy as jnp
import numpy as np
import xarray as xr

import jaxasr
from experiments.data.corpora import Utterance
from experiments.item_cache import Arrays
from experiments.studies.loops.mining import prompt_of
from experiments.studies.selection import first_window, language
from interventions.corruptions import white_noise_like
from interventions.edits import AtSites, FromRow, Patch, RandomDirection, Zero, site_cells
from interventions.edits.attention import mean_ablation
from interventions.edits.cells import Coordinates
from interventions.generation import sequence_sweep
from jaxasr import Recogniser, pytrees
from jaxasr.config import Config
from jaxasr.taps import Edit, Edits

# Sites with one cell per layer, and sites with one cell per head.
COMPONENT_SITES = ("decoder.cross_attn_out", "decoder.attn_out", "decoder.mlp_out")
HEAD_SITES = ("decoder.cross_attn.z", "decoder.attn.z")
PART_NAMES = dict(
    zip(
        (*COMPONENT_SITES, *HEAD_SITES),
        ("cross-attention", "self-attention", "MLP", "cross head", "self head"),
    )
)
# What replaces an activation. "noise" is the activation for white noise, "mean" the mean over clean
# speech. "random 1" moves the activation as far as "noise" does, in a random direction of seed 1.
NOISE, ZERO, MEAN = "noise", "zero", "mean"
RANDOM_KINDS = ("random 0", "random 1", "random 2")
ABLATION_KINDS = (NOISE, ZERO, MEAN, *RANDOM_KINDS)
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
    cells: Sequence[int] | np.ndarray | None = None,
) -> Arrays:
    """Generates one text per layer or head of `sites`, with that layer or head ablated.

    Texts are generated greedily, after the prompt of `loops.mining.prompt_of`.

    Args:
        asr: the model.
        clip: the recording; word errors are counted against its transcript.
        sites: decoder sites.
        kind: one of `ABLATION_KINDS`. White noise has the recording's length and level, and the
            decoder reads the same tokens for the recording and for the noise.
        max_new_tokens: largest number of tokens per text.
        seed: seed of the white noise.
        means: edits by site, from `mean_edits`; required for "mean".
        cells: indices of the cells to ablate; None for all.

    Returns:
        Each of `TEXT_MEASURES` and `text` as [cell], in the order of
        `interventions.edits.site_cells`. `unchanged` is 1 for a cell whose text and
        log-probabilities have the same bits as without an edit. Names that begin with `baseline_`
        are the values without an edit. Word errors are NaN without a transcript.

    Raises:
        ValueError: the kind is unknown, or "mean" is used without `means`.
    """
    with_noise = kind not in (ZERO, MEAN)
    audio, code = first_window(clip), language(clip) or "en"
    recordings = [audio, white_noise_like(audio, seed)] if with_noise else [audio]
    mels = [jaxasr.log_mel(samples, asr.config.n_mels) for samples in recordings]
    memory, _ = asr.model.encode(jnp.stack(mels))
    swept = sequence_sweep(
        asr,
        memory,
        np.tile(np.asarray(prompt_of(asr, clip), np.int32), (len(mels), 1)),
        _with_reference(asr, sites, cells),
        edits_of=_edits_of(kind, tuple(sites), means),
        references=[clip.transcript],
        language=code,
        max_new_tokens=max_new_tokens,
        # Row 0 is the recording, row 1 the noise. Both rows read the tokens generated for row 0.
        leader=np.zeros(2, np.int32) if with_noise else None,
    ).isel(example=0)
    # The last cell edits nothing. It ran in the same program, so that equal bits mean no effect.
    scores = np.stack([swept.avg_logprob, swept.no_speech_prob])
    is_equal = (scores[:, :-1] == scores[:, -1:]).all(0) & (
        swept.text[:-1] == swept.text[-1]
    ).values
    names = [*TEXT_MEASURES, "text"]
    return {
        **{name: swept[name].values[:-1] for name in names},
        **{f"baseline_{name}": swept[f"baseline_{name}"].values for name in names},
        "unchanged": is_equal.astype(float),
    }


def _with_reference(
    asr: Recogniser, sites: Sequence[str], cells: Sequence[int] | np.ndarray | None
) -> Coordinates:
    """Selects cells, and adds one whose layer does not exist, so that nothing is edited."""
    all_cells = site_cells(asr.config, sites)
    index = slice(None) if cells is None else np.asarray(cells, int)
    nothing = {"site": 0, "layer": asr.config.n_text_layer, "head": 0}
    return {
        name: np.append(values[index], np.int32(nothing[name]))
        for name, values in all_cells.items()
    }


def _edits_of(
    kind: str, sites: tuple[str, ...], means: Mapping[str, Edit] | None
) -> AtSites | EditPerSite:
    noise = FromRow(jnp.ones(2, jnp.int32))  # both rows refer to row 1, the noise
    if kind == ZERO:
        return AtSites(Zero(), sites)
    if kind == NOISE:
        return AtSites(Patch(noise), sites)
    if kind in RANDOM_KINDS:
        seed = jnp.asarray(RANDOM_KINDS.index(kind), jnp.int32)
        return AtSites(RandomDirection(1.0, noise, seed), sites)
    if kind == MEAN and means is not None:
        return EditPerSite(tuple(means[site] for site in sites), sites)
    raise ValueError(
        f"kind: expected one of {', '.join(ABLATION_KINDS)}, 'mean' with means, got {kind!r}."
    )


def to_dataset(
    clips: Sequence[Utterance],
    items: Mapping[str, Sequence[Arrays]],
    sites: Sequence[str],
    config: Config,
    cells: Mapping[str, Sequence[int] | np.ndarray] | None = None,
) -> xr.Dataset:
    """Collects the results of `ablate` in one dataset.

    Args:
        clips: the recordings.
        items: results of `ablate` by kind of ablation, one per recording.
        sites: the ablated sites.
        config: the model's config.
        cells: the ablated cells of a kind; the other cells of this kind are NaN. A kind that is not
            listed has all cells.

    Returns:
        `TEXT_MEASURES` and `unchanged` [example, kind, cell], `baseline_...` [example], and the
        coordinates `site`, `layer` and `head` of the cells.
    """
    all_cells = site_cells(config, sites)
    n_cells = len(all_cells["site"])

    def collect(name: str) -> np.ndarray:
        values = np.full((len(clips), len(items), n_cells), np.nan)
        for column, (kind, results) in enumerate(items.items()):
            index = (cells or {}).get(kind, range(n_cells))
            if len(clips):
                values[:, column, np.asarray(index, int)] = [result[name] for result in results]
        return values

    # Without an edit, all kinds of a recording generate the same text.
    first = next(iter(items.values()))
    edited = {name: collect(name) for name in (*TEXT_MEASURES, "unchanged")}
    baseline = {
        f"baseline_{name}": np.array([item[f"baseline_{name}"] for item in first], float)
        for name in TEXT_MEASURES
    }
    return xr.Dataset(
        {name: (("example", "kind", "cell"), values) for name, values in edited.items()}
        | {name: ("example", values) for name, values in baseline.items()},
        {
            "example": [clip.id for clip in clips],
            "kind": list(items),
            "site": ("cell", [sites[number] for number in all_cells["site"]]),
            "layer": ("cell", all_cells["layer"]),
            "head": ("cell", all_cells["head"]),
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


def cell_names(arrays: xr.Dataset | xr.DataArray) -> list[str]:
    """Names the cells: "cross-attention 1", "MLP 0", "cross head 0.2", "self head 3.1".

    Example:
        >>> site = ["decoder.cross_attn.z", "decoder.mlp_out"]
        >>> cells = {"site": ("cell", site), "layer": ("cell", [0, 3]), "head": ("cell", [2, -1])}
        >>> cell_names(xr.Dataset(coords=cells))
        ['cross head 0.2', 'MLP 3']
    """
    names: dict[str, str] = {**PART_NAMES}
    cells = zip(arrays.site.values, arrays.layer.values, arrays["head"].values)
    return [
        f"{names[str(site)]} {layer}" + (f".{head}" if head >= 0 else "")
        for site, layer, head in cells
    ]
