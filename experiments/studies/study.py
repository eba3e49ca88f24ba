"""Defines the parts of a study: settings, claims, evidence and verdicts.

Most claims are those of arXiv 2508.15882, "the paper". A claim fixes in advance which number must
lie above or below a null value. Evidence is that number with its interval. `Claim.judge` derives
the verdict from the evidence.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

REPLICATES = "replicates"
DOES_NOT_REPLICATE = "does not replicate at this scale"
UNTESTABLE = "not testable here"
MAX_P = 0.05  # significance level, the largest p-value with which a claim replicates


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
class Evidence:
    """A number with its 95 % interval.

    Attributes:
        value: the estimate.
        low: lower end of the interval.
        high: upper end of the interval.
        n: number of examples.
        p: p-value of a test against a null distribution; None if no such test was made.
    """

    value: float
    low: float
    high: float
    n: int
    p: float | None = None


@dataclasses.dataclass(frozen=True)
class Claim:
    """A pattern that the paper reports, and the test of it.

    Attributes:
        statement: the pattern, in words.
        paper: the paper's numbers.
        test: the number that is computed, in words.
        null: the value of that number if the pattern does not exist.
        side: "above" or "below", the side of the null on which the claim is true.
        min_examples: smallest number of examples for a verdict.

    Example:
        >>> claim = Claim("Loud frames have larger norms", "not reported", "rank correlation")
        >>> claim.judge(Evidence(0.5, 0.2, 0.8, n=20)).verdict
        'replicates'
    """

    statement: str
    paper: str
    test: str
    null: float = 0.0
    side: str = "above"
    min_examples: int = 10

    def judge(self, evidence: Evidence | None, reason: str = "") -> "Finding":
        """Derives the verdict from evidence.

        The claim replicates if the whole interval lies on the claim's side of the null. If the
        evidence has a p-value, the p-value must also be at most 0.05.

        Args:
            evidence: None if the claim cannot be tested.
            reason: why the claim cannot be tested.

        Returns:
            The finding. Its verdict is "not testable here" if there is no evidence, if there are
            fewer than `min_examples` examples, or if the estimate is not finite.
        """
        if evidence is None or evidence.n < self.min_examples or not np.isfinite(evidence.value):
            return Finding(self, evidence, UNTESTABLE, reason or self._why_untestable(evidence))
        on_side = evidence.low > self.null if self.side == "above" else evidence.high < self.null
        significant = evidence.p is None or evidence.p <= MAX_P
        verdict = REPLICATES if on_side and significant else DOES_NOT_REPLICATE
        return Finding(self, evidence, verdict)

    def judge_mean(self, values: Iterable[float] | np.ndarray, seed: int = 0) -> "Finding":
        """Derives the verdict on a mean over examples.

        Args:
            values: one number per example; NaN marks an example without a value.
            seed: seed of the bootstrap and of the sign-flip test.

        Returns:
            The finding.
        """
        return self.judge(mean_evidence(np.asarray(values, float), null=self.null, seed=seed))

    def _why_untestable(self, evidence: Evidence | None) -> str:
        if evidence is None:
            return "no examples"
        if evidence.n < self.min_examples:
            return f"{evidence.n} examples; at least {self.min_examples} are needed"
        return "the estimate is not finite"


@dataclasses.dataclass(frozen=True)
class Finding:
    """A claim with our evidence and the verdict that follows from the evidence.

    Attributes:
        claim: the tested claim.
        evidence: our number; None if it could not be computed.
        verdict: `REPLICATES`, `DOES_NOT_REPLICATE` or `UNTESTABLE`.
        why: the reason why the claim is untestable.
    """

    claim: Claim
    evidence: Evidence | None
    verdict: str
    why: str = ""


@dataclasses.dataclass(frozen=True)
class Analysis:
    """Results of a study's analysis.

    Attributes:
        findings: the finding of each claim, by the key of the claim.
        numbers: other numbers to report, as plain values or arrays.
    """

    findings: Mapping[str, Finding]
    numbers: Mapping[str, Any] = dataclasses.field(default_factory=dict)


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
        presets: changed settings by preset. "all" (if missing: "here") is for all recordings,
            "here" for a small model, "builtin" for the package's. "quick" is applied after another.
        claims: the tested claims by key. `analyse` returns one finding for each claim.
        differs: differences between our method and the paper's.
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
    version: int = 1

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


def mean_evidence(values: np.ndarray, *, null: float = 0.0, seed: int = 0) -> Evidence:
    """Estimates a mean over examples.

    Args:
        values: float [n], one number per example; NaN values are dropped.
        null: the mean under the null hypothesis.
        seed: seed of the bootstrap and of the sign-flip test.

    Returns:
        The mean, its 95 % bootstrap interval and the sign-flip p-value against `null`. With fewer
        than two examples, the interval is NaN and p is None.
    """
    import xarray as xr

    from interventions.stats.intervals import bootstrap, sign_flip

    x = xr.DataArray(values[np.isfinite(values)], dims="example")
    if x.size < 2:  # a bootstrap needs two values
        return Evidence(float(x.mean()) if x.size else np.nan, np.nan, np.nan, x.size)
    interval = bootstrap(x, seed=seed)
    mean, low, high = (float(interval[name]) for name in ("mean", "low", "high"))
    return Evidence(mean, low, high, x.size, float(sign_flip(x - null, seed=seed)))


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
