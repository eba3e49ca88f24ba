"""Formats published results as Markdown tables."""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from experiments.studies import finding_rows
from experiments.studies.claims import UNTESTABLE
from experiments.studies.finding_rows import Row

# Lines that enclose the table in verdicts.md.
BEGIN = "<!-- studies: made by `python -m experiments.studies.publish` -->"
END = "<!-- studies: end -->"
MODELS = ("tiny.en", "base")
# Studies of interventions, for which the package is made, come first in the tables.
_FIRST = ("E6", "E5", "B2")

Result = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Published:
    """The published results.

    Attributes:
        results: results by study, then by model.
        missing: why a result is missing, by study and model, as in "E6 base".
    """

    results: dict[str, dict[str, Result]]
    missing: dict[str, str]

    def ordered(self) -> dict[str, dict[str, Result]]:
        """Returns the results in the order of the tables."""
        names = [name for name in _FIRST if name in self.results]
        names += [name for name in self.results if name not in names]
        return {name: self.results[name] for name in names}


def verdicts(published: Published) -> str:
    """Formats the counts of verdicts, the legend, and a table with a row per claim.

    Args:
        published: the results.

    Returns:
        Markdown.
    """
    head = ["", "claim", "paper, large-v3", *MODELS, "verdict"]
    rows = [
        [f"[{name}](README.md#{name.lower()})", *_cells(key, by_model)]
        for name, by_model in published.ordered().items()
        for key in _keys(by_model)
    ]
    return "\n".join([_counts(published), _LEGEND, _table(head, rows)])


def replace_table(text: str, table: str) -> str:
    """Replaces the text between the lines `BEGIN` and `END` of a page.

    Args:
        text: the text of the page.
        table: Markdown.

    Returns:
        The new text of the page.

    Raises:
        ValueError: the page lacks one of the two lines.

    Example:
        >>> replace_table(f"{BEGIN} old {END}", "new").split("\\n")[2]
        'new'
    """
    if BEGIN not in text or END not in text:
        raise ValueError(f"verdicts: expected the lines {BEGIN!r} and {END!r}.")
    return f"{text[: text.index(BEGIN)]}{BEGIN}\n\n{table}\n{text[text.index(END) :]}"


def results_page(published: Published) -> str:
    """Formats the long page: tests, numbers, figures and provenance of each study.

    Args:
        published: the results.

    Returns:
        Markdown.
    """
    # A study without a current run keeps its heading, because other pages link to it.
    results = {**published.ordered(), **{run.split()[0]: {} for run in published.missing}}
    results |= published.results
    links = ", ".join(f"[{name}](#{name.lower()})" for name in results)
    sections = [
        _section(name, by_model) if by_model else f"## {name}\n\nNot yet run with these claims.\n"
        for name, by_model in results.items()
    ]
    return "\n".join([_HEAD, _counts(published), _LEGEND, links, "", *sections])


_HEAD = """# Results of the studies

`python -m experiments.studies.publish` makes this page from the `result.json` of each folder.
[findings.md](findings.md) is a summary. [caveats.md](caveats.md) explains how far each verdict can
be trusted.
"""
_LEGEND = "\n".join(
    [
        *(
            f"* {finding_rows.SIGNS[verdict]} **{verdict}**: {meaning}"
            for verdict, meaning in finding_rows.MEANINGS.items()
        ),
        f"\n{finding_rows.LEGEND}\n",
    ]
)


def _counts(published: Published) -> str:
    """Returns a line per model with the number of claims of each verdict, and the missing runs."""
    lines = []
    for model in MODELS:
        results = [by_model[model] for by_model in published.results.values() if model in by_model]
        if results:
            rows = (row for result in results for row in result["findings"].values())
            lines.append(f"{model}: {finding_rows.summarise(rows)}\n")
    if published.missing:
        lines.append("A run of the current claims is missing for these studies:\n")
        lines.append("\n".join(_missing_runs(published.missing)) + "\n")
    return "\n".join(lines)


def _missing_runs(reasons: Mapping[str, str]) -> list[str]:
    """Returns a line of Markdown per reason, with all runs that have it."""
    runs_of: dict[str, list[str]] = {}
    for run, reason in reasons.items():
        runs_of.setdefault(reason, []).append(run)
    return [f"* {', '.join(runs)}: {reason}" for reason, runs in runs_of.items()]


def _section(name: str, by_model: Mapping[str, Result]) -> str:
    first_result = next(iter(by_model.values()))
    rows = [_cells(key, by_model) for key in _keys(by_model)]
    claims = _table(["claim", "paper, large-v3", *MODELS, "verdict"], rows)
    tests = "\n".join(f"* {_test_line(_first_row(key, by_model))}" for key in _keys(by_model))
    runs = "\n".join(f"* {run_line(model, result)}" for model, result in by_model.items())
    forest = f"![{name}: forest plot of all claims](forest/{name.lower()}.png)"
    figures = "\n\n".join(
        f"![{name}, {model}: {figure.replace('_', ' ')}]({name.lower()}_{model}/{figure}.png)"
        for model, result in by_model.items()
        for figure in result["figures"]
        if figure != "forest"
    )
    measurements = "".join(
        f"\n{_measurements(model, result['numbers']['table'])}"
        for model, result in by_model.items()
        if "table" in result["numbers"]
    )
    intro = f"**{first_result['title']}.** {first_result['about']}"
    parts = [f"## {name}", intro, forest, claims, "Tests:", tests, "Runs:", runs]
    return "\n\n".join([*parts, f"{measurements}\n{figures}\n"])


def _test_line(row: Row) -> str:
    bounds = f"{row['side']} {finding_rows.format_value(row['null'], row['unit'])}"
    if row["least"] != row["null"]:
        bounds += f", least effect {finding_rows.format_value(row['least'], row['unit'])}"
    return f"{row['statement']}: {row['test']}; {bounds}."


def _measurements(model: str, rows: Mapping[str, Mapping[str, float]]) -> str:
    columns = [name.replace("_", " ") for name in next(iter(rows.values()))]
    cells = ([key, *(f"{x:g}" for x in row.values())] for key, row in rows.items())
    return _table([model, *columns], cells)


def run_line(model: str, result: Result) -> str:
    """Returns the command, seed, commit, time and settings of a run.

    Args:
        model: name of the model.
        result: `result.json` of the run.
    """
    run, seconds = result["provenance"], result["seconds"]
    settings = ", ".join(
        f"{key} {setting['value']}"
        for key, setting in result["settings"].items()
        if isinstance(setting["value"], int)  # numbers of recordings, tokens and the like
    )
    time = f"{seconds['cpu']:.0f} s of a CPU core"
    description = f"`{run['command']}`, seed {run['seed']}, commit {run['commit'][:8]}, {time}"
    link = f"{result['id'].lower()}_{model}/result.json"
    return f"{model}: {description}; {settings} ([sources and versions]({link}))"


def _keys(by_model: Mapping[str, Result]) -> list[str]:
    return list(dict.fromkeys(key for result in by_model.values() for key in result["findings"]))


def _first_row(key: str, by_model: Mapping[str, Result]) -> Row:
    return next(result["findings"][key] for result in by_model.values())


def _cells(key: str, by_model: Mapping[str, Result]) -> list[str]:
    """Returns the claim, the paper's numbers, the evidence of each model, and the verdicts."""
    row = _first_row(key, by_model)
    rows = {model: result["findings"][key] for model, result in by_model.items()}
    evidence = [_evidence_cell(rows[model]) if model in rows else "" for model in MODELS]
    return [_escape_cell(row["statement"]), _escape_cell(row["paper"]), *evidence, _verdicts(rows)]


def _verdicts(rows: Mapping[str, Row]) -> str:
    words = {model: finding_rows.format_verdict(row) for model, row in rows.items()}
    if len(rows) == len(MODELS) and len(set(words.values())) == 1:
        return next(iter(words.values()))
    return "<br>".join(f"{model}: {word}" for model, word in words.items())


def _evidence_cell(row: Row) -> str:
    if row["verdict"] == UNTESTABLE:
        return _escape_cell(f"— {row['why']}")
    texts = [finding_rows.format_evidence(row), *finding_rows.notes(row)]
    return _escape_cell("; ".join(texts))


def _escape_cell(text: str) -> str:
    """Escapes the characters that would end a cell of a Markdown table."""
    return text.replace("|", "\\|").replace("\n", " ")


def _table(head: list[str], rows: Iterable[list[str]]) -> str:
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows), ""])
