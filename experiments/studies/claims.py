"""Defines claims, and derives the verdict on a claim from evidence.

Most claims are those of arXiv 2508.15882, "the paper". A claim fixes in advance which number is
estimated, its value under the null hypothesis, the smallest value worth having and the paper's
number. `docs/decisions/0025-four-verdicts.md` has the reasons for the rule.
"""

import dataclasses
from collections.abc import Hashable, Iterable, Mapping, Sequence

import numpy as np

from experiments.studies.evidence import Evidence, mean_evidence, share_evidence

SUPPORTED = "supported"
WEAKER = "weaker"
CONTRADICTED = "contradicted"
UNDECIDED = "undecided"
UNTESTABLE = "untestable"
VERDICTS = (SUPPORTED, WEAKER, CONTRADICTED, UNDECIDED, UNTESTABLE)
MAX_Q = 0.05  # largest adjusted p-value with which a claim lies beyond its null
FEW_UNITS = 20  # a verdict from fewer independent units is marked
# A study detects an effect of this many standard errors in four runs of five.
_DETECTABLE_ERRORS = 2.8
PRIMARY, SECONDARY = "primary", "secondary"


@dataclasses.dataclass(frozen=True)
class Claim:
    """A pattern, and the test of it.

    Attributes:
        statement: the pattern, in words.
        paper: the paper's numbers, in words.
        test: the estimate, in words.
        null: value of the estimate if the pattern does not exist.
        side: "above" or "below", the side of the null on which the claim is true.
        least: smallest value of the estimate that is worth having, on the claim's side of the null.
            For a claim that a cost stays below a margin, null and least are the margin.
        paper_value: the paper's number on the scale of the estimate; None if it has none.
        unit: "%" if the estimate is a share that is shown times 100; else a word or "".
        units: what `Evidence.n` counts, such as "speakers".
        min_units: smallest number of independent units for a verdict.
        family: "primary" for claims of the paper, "secondary" for ours. The p-values of one family
            of a study are adjusted together.
        floor: name of the baseline that would make the claim trivial.

    Example:
        >>> claim = Claim("Loud frames have larger norms", "not reported", "correlation", least=0.2)
        >>> claim.judge(Evidence(0.5, 0.2, 0.8, n=20)).verdict
        'supported'
    """

    statement: str
    paper: str
    test: str
    null: float = 0.0
    side: str = "above"
    least: float | None = None
    paper_value: float | None = None
    unit: str = ""
    units: str = "recordings"
    min_units: int = 10
    family: str = PRIMARY
    floor: str = ""

    def __post_init__(self) -> None:
        if self.least is None and self.paper_value is None:
            raise ValueError(
                f"least: expected the smallest value worth having, got None for the claim "
                f"{self.statement!r}. Give least= or paper_value=."
            )

    def judge(self, evidence: Evidence | None, reason: str = "") -> "Finding":
        """Derives the verdict from evidence.

        * supported: the 95 % interval lies beyond the null and reaches the paper's number. Without
          such a number, the estimate reaches `least`.
        * weaker: the interval lies beyond the null, but does not reach the paper's number. Without
          such a number, the estimate does not reach `least`.
        * contradicted: the interval does not lie beyond the null, and excludes `least`.
        * undecided: the interval contains the null and `least`.

        Args:
            evidence: None if the claim cannot be tested.
            reason: why the claim cannot be tested.

        Returns:
            The finding. Its verdict is "untestable" if there is no evidence, if there are fewer
            than `min_units` units, or if the interval is not finite.
        """
        why = self._why_untestable(evidence)
        if evidence is None or why:
            return Finding(self, evidence, UNTESTABLE, reason or why)
        return Finding(self, evidence, self._verdict(evidence), detectable=self._detect(evidence))

    def judge_mean(
        self,
        values: Iterable[float] | np.ndarray,
        seed: int = 0,
        *,
        clusters: Sequence[Hashable] | np.ndarray | None = None,
        bounds: tuple[float, float] | None = None,
    ) -> "Finding":
        """Derives the verdict on a mean; see `experiments.studies.evidence.mean_evidence`."""
        return self.judge(mean_evidence(values, clusters, null=self.null, bounds=bounds, seed=seed))

    def judge_share(
        self,
        outcomes: Iterable[bool] | np.ndarray,
        *,
        clusters: Sequence[Hashable] | np.ndarray | None = None,
    ) -> "Finding":
        """Derives the verdict on a share; see `experiments.studies.evidence.share_evidence`."""
        return self.judge(share_evidence(outcomes, clusters, null=self.null))

    def _verdict(self, evidence: Evidence) -> str:
        # Claims below the null are reflected, so that the claim's side is always the larger one.
        sign = 1 if self.side == "above" else -1
        low, high = sorted((sign * evidence.low, sign * evidence.high))
        null, least = sign * self.null, sign * self.least_value
        if low > null:
            if self.paper_value is None:
                return SUPPORTED if sign * evidence.value >= least else WEAKER
            return SUPPORTED if high >= sign * self.paper_value else WEAKER
        return CONTRADICTED if high < least else UNDECIDED

    @property
    def least_value(self) -> float:
        """The smallest value worth having: `least`, or half the way to the paper's number."""
        if self.least is not None:
            return self.least
        assert self.paper_value is not None  # checked by the constructor
        return (self.null + self.paper_value) / 2

    def _detect(self, evidence: Evidence) -> float | None:
        """Returns the smallest true value that as many units show in four runs of five."""
        from interventions.stats import detectable_share

        if evidence.counts is not None and evidence.error is None:
            return detectable_share(evidence.n, self.null, self.side)
        error = evidence.error
        if error is None:
            error = (evidence.high - evidence.low) / (2 * 1.96)
        distance = _DETECTABLE_ERRORS * error
        return self.null + (distance if self.side == "above" else -distance)

    def _why_untestable(self, evidence: Evidence | None) -> str:
        if evidence is None:
            return f"no {self.units}"
        if evidence.n < self.min_units:
            return f"{evidence.n} {self.units}; at least {self.min_units} are needed"
        if not np.isfinite([evidence.value, evidence.low, evidence.high]).all():
            return "the estimate or its interval is not finite"
        return ""


@dataclasses.dataclass(frozen=True)
class Finding:
    """A claim with our evidence and the verdict that follows from the evidence.

    Attributes:
        claim: the tested claim.
        evidence: our number; None if it could not be computed.
        verdict: one of `VERDICTS`.
        why: the reason why the claim is untestable, or undecided after adjustment.
        detectable: smallest true value that as many units detect in four runs of five.
    """

    claim: Claim
    evidence: Evidence | None
    verdict: str
    why: str = ""
    detectable: float | None = None


def adjust(findings: Mapping[str, Finding]) -> dict[str, Finding]:
    """Adjusts the p-values of each family of claims by Benjamini and Hochberg (1995).

    Args:
        findings: the findings of one study.

    Returns:
        The findings with `Evidence.q`. A claim whose interval lies beyond the null, but whose q
        exceeds 0.05, becomes undecided.

    Example:
        >>> claims = {name: Claim(name, "", "", least=0.1) for name in "ab"}
        >>> evidence = {"a": Evidence(1, 0.1, 2, 30, p=0.04), "b": Evidence(0, -1, 1, 30, p=0.9)}
        >>> adjust({name: claims[name].judge(evidence[name]) for name in "ab"})["a"].verdict
        'undecided'
    """
    adjusted = dict(findings)
    for family in sorted({finding.claim.family for finding in findings.values()}):
        p_of = {
            key: finding.evidence.p
            for key, finding in findings.items()
            if finding.claim.family == family
            and finding.verdict != UNTESTABLE
            and finding.evidence is not None
            and finding.evidence.p is not None
        }
        for key, q in zip(p_of, _benjamini_hochberg(list(p_of.values()))):
            adjusted[key] = _with_q(findings[key], q, len(p_of))
    return adjusted


def _benjamini_hochberg(ps: Sequence[float]) -> Sequence[float]:
    import scipy.stats  # imported here because the import takes most of a second

    return scipy.stats.false_discovery_control(ps).tolist() if ps else []


def _with_q(finding: Finding, q: float, n_claims: int) -> Finding:
    evidence = finding.evidence and dataclasses.replace(finding.evidence, q=q)
    finding = dataclasses.replace(finding, evidence=evidence)
    if finding.verdict not in (SUPPORTED, WEAKER) or q <= MAX_Q:
        return finding
    why = f"p is {q:.2g} after adjustment for {n_claims} claims"
    return dataclasses.replace(finding, verdict=UNDECIDED, why=why)
