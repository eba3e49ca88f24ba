"""Probes labels of real recordings: `python -m experiments.label_probes`.

Runs `jaxasr probe` for each combination of model and probe that has no result yet. Then writes all
results to the page `docs/results/probes.md`.
"""

import os
import shlex
from pathlib import Path
from typing import Annotated, Any

import pandas
import typer

from experiments.data import real_speech
from experiments.label_probes.manifests import prepare
from experiments.label_probes.page import MODELS, Results, command, render
from experiments.label_probes.probes import PROBES, LabelProbe
from interventions.storage.text_files import replacing, write_json, write_text
from interventions.storage.untrusted_files import read_json

# Keys of `result.json` that are copied to `probes.json`.
_PUBLISHED_KEYS = ("rows", "classes", "groups", "table", "provenance")


def main(
    model: Annotated[
        list[str] | None, typer.Option(help="Model; may be repeated. Default: tiny.en and base.")
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option(help="Name of a probe; may be repeated. Default: all.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for manifests, activations and probes.")] = Path(
        "out/probes"
    ),
    docs: Annotated[Path, typer.Option(help="Folder for the page and its figures.")] = Path(
        "docs/results"
    ),
) -> None:
    """Runs the probes that have no result yet, and publishes all results."""
    manifests = prepare(out / "manifests")
    for model_name in model or MODELS:
        for probe in PROBES:
            if not only or probe.name in only:
                run_probe(probe, model_name, out, manifests[probe.manifest])
    publish(out, docs)


def run_probe(probe: LabelProbe, model: str, out: Path, manifest: Path) -> None:
    """Prints and runs the command of one probe, if the probe has no result yet."""
    from experiments.cli import app

    if _result_file(probe, model, out).is_file():
        return
    data = real_speech.folder()
    assert data is not None, "the manifest was made from the data folder"
    noises = os.path.relpath(data / "noise_esc10")  # ten classes of environmental sounds
    arguments = command(probe, model, out, manifest, noises)
    print("jaxasr", shlex.join(arguments), flush=True)
    app(arguments, standalone_mode=False)


def _result_file(probe: LabelProbe, model: str, out: Path) -> Path:
    return out / "probes" / f"{model}-{probe.name}" / "result.json"


def publish(out: Path, docs: Path) -> None:
    """Writes `probes.md`, `probes.json` and a figure per probe.

    Args:
        out: folder with the results of the commands.
        docs: folder to write to.
    """
    results: dict[str, Results] = {}
    for probe in PROBES:
        files = {model: _result_file(probe, model, out) for model in MODELS}
        by_model = {model: read_json(file) for model, file in files.items() if file.is_file()}
        if by_model:
            results[probe.name] = {
                model: {name: result[name] for name in _PUBLISHED_KEYS}
                for model, result in by_model.items()
            }
            _draw(probe, by_model, docs / "probes" / f"{probe.name}.png")
    write_json(docs / "probes.json", results)
    write_text(docs / "probes.md", render(results, out))


def _draw(probe: LabelProbe, results: dict[str, Any], path: Path) -> None:
    from experiments.analyses.probe import draw_scores

    tables = {model: pandas.DataFrame(result["table"]) for model, result in results.items()}
    with replacing(path) as temporary:
        draw_scores(tables, probe.title).savefig(temporary, dpi=90, format="png")


if __name__ == "__main__":
    typer.run(main)
