"""Defines `jaxasr reproduce`, which runs the experiments of a paper and three further ones.

The paper is "Beyond Transcription" (arXiv 2508.15882).
"""

import enum
from pathlib import Path
from typing import Annotated, Any

import typer

from experiments.commands.errors import print_error
from experiments.commands.options import (
    DEFAULT_MODEL,
    DeviceOption,
    Dtype,
    DtypeOption,
    JsonOption,
    ModelOption,
    OverwriteOption,
)

_DATA_HELP = (
    "Recordings: a folder with a manifest, or a corpus in its published layout. "
    "Default: $JAXASR_DATA, or the built-in recordings."
)
_FILES: tuple[str, ...] = ("index.html", "result.json", "arrays.nc")
EXAMPLE = "jaxasr reproduce E7 E8 --quick --out studies"


class Preset(enum.StrEnum):
    """Which settings the experiments use."""

    paper = "paper"  # those of the paper
    here = "here"  # for a small model
    builtin = "builtin"  # for the built-in recordings


def reproduce(
    experiments: Annotated[
        list[str], typer.Argument(help="E1 to E8 (of the paper), B1 to B3 (further ones), or all.")
    ],
    out: Annotated[
        Path,
        typer.Option("--out", "-o", help="Folder for an index page and one folder per experiment."),
    ],
    model: ModelOption = DEFAULT_MODEL,
    data: Annotated[str | None, typer.Option("--data", help=_DATA_HELP)] = None,
    preset: Annotated[
        Preset | None,
        typer.Option(
            "--preset",
            help="Settings: paper (those of the paper), here (for a small model), or builtin (for "
            "the built-in recordings). Default: depends on the recordings.",
        ),
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Run on fewer recordings, for a first look.")
    ] = False,
    seed: Annotated[int, typer.Option("--seed", help="Seed of samples, noise and resampling.")] = 0,
    overwrite: OverwriteOption = False,
    json: JsonOption = False,
    dtype: DtypeOption = Dtype.float32,
    device: DeviceOption = None,
) -> None:
    """Runs experiments, and makes a page of results for each of them and an index of the pages.

    If an experiment fails, its error is printed and the next one starts. To continue after an
    interruption, run the same command again.
    """
    from experiments import runtime
    from experiments.commands.output import claim, describe
    from experiments.progress import Progress
    from experiments.studies import registry

    names, steps = registry.sort_study_ids(experiments), Progress()
    with steps("start JAX"):
        runtime.start(device)
        from experiments.studies import reproduce as studies
    corpus, default_preset = studies.open_recordings(data)
    recordings = {"data": corpus.name, "sha256": corpus.sha256(transcripts=True)[:16]}
    description = describe(
        "reproduce",
        [],
        model,
        **recordings,
        preset=preset or default_preset,
        quick=quick,
        seed=seed,
        dtype=dtype.value,
    )
    files = dict.fromkeys(_FILES, description)
    outputs = {name: claim(out / name, files, overwrite) for name in names}
    with steps(f"load {model}"):
        asr = runtime.load(model, dtype.value)
    settings = {"preset": preset or default_preset, "quick": quick, "seed": seed, "steps": steps}

    def run(name: str, study: Any, folder: Path) -> dict[str, Any]:
        steps.note(f"{name}  {study.title}")
        return studies.reproduce(
            name, study, asr, corpus, folder, record=outputs[name].record, **settings
        )

    def report(name: str, error: BaseException) -> None:
        print_error(RuntimeError(f"{name}: {type(error).__name__}: {error}"))

    results = studies.reproduce_all(names, out, run, report)
    steps.print_total()
    _print(results, out, json)
    if None in results.values():
        raise typer.Exit(2)


def _print(results: dict[str, dict[str, Any] | None], out: Path, json: bool) -> None:
    from experiments.studies.study_page import format_evidence
    from interventions.storage.text_files import printable, to_json

    if json:
        print(to_json(results))
        return
    for name, result in results.items():
        for finding in result["findings"].values() if result else ():
            verdict = f"{name}  {finding['verdict']:<32}"
            print(
                printable(f"{verdict}  {finding['statement']}: {format_evidence(finding['ours'])}")
            )
    print(f"\n{printable(out / 'index.html')}")
