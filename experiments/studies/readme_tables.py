"""What the studies found, as README and docs/results show it: `python -m experiments.studies.readme_tables out/tiny.en out/base`.

Takes the results of `jaxasr reproduce` from those folders into docs/results, and writes both tables anew from what is there.
"""

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

from experiments.studies import registry
from experiments.studies.study_page import shown
from interventions.storage.inert import named, read_json
from interventions.storage.text_files import staging, write_text

BEGIN, END = (
    "<!-- studies: made by `python -m experiments.studies.readme_tables` -->",
    "<!-- studies: end -->",
)
MODELS = ("tiny.en", "base")
_VERDICTS = {
    "replicates": "yes",
    "does not replicate at this scale": "no",
    "not testable here": "—",
}
Results = dict[str, dict[str, dict[str, Any]]]  # by study, by model


def main(
    folders: Annotated[
        list[Path] | None,
        typer.Argument(help="Folders of `jaxasr reproduce`; default: none, tables only."),
    ] = None,
    docs: Annotated[Path, typer.Option(help="Where results are published.")] = Path("docs/results"),
    readme: Annotated[Path, typer.Option(help="The page with the short table.")] = Path(
        "docs/results/verdicts.md"
    ),
) -> None:
    """Publishes what is in `folders`, then writes `docs`/README.md and the table of `readme`."""
    for result in [
        path for folder in folders or [] for path in sorted(folder.glob("*/result.json"))
    ]:
        take(result, docs)
    found = published(docs)
    write_text(docs / "README.md", page(found))
    write_text(readme, replaced(readme.read_text(encoding="utf-8"), short(found)))


def take(file: Path, docs: Path) -> None:
    """Copies one result and its figures. Raises ValueError for what nobody could make again: a quick run, or uncommitted code."""
    with named(file):
        return _take(file, read_json(file), docs)


def _take(file: Path, result: dict[str, Any], docs: Path) -> None:
    commit = str(result["provenance"].get("commit", "+"))
    if result["quick"] or commit.endswith("+"):
        raise ValueError(
            f"{file}: expected a full run of committed code, got quick={result['quick']}, commit {commit!r}."
        )
    into = docs / f"{result['id'].lower()}_{result['provenance']['model']['name']}"
    names = {"result.json", *(f"{name}.png" for name in result["figures"])}
    with staging(into) as new:
        for name in names:
            shutil.copyfile(file.parent / name, new / name)
    for old in into.glob("*.png"):
        if old.name not in names:
            old.unlink()


def published(docs: Path) -> Results:
    """Every result of `docs`, in the order of the registry."""
    found: Results = {name: {} for name in registry.names()}
    for model in MODELS:
        for name in found:
            file = docs / f"{name.lower()}_{model}" / "result.json"
            if file.is_file():
                found[name][model] = read_json(file)
    return {name: by_model for name, by_model in found.items() if by_model}


def short(found: Results) -> str:
    """A row for each claim, a column for each model: verdict, number, interval."""
    rows = [
        [
            name,
            _cell(claim["says"] + _numbers(claim["paper"])),
            *(_ours(by_model.get(model), key, brief=True) for model in MODELS),
        ]
        for name, by_model in found.items()
        for key, claim in _claims(by_model).items()
    ]
    return _table(
        ["", "claim (the paper's numbers, large-v3)", *(f"ours, {model}" for model in MODELS)], rows
    )


def replaced(text: str, table: str) -> str:
    """`text` with `table` between its two marks. Raises ValueError where they are missing."""
    if BEGIN not in text or END not in text:
        raise ValueError(f"readme: expected the lines {BEGIN!r} and {END!r}.")
    return f"{text[: text.index(BEGIN)]}{BEGIN}\n\n{table}\n{text[text.index(END) :]}"


def page(found: Results) -> str:
    """Each study with its tests, numbers, figures, and how it was run."""
    links = ", ".join(f"[{name}](#{name.lower()})" for name in found)
    return "\n".join(
        [_HEAD.format(links=links), *(_section(name, by_model) for name, by_model in found.items())]
    )


_HEAD = """# The studies, run on recordings

Made from the `result.json` of each folder by `python -m experiments.studies.readme_tables`; what to think of the verdicts stands in
[caveats.md](caveats.md). yes: the whole 95 % interval lies on the claim's side of the null, and p, where there is one, is at most 0.05;
no: it does not at this scale; —: not testable here; empty: not run. {links}.
"""


def _section(name: str, by_model: dict[str, dict[str, Any]]) -> str:
    first = next(iter(by_model.values()))
    claims = _claims(by_model)
    head = ["claim", "paper", "test", "null", *MODELS]
    rows = [
        [
            _cell(one["says"]),
            _cell(one["paper"]),
            _cell(one["test"]),
            f"{one['side']} {one['null']:g}",
        ]
        + [_ours(by_model.get(model), key) for model in MODELS]
        for key, one in claims.items()
    ]
    ran = "\n".join(
        f"* {line}" for model, result in by_model.items() for line in [_ran(model, result)]
    )
    pictures = "\n\n".join(
        f"![{name}, {model}: {figure.replace('_', ' ')}]({name.lower()}_{model}/{figure}.png)"
        for model, result in by_model.items()
        for figure in result["figures"]
    )
    laid_out = {
        model: result["numbers"]["table"]
        for model, result in by_model.items()
        if "table" in result["numbers"]
    }
    tables = "".join(f"\n{_measured(model, table)}" for model, table in laid_out.items())
    return f"## {name}\n\n**{first['title']}.** {first['about']}\n\n{_table(head, rows)}\n{ran}\n{tables}\n{pictures}\n"


def _measured(model: str, rows: dict[str, dict[str, float]]) -> str:
    """The numbers that a study lays out as rows of the same columns."""
    columns = [name.replace("_", " ") for name in next(iter(rows.values()))]
    return _table(
        [model, *columns], ([key, *(f"{x:g}" for x in row.values())] for key, row in rows.items())
    )


def _ran(model: str, result: dict[str, Any]) -> str:
    known = result["provenance"]
    settings = ", ".join(
        f"{key} {one['value']}"
        for key, one in result["settings"].items()
        if isinstance(one["value"], int)
    )
    seconds = result["seconds"]
    took = (
        f"{seconds['cpu']:.0f} s of a CPU core"
        if "cpu" in seconds
        else f"{seconds['items_when_made']:.0f} s"
    )
    link = f"{result['id'].lower()}_{model}/result.json"
    how = (
        f"{model}: `{known['command']}`, seed {known['seed']}, commit {known['commit'][:8]}, {took}"
    )
    return f"{how}; {settings} ([sources and versions]({link}))"


def _claims(by_model: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {key: claim for result in by_model.values() for key, claim in result["findings"].items()}


def _ours(result: dict[str, Any] | None, key: str, *, brief: bool = False) -> str:
    if result is None or key not in result["findings"]:
        return ""
    finding = result["findings"][key]
    verdict, ours = _VERDICTS[finding["verdict"]], shown(finding["ours"])
    if verdict == "—":
        return verdict if brief else _cell(f"— {finding['why']}")
    return f"{verdict}: {ours.split(', n ')[0] if brief else ours}"


def _numbers(paper: str) -> str:
    """What the paper has, where it has a number."""
    return f" ({paper})" if any(map(str.isdigit, paper)) and not paper.startswith("not ") else ""


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _table(head: list[str], rows: Iterable[list[str]]) -> str:
    return "\n".join(
        [
            f"| {' | '.join(head)} |",
            "|" + "---|" * len(head),
            *(f"| {' | '.join(row)} |" for row in rows),
            "",
        ]
    )


if __name__ == "__main__":
    typer.run(main)
