"""Publishes results of studies as tables: `python -m experiments.studies.readme_tables FOLDER...`.

Copies the results of `jaxasr reproduce` from each FOLDER into docs/results. Then rewrites
docs/results/README.md and the table in docs/results/verdicts.md from all results in docs/results.
"""

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

from experiments.studies import registry
from experiments.studies.claims import UNTESTABLE, VERDICTS
from experiments.studies.study_page import format_evidence
from interventions.storage.text_files import staging, write_text
from interventions.storage.untrusted_files import name_origin_in_errors, read_json

# Lines that enclose the table in verdicts.md.
BEGIN = "<!-- studies: made by `python -m experiments.studies.readme_tables` -->"
END = "<!-- studies: end -->"
MODELS = ("tiny.en", "base")
# The verdicts as they appear in the tables.
_VERDICTS = {**{verdict: verdict for verdict in VERDICTS}, UNTESTABLE: "—"}

Result = dict[str, Any]
Results = dict[str, dict[str, Result]]  # by study, then by model


def main(
    folders: Annotated[
        list[Path] | None,
        typer.Argument(help="Output folders of `jaxasr reproduce`. Default: only rewrite tables."),
    ] = None,
    docs: Annotated[Path, typer.Option(help="Folder of the published results.")] = Path(
        "docs/results"
    ),
    verdicts: Annotated[Path, typer.Option(help="Page with the short table.")] = Path(
        "docs/results/verdicts.md"
    ),
) -> None:
    """Publishes the results in FOLDERS, then rewrites the tables of all published results."""
    for folder in folders or []:
        for file in sorted(folder.glob("*/result.json")):
            publish(file, docs)
    results = load_results(docs)
    write_text(docs / "README.md", results_page(results))
    text = verdicts.read_text(encoding="utf-8")
    write_text(verdicts, replace_table(text, claims_table(results)))


def publish(file: Path, docs: Path) -> None:
    """Copies one result and its figures into `docs`.

    Args:
        file: path of a `result.json`.
        docs: folder of the published results.

    Raises:
        ValueError: the run used --quick, or its code had changes that were not committed.
    """
    with name_origin_in_errors(file):
        _publish(file, read_json(file), docs)


def _publish(file: Path, result: Result, docs: Path) -> None:
    # A commit that ends in "+" had uncommitted changes. A missing commit is refused as well.
    commit = str(result["provenance"].get("commit", "+"))
    if result["quick"] or commit.endswith("+"):
        raise ValueError(
            f"{file}: expected a full run of committed code, "
            f"got quick={result['quick']}, commit {commit!r}."
        )
    folder = docs / f"{result['id'].lower()}_{result['provenance']['model']['name']}"
    names = {"result.json", *(f"{name}.png" for name in result["figures"])}
    with staging(folder) as new:
        for name in names:
            shutil.copyfile(file.parent / name, new / name)
    # Remove the figures of an earlier result that this result no longer has.
    for figure in folder.glob("*.png"):
        if figure.name not in names:
            figure.unlink()


def load_results(docs: Path) -> Results:
    """Reads every published result, with the current texts of its study.

    Numbers and verdicts are those of the run. Titles, statements and descriptions of tests are
    taken from the current code, so that a text can be improved without a new run.

    Args:
        docs: folder of the published results.

    Returns:
        Results by study, in the order of `study_modules`, then by model.

    Raises:
        ValueError: a result has a claim that its study no longer has.
    """
    results: Results = {}
    for name in registry.study_modules():
        files = {model: docs / f"{name.lower()}_{model}" / "result.json" for model in MODELS}
        by_model = {
            model: _with_current_texts(name, read_json(file), file)
            for model, file in files.items()
            if file.is_file()
        }
        if by_model:
            results[name] = by_model
    return results


def _with_current_texts(name: str, result: Result, file: Path) -> Result:
    study = registry.study(name)
    if unknown := result["findings"].keys() - study.claims.keys():
        raise ValueError(
            f"{file}: {name} no longer has the claim {', '.join(sorted(unknown))}; run it again."
        )
    findings = {
        key: {
            **finding,
            "statement": study.claims[key].statement,
            "paper": study.claims[key].paper,
            "test": study.claims[key].test,
        }
        for key, finding in result["findings"].items()
    }
    return {**result, "title": study.title, "about": study.about, "findings": findings}


def claims_table(results: Results) -> str:
    """Formats the short table, with a row per claim and a column per model.

    Args:
        results: from `load_results`.

    Returns:
        A Markdown table.
    """
    head = ["", "claim (the paper's numbers, large-v3)", *(f"ours, {model}" for model in MODELS)]
    rows = [
        [
            name,
            _escape_cell(claim["statement"] + _paper_numbers(claim["paper"])),
            *(_evidence_cell(by_model.get(model), key, brief=True) for model in MODELS),
        ]
        for name, by_model in results.items()
        for key, claim in _claims(by_model).items()
    ]
    return _table(head, rows)


def replace_table(text: str, table: str) -> str:
    """Replaces the text between the lines `BEGIN` and `END` of a page.

    Args:
        text: the text of the page.
        table: a Markdown table.

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


def results_page(results: Results) -> str:
    """Formats the long page: tests, numbers, figures and provenance of each study.

    Args:
        results: from `load_results`.

    Returns:
        Markdown.
    """
    links = ", ".join(f"[{name}](#{name.lower()})" for name in results)
    sections = [_section(name, by_model) for name, by_model in results.items()]
    return "\n".join([_HEAD.format(links=links), *sections])


_HEAD = """# Results of the studies

`python -m experiments.studies.readme_tables` makes this page from the `result.json` of each folder.
[caveats.md](caveats.md) explains how far each verdict can be trusted.

* **yes**: the whole 95 % interval lies on the claim's side of the null value. If the test has a
  p-value, it is at most 0.05.
* **no**: the claim does not replicate at this scale.
* **—**: the claim is not testable here.
* empty: the study was not run on this model.

{links}
"""


def _section(name: str, by_model: dict[str, Result]) -> str:
    first_result = next(iter(by_model.values()))
    head = ["claim", "paper", "test", "null", *MODELS]
    claims = _table(
        head, (_claim_row(key, row, by_model) for key, row in _claims(by_model).items())
    )
    runs = "\n".join(f"* {_run_line(model, result)}" for model, result in by_model.items())
    figures = "\n\n".join(
        f"![{name}, {model}: {figure.replace('_', ' ')}]({name.lower()}_{model}/{figure}.png)"
        for model, result in by_model.items()
        for figure in result["figures"]
    )
    measurements = "".join(
        f"\n{_measurements(model, result['numbers']['table'])}"
        for model, result in by_model.items()
        if "table" in result["numbers"]
    )
    intro = f"**{first_result['title']}.** {first_result['about']}"
    return f"## {name}\n\n{intro}\n\n{claims}\n{runs}\n{measurements}\n{figures}\n"


def _claim_row(key: str, claim: dict[str, Any], by_model: dict[str, Result]) -> list[str]:
    texts = [_escape_cell(claim[name]) for name in ("statement", "paper", "test")]
    evidence = [_evidence_cell(by_model.get(model), key) for model in MODELS]
    return [*texts, f"{claim['side']} {claim['null']:g}", *evidence]


def _measurements(model: str, rows: dict[str, dict[str, float]]) -> str:
    columns = [name.replace("_", " ") for name in next(iter(rows.values()))]
    cells = ([key, *(f"{x:g}" for x in row.values())] for key, row in rows.items())
    return _table([model, *columns], cells)


def _run_line(model: str, result: Result) -> str:
    run, seconds = result["provenance"], result["seconds"]
    settings = ", ".join(
        f"{key} {setting['value']}"
        for key, setting in result["settings"].items()
        if isinstance(setting["value"], int)  # numbers of recordings, tokens and the like
    )
    # Results of older versions have no CPU time, only the wall time of computing their items.
    time = (
        f"{seconds['cpu']:.0f} s of a CPU core"
        if "cpu" in seconds
        else f"{seconds['items_when_made']:.0f} s"
    )
    description = f"`{run['command']}`, seed {run['seed']}, commit {run['commit'][:8]}, {time}"
    link = f"{result['id'].lower()}_{model}/result.json"
    return f"{model}: {description}; {settings} ([sources and versions]({link}))"


def _claims(by_model: dict[str, Result]) -> dict[str, dict[str, Any]]:
    return {key: claim for result in by_model.values() for key, claim in result["findings"].items()}


def _evidence_cell(result: Result | None, key: str, *, brief: bool = False) -> str:
    if result is None or key not in result["findings"]:
        return ""
    finding = result["findings"][key]
    verdict, evidence = _VERDICTS[finding["verdict"]], format_evidence(finding["ours"])
    if finding["verdict"] == UNTESTABLE:
        return verdict if brief else _escape_cell(f"{verdict} {finding['why']}")
    return f"{verdict}: {evidence.split(', n ')[0] if brief else evidence}"


def _paper_numbers(paper: str) -> str:
    """Returns the paper's numbers in brackets; "" if the paper has no numbers."""
    return f" ({paper})" if any(map(str.isdigit, paper)) and not paper.startswith("not ") else ""


def _escape_cell(text: str) -> str:
    """Escapes the characters that would end a cell of a Markdown table."""
    return text.replace("|", "\\|").replace("\n", " ")


def _table(head: list[str], rows: Iterable[list[str]]) -> str:
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows), ""])


if __name__ == "__main__":
    typer.run(main)
