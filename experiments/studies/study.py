"""What a study of a published claim is made of: settings with their sources, claims with their tests, evidence, verdicts.

A verdict is never written by hand. A claim states, before anything is computed, the number that would have to differ from a null;
evidence is that number with its interval; the verdict follows from the two.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

REPLICATES, DOES_NOT, UNTESTABLE = (
    "replicates",
    "does not replicate at this scale",
    "not testable here",
)
ALPHA = 0.05  # a p-value above it is no evidence


def paper(value: Any, where: str) -> Any:
    """A field of settings whose value is the paper's, and where it says so."""
    return dataclasses.field(default=value, metadata={"source": "paper", "why": where})


def choice(value: Any, why: str) -> Any:
    """A field of settings that the paper leaves open: our choice, with the reason."""
    return dataclasses.field(default=value, metadata={"source": "our choice", "why": why})


@dataclasses.dataclass(frozen=True)
class Settings:
    """What every study can be told; the defaults of a study's own fields are the settings of the paper."""

    seed: int = choice(0, "any number; of samples, noise and resampling")

    def sourced(self) -> dict[str, dict[str, Any]]:
        """Every field with `value`, `source` and `why`; where the paper's value was changed, also `paper`."""
        return {field.name: self._sourced(field) for field in dataclasses.fields(self)}

    def explained(self) -> dict[str, dict[str, Any]]:
        """The same for readers: where our choice was made smaller by a preset, also `full`, what the reason is for."""
        full = {field.name: field.default for field in dataclasses.fields(self)} | {
            "seed": self.seed
        }
        smaller = {
            name
            for name, one in self.sourced().items()
            if "paper" not in one and one["value"] != full[name]
        }
        return {
            name: one | ({"full": full[name]} if name in smaller else {})
            for name, one in self.sourced().items()
        }

    def _sourced(self, field: dataclasses.Field) -> dict[str, Any]:
        value, known = getattr(self, field.name), dict(field.metadata)
        if known["source"] == "paper" and value != field.default:
            return {
                "value": value,
                "paper": field.default,
                "source": "our choice",
                "why": f"what is at hand; paper: {known['why']}",
            }
        return {"value": value, **known}


@dataclasses.dataclass(frozen=True)
class Evidence:
    """A number with its interval, from `n` examples; `p` where a test against a null distribution was made as well."""

    value: float
    low: float
    high: float
    n: int
    p: float | None = None


@dataclasses.dataclass(frozen=True)
class Claim:
    """A pattern that the paper reports, and its test.

    says: the pattern, in words. paper: the paper's numbers. test: what is computed, in words, stated beforehand.
    null: what the number would be if there were nothing. side: "above" or "below" it when the claim is true.
    need: examples below which nothing is concluded.
    """

    says: str
    paper: str
    test: str
    null: float = 0.0
    side: str = "above"
    need: int = 10

    def judge(self, evidence: Evidence | None, otherwise: str = "") -> "Finding":
        """The verdict: the whole interval lies on the claim's side of the null, and p, if any, is at most 0.05.

        Without `evidence` the claim is not testable, because of `otherwise`; nor is it with fewer than `need` examples.
        """
        if evidence is None or evidence.n < self.need or not np.isfinite(evidence.value):
            few = f"{evidence.n} examples, {self.need} are needed" if evidence else "no examples"
            return Finding(self, evidence, UNTESTABLE, otherwise or few)
        beyond = evidence.low > self.null if self.side == "above" else evidence.high < self.null
        sure = evidence.p is None or evidence.p <= ALPHA
        return Finding(self, evidence, REPLICATES if beyond and sure else DOES_NOT)

    def over(self, values: Iterable[float] | np.ndarray, seed: int = 0) -> "Finding":
        """The verdict on the mean of one number an example; NaN is an example without a value."""
        return self.judge(mean_of(np.asarray(values, float), null=self.null, seed=seed))


@dataclasses.dataclass(frozen=True)
class Finding:
    """A claim with our evidence and the verdict that follows; `why` where it cannot be tested."""

    claim: Claim
    evidence: Evidence | None
    verdict: str
    why: str = ""


@dataclasses.dataclass(frozen=True)
class Analysis:
    """Findings by the name of their claim, and the other numbers worth reporting (plain values or arrays)."""

    findings: Mapping[str, Finding]
    numbers: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Study:
    """One experiment; a file of `experiments.studies` calls it STUDY.

    title, section: of the paper. about: what is done, in two sentences. data: what the paper used. differs: how our method differs.
    settings: a subclass of `Settings`. presets: changes of it, by name: "paper" (none), "here" (a folder of recordings and a small
    model), "builtin" (nothing but the packages), and "quick", which comes on top of the others.
    run(asr, data, settings, keep): the labelled arrays (xarray.Dataset) with a dimension `example`. `data` is an
    `experiments.data.real_speech.Collection`; what is expensive goes through `keep` (`experiments.item_cache.Keep`) item by item.
    analyse(arrays, settings): an `Analysis`; of arrays alone, so that it can be tested with made-up ones.
    draw(arrays, settings): figures (matplotlib) by name.
    version: raised when `run` gives other numbers, so that kept items of the old one are not used.
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
    differs: tuple[str, ...] = ()
    version: int = 1

    def configured(self, preset: str, *, quick: bool = False, seed: int = 0) -> Settings:
        """The settings of a preset. Raises ValueError for an unknown one."""
        known = {"paper", *self.presets} - {"quick"}
        if preset not in known:
            raise ValueError(f"preset: expected one of {', '.join(sorted(known))}, got {preset!r}.")
        changes = {
            **self.presets.get(preset, {}),
            **(self.presets.get("quick", {}) if quick else {}),
        }
        return self.settings(**{**changes, "seed": seed})


def mean_of(values: np.ndarray, *, null: float = 0.0, seed: int = 0) -> Evidence:
    """The mean of one number an example, its 95 % bootstrap interval, and the sign-flip p-value against `null`. NaN is left out."""
    import xarray as xr

    from interventions.stats.intervals import bootstrap, sign_flip

    x = xr.DataArray(values[np.isfinite(values)], dims="example")
    if x.size < 2:
        return Evidence(float(x.mean()) if x.size else np.nan, np.nan, np.nan, x.size)
    found = bootstrap(x, seed=seed)
    return Evidence(
        float(found["mean"]),
        float(found["low"]),
        float(found["high"]),
        x.size,
        float(sign_flip(x - null, seed=seed)),
    )


def band(depths: Iterable[float], low: float, high: float) -> np.ndarray:
    """The layers (indices) at relative depths `low` to `high`; where a small model has none there, the one nearest to the middle.

    A depth is a share of all layers: the paper's layer 27 of 32 is 0.84. The top layer is in a band only when `high` is 1.
    """
    depths = np.asarray(list(depths), float)
    inside = np.flatnonzero((depths >= low - 1e-9) & (depths <= high + 1e-9))
    allowed = depths if high >= 1 else np.where(depths >= 1, np.inf, depths)
    return inside if inside.size else np.array([np.abs(allowed - (low + high) / 2).argmin()])
