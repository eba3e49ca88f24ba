"""Makes the rows of findings in `result.json`, and formats them for pages and the terminal."""

import dataclasses
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from experiments.studies.claims import (
    CONTRADICTED,
    FEW_UNITS,
    SUPPORTED,
    UNDECIDED,
    UNTESTABLE,
    VERDICTS,
    WEAKER,
    Claim,
    Finding,
)
from interventions.storage.text_files import to_json_types

Row = Mapping[str, Any]  # a finding as in `result.json`

# A sign per verdict, so that verdicts differ without colours.
SIGNS = {SUPPORTED: "●", WEAKER: "◐", CONTRADICTED: "◆", UNDECIDED: "○", UNTESTABLE: "×"}
# What each verdict says about the 95 % interval of our estimate.
MEANINGS = {
    SUPPORTED: "The interval lies beyond the null and reaches the paper's number. Where the paper "
    "has no number, the estimate reaches the least effect.",
    WEAKER: "The interval lies beyond the null, but does not reach the paper's number. Where the "
    "paper has no number, the estimate does not reach the least effect.",
    CONTRADICTED: "The interval does not lie beyond the null, and excludes the least effect.",
    UNDECIDED: "The interval contains the null and the least effect, or p is above 0.05 after "
    "adjustment for the other claims of the study. The row gives the smallest true value that the "
    "same number of units would detect in four runs of five.",
    UNTESTABLE: "There are no data for the claim, or too few.",
}
LEGEND = (
    "Each claim states its null, its least effect (the smallest one worth having) and its test "
    "before the run. Intervals of counts are exact. All others are bootstraps of speakers, "
    "sentences or sources. ° marks an estimate that is no better than a baseline, and the row "
    f"names the baseline. A note marks rows with fewer than {FEW_UNITS} independent units."
)
_MAX_DECIMALS = 4


def finding_row(finding: Finding) -> dict[str, Any]:
    """Returns the claim, our evidence and the verdict, as in `result.json`.

    Example:
        >>> claim = Claim("Loud frames have larger norms", "not reported", "correlation", least=0.2)
        >>> finding_row(claim.judge(None))["verdict"]
        'untestable'
    """
    evidence = finding.evidence and dataclasses.asdict(finding.evidence)
    outcome = {"ours": evidence, "verdict": finding.verdict, "why": finding.why}
    return to_json_types(claim_row(finding.claim) | outcome | {"detectable": finding.detectable})


def claim_row(claim: Claim) -> dict[str, Any]:
    """Returns the fields of a claim as in `result.json`, with the least effect filled in.

    Example:
        >>> claim_row(Claim("a", "76 %", "share", null=0.5, paper_value=0.76))["least"]
        0.63
    """
    return to_json_types(dataclasses.asdict(claim) | {"least": claim.least_value})


def format_value(x: float, unit: str) -> str:
    """Formats a number of a claim in the claim's unit.

    Example:
        >>> format_value(0.781, "%"), format_value(-0.25, ""), format_value(1.2, "logits")
        ('78.1 %', '-0.25', '1.2 logits')
    """
    number = f"{100 * x if unit == '%' else x:.3g}"
    return f"{number} {unit}" if unit else number


def format_evidence(row: Row, *, adjusted: bool = True) -> str:
    """Formats our estimate with its interval and the number of units.

    Args:
        row: a finding.
        adjusted: whether to add the adjusted p-value, if there is one.

    Example:
        >>> claim = Claim("a", "76 %", "share", null=0.5, paper_value=0.76, unit="%", units="loops")
        >>> format_evidence(finding_row(claim.judge_share([True] * 8 + [False] * 2)))
        '8 of 10 loops, 80 % [44, 97]'
    """
    evidence = row["ours"]
    if not evidence or evidence["value"] is None:
        return "—"
    n, units, counts = evidence["n"], row["units"], evidence["counts"]
    parts = [_format_interval(evidence, row["unit"])]
    if counts and counts[1] == n:
        parts.insert(0, f"{counts[0]} of {n} {units}")
    else:
        parts = [*([f"{counts[0]} of {counts[1]}"] if counts else []), *parts, f"{n} {units}"]
    if adjusted and evidence["q"] is not None:
        parts.append(_format_p(evidence["q"]))
    return ", ".join(parts)


def notes(row: Row) -> list[str]:
    """Returns what a reader needs next to a verdict.

    Returns:
        The detectable value of an undecided claim, the reason of a verdict that has one, a remark
        on few units, and the baseline that does as well.

    Example:
        >>> claim = Claim("a", "76 %", "share", null=0.5, paper_value=0.76, unit="%", units="loops")
        >>> notes(finding_row(claim.judge_share([True] * 8 + [False] * 2)))[-1]
        'fewer than 20 loops'
    """
    lines = [row["why"]] if row["why"] else []
    if row["verdict"] == UNTESTABLE:
        return lines
    if row["verdict"] == UNDECIDED:
        lines.append(_format_detectable(row))
    if row["ours"]["n"] < FEW_UNITS:
        lines.append(f"fewer than {FEW_UNITS} {row['units']}")
    if reaches_floor(row):
        baseline = row["floor"] or "a baseline"
        lines.append(f"° {baseline}: {format_value(row['ours']['floor'], row['unit'])}")
    return lines


def format_verdict(row: Row) -> str:
    """Returns the sign and the word of a verdict, with a degree sign if a baseline does as well.

    Example:
        >>> format_verdict(finding_row(Claim("a", "", "").judge(None)))
        '× untestable'
    """
    degree = " °" if reaches_floor(row) else ""
    return f"{SIGNS[row['verdict']]} {row['verdict']}{degree}"


def reaches_floor(row: Row) -> bool:
    """Returns whether the claim holds, but a baseline lies in the interval or beyond it."""
    evidence = row["ours"]
    if row["verdict"] not in (SUPPORTED, WEAKER) or evidence["floor"] is None:
        return False
    if row["side"] == "above":
        return evidence["floor"] >= evidence["low"]
    return evidence["floor"] <= evidence["high"]


def summarise(rows: Iterable[Row]) -> str:
    """Counts the verdicts in a sentence.

    Example:
        >>> claim = Claim("a", "not reported", "mean", least=0.1)
        >>> summarise([finding_row(claim.judge(None))])
        '0 claims supported, 0 weaker, 0 contradicted, 0 undecided, 1 untestable.'
    """
    rows = list(rows)
    counts = Counter(row["verdict"] for row in rows)
    trivial = sum(row["verdict"] == SUPPORTED and reaches_floor(row) for row in rows)
    supported = f"{counts[SUPPORTED]} claim{'s' if counts[SUPPORTED] != 1 else ''} {SUPPORTED}"
    if trivial:
        supported += f" ({trivial} of them no better than a baseline)"
    others = [f"{counts[verdict]} {verdict}" for verdict in VERDICTS[1:]]
    return f"{', '.join([supported, *others])}."


def _format_detectable(row: Row) -> str:
    if row["detectable"] is None:
        return f"no value would be detected with {row['ours']['n']} {row['units']}"
    value = format_value(float(f"{row['detectable']:.2g}"), row["unit"])
    return f"{value} or {'more' if row['side'] == 'above' else 'less'} would be detected"


def _format_interval(evidence: Mapping[str, Any], unit: str) -> str:
    scale, suffix = (100, " %") if unit == "%" else (1, f" {unit}" if unit else "")
    value, low, high = (
        None if evidence[name] is None else scale * evidence[name]
        for name in ("value", "low", "high")
    )
    if value is None or low is None or high is None:
        return f"{format_value(evidence['value'], unit)}, no interval"
    # Two significant digits of the interval's width.
    width = high - low
    digits = 1 - math.floor(math.log10(width)) if width > 0 else 2
    digits = min(max(digits, 0), _MAX_DECIMALS)
    # Adding 0 turns -0.0 into 0.0.
    value, low, high = (f"{round(x, digits) + 0.0:.{digits}f}" for x in (value, low, high))
    return f"{value}{suffix} [{low}, {high}]"


def _format_p(q: float) -> str:
    return "adjusted p < 0.001" if q < 0.001 else f"adjusted p {q:.2g}"
