"""Defines a study: its settings, its claims and the functions that run, analyse and draw it."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from experiments.studies.claims import Claim, Finding, adjust


def paper(value: Any, where: str) -> Any:
    """Declares a settings field whose default is the paper's value.

    Args:
        value: the value in the paper.
        where: the section or figure that states it.

    Returns:
        A dataclass field.
    """
    return dataclasses.field(default=value, metadata={"source": "paper", "why": where})


def choice(value: Any, why: str) -> Any:
    """Declares a settings field whose value the paper does not state.

    Args:
        value: our choice.
        why: the reason for it.

    Returns:
        A dataclass field.
    """
    return dataclasses.field(default=value, metadata={"source": "our choice", "why": why})


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings that all studies share. A study's subclass adds fields by `paper` or `choice`.

    Attributes:
        seed: seed of sampling, noise and resampling.
    """

    seed: int = choice(0, "any number; it seeds sampling, noise and resampling")

    def with_sources(self) -> dict[str, dict[str, Any]]:
        """Returns the `value`, `source` and reason (`why`) of each field.

        A field that differs from the paper also has `paper`, the paper's value.
        """
        return {field.name: self._with_source(field) for field in dataclasses.fields(self)}

    def with_defaults(self) -> dict[str, dict[str, Any]]:
        """Returns `with_sources`. A choice that a preset changed also has `full`, its default."""
        defaults = {field.name: field.default for field in dataclasses.fields(self)}
        defaults["seed"] = self.seed
        rows = self.with_sources()
        for name, row in rows.items():
            if "paper" not in row and row["value"] != defaults[name]:
                row["full"] = defaults[name]
        return rows

    def _with_source(self, field: dataclasses.Field) -> dict[str, Any]:
        value, metadata = getattr(self, field.name), dict(field.metadata)
        if metadata["source"] == "paper" and value != field.default:
            why = f"available recordings and time; paper: {metadata['why']}"
            return {"value": value, "paper": field.default, "source": "our choice", "why": why}
        return {"value": value, **metadata}


@dataclasses.dataclass(frozen=True)
class Analysis:
    """Results of a study's analysis.

    Attributes:
        findings: the finding of each claim, by the key of the claim. Their p-values are adjusted
            by `experiments.studies.claims.adjust`.
        numbers: other numbers to report, as plain values or arrays.
    """

    findings: Mapping[str, Finding]
    numbers: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "findings", adjust(self.findings))


@dataclasses.dataclass(frozen=True)
class Study:
    """One experiment. Each study file in `experiments.studies` defines one as `STUDY`.

    Attributes:
        title: heading of the study's page.
        section: section of the paper.
        about: description of the method, in a few sentences.
        data: the recordings that the paper used.
        settings: a subclass of `Settings`.
        run: `run(asr, corpus, settings, cache)` returns an `xarray.Dataset` with a dimension
            `example`. `corpus` is an `experiments.data.corpora.Corpus`. `cache`
            (an `experiments.item_cache.ItemCache`) saves each item, so that a run can resume.
        analyse: `analyse(arrays, settings)` returns an `Analysis`. It uses neither the model nor
            the recordings, so that it can be tested on synthetic arrays.
        draw: `draw(arrays, settings)` returns matplotlib figures by name.
        presets: changed settings by preset. "all" uses every recording at hand, "here"
            is for a folder of recordings and a small model, "builtin" for the recordings of the
            package. "quick" is applied after another preset. Without "all", "here" replaces it.
        claims: the tested claims by key. `analyse` returns one finding for each claim.
        differs: differences between our method and the paper's.
        families: families of models that the study supports; see `jaxasr.families`.
        compare: `compare(arrays, other, seed)` returns the findings of claims that compare a run
            with `other`, the arrays of a run with another model. None: no claim does.
        counts: settings that decide which items `run` computes, but not what an item contains. A
            run with other values of them reuses the items.
        version: number to increase when `run` changes, so that `cache` ignores old items.
    """

    title: str
    section: str
    about: str
    data: str
    settings: type[Settings]
    run: Callable[..., Any]
    analyse: Callable[..., Analysis]
    draw: Callable[..., dict[str, Any]]
    presets: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    claims: Mapping[str, Claim] = dataclasses.field(default_factory=dict)
    differs: tuple[str, ...] = ()
    counts: tuple[str, ...] = ()
    version: int = 1
    families: tuple[str, ...] = ("whisper",)
    compare: Callable[..., Mapping[str, Finding]] | None = None

    def configured(self, preset: str, *, quick: bool = False, seed: int = 0) -> Settings:
        """Returns the settings of a preset.

        Args:
            preset: "paper", "all" or a key of `presets` other than "quick".
            quick: whether to apply the preset "quick" as well.
            seed: seed of the study.

        Raises:
            ValueError: the preset is unknown.
        """
        preset = "here" if preset == "all" and preset not in self.presets else preset
        names = {"paper", *self.presets} - {"quick"}
        if preset not in names:
            raise ValueError(f"preset: expected one of {', '.join(sorted(names))}, got {preset!r}.")
        quick_changes = self.presets.get("quick", {}) if quick else {}
        return self.settings(**{**self.presets.get(preset, {}), **quick_changes, "seed": seed})


def layers_in_band(depths: Iterable[float], low: float, high: float) -> np.ndarray:
    """Returns the layers whose relative depth lies between `low` and `high`.

    If no layer lies there, returns the layer nearest to the middle of the band. The top layer is
    part of a band only if `high` is 1.

    Args:
        depths: relative depth of each layer. The paper's layer 27 of 32 has depth 0.84.
        low: smallest depth, inclusive.
        high: largest depth, inclusive.

    Returns:
        int [n], indices into `depths`.

    Example:
        >>> layers_in_band([0.25, 0.5, 0.75, 1.0], 0.6, 0.9)
        array([2])
    """
    depths = np.asarray(list(depths), float)
    # The margin keeps a layer whose depth differs from a limit only by a rounding error.
    inside = np.flatnonzero((depths >= low - 1e-9) & (depths <= high + 1e-9))
    if inside.size:
        return inside
    # An infinite depth is never the nearest, so the top layer is not chosen.
    allowed = depths if high >= 1 else np.where(depths >= 1, np.inf, depths)
    return np.array([np.abs(allowed - (low + high) / 2).argmin()])
