"""Probes of real recordings, as `docs/results/probes.md` has them: `python -m experiments.label_probes`.

Each is one `jaxasr probe`, printed with its options; what is there already is not done again.
"""

import os
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

import pandas
import typer

from experiments.data import real_speech
from experiments.label_probes.manifests import prepare
from experiments.label_probes.probes import LINES, PENALTY, Line
from interventions.storage.inert import read_json
from interventions.storage.text_files import replacing, write_json, write_text


def command(line: Line, model: str, out: Path, manifest: Path, noises: str) -> list[str]:
    """The arguments of `jaxasr`."""
    store = f"{model}-{line.of}{'-noise' if line.noise else ''}"
    said = [
        "probe",
        str(manifest),
        "--label",
        line.label,
        "--model",
        model,
        "--penalty",
        f"{PENALTY:g}",
    ]
    said += [
        "--store",
        str(out / "stores" / store),
        "--out",
        str(out / "probes" / f"{model}-{line.name}"),
    ]
    said += ["--group", line.group] if line.group else []
    for snr in ("10", "0") if line.noise else ():
        said += ["--noise", f"snr:{snr}:{noises}"]
    return [*said, *line.options]


def main(
    model: Annotated[
        list[str] | None, typer.Option(help="Default: tiny.en and base; may be repeated.")
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option(help="Names of probes; default: all of them.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for manifests, activations and probes.")] = Path(
        "out/probes"
    ),
    docs: Annotated[Path, typer.Option(help="Folder for the page and its figures.")] = Path(
        "docs/results"
    ),
) -> None:
    """Writes manifests, runs every probe that is not there yet, then the page with whatever there is."""
    from experiments.cli import app

    manifests = prepare(out / "manifests")
    noises = os.path.relpath(real_speech.folder() / "noise_esc10")
    for name in model or ["tiny.en", "base"]:
        for line in LINES:
            if only and line.name not in only:
                continue
            said = command(line, name, out, manifests[line.of], noises)
            if not (out / "probes" / f"{name}-{line.name}" / "result.json").is_file():
                print("jaxasr", shlex.join(said), flush=True)
                app(said, standalone_mode=False)
    write_page(out, docs)


def write_page(out: Path, docs: Path) -> None:
    """`probes.md`, `probes.json` and a figure a probe, of the results in `out`."""
    found: dict[str, dict[str, Any]] = {}
    for line in LINES:
        files = {
            name: out / "probes" / f"{name}-{line.name}" / "result.json"
            for name in ("tiny.en", "base")
        }
        here = {name: read_json(file) for name, file in files.items() if file.is_file()}
        if here:
            found[line.name] = here
            _draw(line, here, docs / "probes" / f"{line.name}.png")
    sections = [_section(line, found[line.name], out) for line in LINES if line.name in found]
    write_text(docs / "probes.md", "\n".join([_HEAD, _overview(found), *sections]))
    kept = ("rows", "classes", "groups", "table", "provenance")
    write_json(
        docs / "probes.json",
        {
            name: {m: {k: r[k] for k in kept} for m, r in here.items()}
            for name, here in found.items()
        },
    )


def _draw(line: Line, here: dict[str, Any], path: Path) -> None:
    from experiments.analyses.probe import figure

    with replacing(path) as temporary:
        tables = {model: pandas.DataFrame(result["table"]) for model, result in here.items()}
        figure(tables, line.title).savefig(temporary, dpi=90, format="png")


def _best(result: dict[str, Any]) -> dict[str, Any]:
    return max(result["table"], key=lambda row: row["accuracy"])


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f}"


_ALL = (
    "probe",
    "model",
    "rows",
    "classes",
    "best layer",
    "% [95 %]",
    "last layer",
    "shuffled",
    "majority",
    "mel",
    "embed",
    "the paper",
)


def _overview(found: dict[str, Any]) -> str:
    rows = [
        _overview_row(line, model, result)
        for line in LINES
        for model, result in found.get(line.name, {}).items()
    ]
    return "\n".join(["## All of them", "", *_markdown(_ALL, rows), ""])


def _overview_row(line: Line, model: str, result: dict[str, Any]) -> list[str]:
    best, last = _best(result), result["table"][-1]
    score = f"**{_percent(best['accuracy'])}** [{_percent(best['low'])}, {_percent(best['high'])}]"
    checks = [_percent(best[name]) for name in ("shuffled", "majority", "mel", "embed")]
    layer = f"{best['layer']} of {len(result['table'])}"
    counts = [str(result["rows"]), str(len(result["classes"]))]
    return [
        f"[{line.title}](#{_anchor(line.title)})",
        model,
        *counts,
        layer,
        score,
        _percent(last["accuracy"]),
        *checks,
        line.paper,
    ]


def _anchor(title: str) -> str:
    return "".join(
        letter for letter in title.lower().replace(" ", "-") if letter.isalnum() or letter == "-"
    )


def _markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    return [
        f"| {' | '.join(head)} |",
        "|" + "---|" * len(head),
        *(f"| {' | '.join(row)} |" for row in rows),
    ]


_COLUMNS = (
    "accuracy",
    "balanced",
    "shuffled",
    "majority",
    "control_task",
    "selectivity",
    "mel",
    "embed",
)


def _section(line: Line, here: dict[str, Any], out: Path) -> str:
    said = command(
        line, "MODEL", out, out / "manifests" / f"{line.of}.jsonl", "$JAXASR_DATA/noise_esc10"
    )
    paper = "" if line.paper == "—" else f" The paper: {line.paper}."
    parts = [
        f"## {line.title}",
        "",
        f"{line.note}{paper}",
        "",
        f"![{line.title}](probes/{line.name}.png)",
        "",
    ]
    parts += ["```", f"jaxasr {' '.join(said)}", "```", ""]
    for model, result in here.items():
        parts += _model_table(line, model, result)
    return "\n".join(parts)


def _model_table(line: Line, model: str, result: dict[str, Any]) -> list[str]:
    names = [name for name in _COLUMNS if name in result["table"][0]]
    counts = result["classes"]
    classes = (
        ", ".join(f"{name} {n}" for name, n in counts.items())
        if len(counts) < 12
        else str(len(counts))
    )
    groups = f", {result['groups']} groups ({line.group})" if result["groups"] else ""
    rows = [
        [
            str(row["layer"]),
            *(_percent(row[name]) for name in names),
            f"{_percent(row['low'])} to {_percent(row['high'])}",
        ]
        for row in result["table"]
    ]
    table = _markdown(["layer", *names, "95 % interval"], rows)
    return [f"{model}: {result['rows']} rows{groups}; classes: {classes}.", "", *table, ""]


_HEAD = f"""# Probes by layer, on real recordings

What a linear probe reads from each encoder layer of tiny.en and base, beside its controls; after experiment E1 of arXiv 2508.15882.
Remade by `python -m experiments.label_probes` (numbers: [probes.json](probes.json)). The paper probes
large-v3 (32 encoder layers) on 337 to 2,500 utterances; models and data here are far smaller, so patterns compare, digits do not.

* The residual stream after each layer (`encoder.resid_post`, layers from 0), mean over true speech frames; single frames for phones.
* Multinomial logistic regression, features standardised in the fold, λ = {PENALTY:g} for all, chosen beforehand; 5 folds and 3 ways to make
  them where no option says otherwise. Pooling, λ, folds: our choice; the paper does not state its own.
* Percent of held-out rows; intervals are bootstraps of whole groups, as if answers of different folds were independent: they share rows,
  and honest intervals are up to √2 wider (as in E1 to E4). **The best layer is picked on the test rows**, so it flatters a little; the
  last layer is not picked.
* shuffled: labels permuted, same folds. majority: the commonest class. control_task: a random label for every speaker (Hewitt and Liang
  2019), folds by row; selectivity is what the probe has beyond it in those folds. mel: mean log-mel features. embed: the encoder's
  input, after its convolutions.
* Small cells show that labels work, not a difference between groups of people.

**What it shows.** Who speaks (gender, speaker, and what here goes with the speaker: a dialect region) is read best after the first layers
and fades towards the last; noise and phones are read best in the middle. The paper has all of its attributes best in upper layers (22 to
27 of 32). Much of gender and speaker is in the mean log-mel features already, and nearly all of it in the encoder's input: without such
baselines a high accuracy says little about layers. Native language of unseen speakers cannot be told from this many recordings: the
interval spans the majority.
"""


if __name__ == "__main__":
    typer.run(main)
