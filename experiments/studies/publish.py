"""Publishes results of studies: `python -m experiments.studies.publish FOLDER...`.

Copies the results of `jaxasr reproduce` from each FOLDER into docs/results. Then rewrites
docs/results/README.md, verdicts.md, findings.md and the forest plots from all results there.
"""

import shutil
from pathlib import Path
from typing import Annotated, Any

import typer

from experiments.studies import findings_text, forest, registry, result_tables
from experiments.studies.finding_rows import claim_row
from experiments.studies.result_tables import MODELS, Published, Result
from experiments.studies.study import Study
from experiments.studies.study_page import outdated_format
from interventions.storage.text_files import staging, write_text
from interventions.storage.untrusted_files import name_origin_in_errors, read_json

# Texts that are taken from the current code, so that they can be improved without a new run.
_TEXTS = ("statement", "paper", "test", "floor")


def main(
    folders: Annotated[
        list[Path] | None,
        typer.Argument(help="Output folders of `jaxasr reproduce`. Default: only rewrite pages."),
    ] = None,
    docs: Annotated[Path, typer.Option(help="Folder of the published results.")] = Path(
        "docs/results"
    ),
) -> None:
    """Publishes the results in FOLDERS, then rewrites the pages of all published results."""
    for folder in folders or []:
        for file in sorted(folder.glob("*/result.json")):
            publish(file, docs)
    published = load_results(docs)
    for name, text in pages(published, docs).items():
        write_text(docs / name, text)
    draw_forests(published, docs / "forest")


def draw_forests(published: Published, folder: Path) -> None:
    """Draws a forest plot per study, and removes those of studies without a current result.

    Args:
        published: the results.
        folder: folder of the plots.
    """
    folder.mkdir(exist_ok=True)
    current = {f"{name.lower()}.png" for name in published.results}
    for plot in folder.glob("*.png"):
        if plot.name not in current:
            plot.unlink()
    for name, by_model in published.results.items():
        findings = {model: result["findings"] for model, result in by_model.items()}
        figure = forest.draw_forest(findings)
        (folder / f"{name.lower()}.png").write_bytes(forest.png(figure))


def pages(published: Published, docs: Path) -> dict[str, str]:
    """Makes the text of every page.

    Args:
        published: from `load_results`.
        docs: folder of the published results, with verdicts.md and findings.template.md.

    Returns:
        Markdown by name of the file.
    """
    verdicts = (docs / "verdicts.md").read_text(encoding="utf-8")
    template = (docs / "findings.template.md").read_text(encoding="utf-8")
    return {
        "README.md": result_tables.results_page(published),
        "verdicts.md": result_tables.replace_table(verdicts, result_tables.verdicts(published)),
        "findings.md": findings_text.fill(template, published),
    }


def publish(file: Path, docs: Path) -> None:
    """Copies one result and its figures into `docs`.

    Args:
        file: path of a `result.json`.
        docs: folder of the published results.

    Raises:
        ValueError: the run used --quick, its code had changes that were not committed, or its
            claims are not the current ones.
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
    if reason := outdated(registry.study(result["id"]), result):
        raise ValueError(f"{file}: expected a result of the current claims, but {reason}.")
    folder = docs / f"{result['id'].lower()}_{result['provenance']['model']['name']}"
    # Forest plots are drawn again, with both models in one figure.
    figures = (name for name in result["figures"] if name != "forest")
    names = {"result.json", *(f"{name}.png" for name in figures)}
    with staging(folder) as new:
        for name in names:
            shutil.copyfile(file.parent / name, new / name)
    # Remove the figures of an earlier result that this result no longer has.
    for figure in folder.glob("*.png"):
        if figure.name not in names:
            figure.unlink()


def load_results(docs: Path) -> Published:
    """Reads every published result, with the current texts of its study.

    Numbers and verdicts are those of the run. Titles, statements and descriptions of tests are
    taken from the current code. Results of other claims than the current ones have no verdict
    here, because their estimates and nulls may have another meaning.

    Args:
        docs: folder of the published results.
    """
    published = Published({}, {})
    for name in registry.study_modules():
        study = registry.study(name)
        for model in MODELS:
            file = docs / f"{name.lower()}_{model}" / "result.json"
            result = read_json(file) if file.is_file() else None
            reason = outdated(study, result) if result else "there is no run"
            if result and not reason:
                by_model = published.results.setdefault(name, {})
                by_model[model] = _with_current_texts(study, result)
            else:
                published.missing[f"{name} {model}"] = reason
    return published


def outdated(study: Study, result: Result) -> str:
    """Returns why a result does not belong to the current claims; "" if it does.

    Example:
        >>> result = {"findings": {"gone": {"verdict": "replicates"}}}
        >>> outdated(registry.study("E7"), result).partition(";")[0]
        'the result was written by an earlier version, which had other verdicts'
    """
    if reason := outdated_format(result):
        return f"the result was {reason}"
    if result.get("version") != study.version:
        return f"version {result.get('version')} of its run has been replaced by {study.version}"
    if changed := result["findings"].keys() ^ study.claims.keys():
        return f"the claims {', '.join(sorted(changed))} are new or have been removed"
    for key, claim in study.claims.items():
        for field, value in claim_row(claim).items():
            if field not in _TEXTS and result["findings"][key][field] != value:
                return f"the claim {key} has another {field}"
    return ""


def _with_current_texts(study: Study, result: Result) -> Result:
    findings: dict[str, Any] = {
        key: {**row, **{field: claim_row(study.claims[key])[field] for field in _TEXTS}}
        for key, row in result["findings"].items()
    }
    return {**result, "title": study.title, "about": study.about, "findings": findings}


if __name__ == "__main__":
    typer.run(main)
