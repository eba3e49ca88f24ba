"""Defines `jaxasr reproduce`, which runs eight experiments of a paper and three further ones.

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
    DistributedOption,
    Dtype,
    DtypeOption,
    JsonOption,
    ModelOption,
    OverwriteOption,
)

_DATA_HELP = (
    "Recordings: a folder with a manifest, or a corpus in its published layout. Give the option "
    "several times to join corpora. Default: the folders in $JAXASR_DATA, or the built-in "
    "recordings."
)
# Files that every experiment writes into its folder.
_FILES: tuple[str, ...] = ("index.html", "result.json", "arrays.nc")
EXAMPLE = "jaxasr reproduce E7 E8 --quick --out studies"


class Preset(enum.StrEnum):
    """A set of settings of the experiments."""

    paper = "paper"  # the settings of the paper
    all = "all"  # for all recordings, in hours
    here = "here"  # for a small model
    builtin = "builtin"  # for the built-in recordings


def reproduce(
    experiments: Annotated[
        list[str], typer.Argument(help="E1 to E8 (of the paper), B1 to B3 (of jaxasr), or all.")
    ],
    out: Annotated[
        Path,
        typer.Option("--out", "-o", help="Folder for an index page and one folder per experiment."),
    ],
    model: ModelOption = DEFAULT_MODEL,
    data: Annotated[list[str] | None, typer.Option("--data", help=_DATA_HELP)] = None,
    preset: Annotated[
        Preset | None,
        typer.Option(
            "--preset",
            help="Settings: paper (as in the paper), all (for all recordings, in hours), here (for "
            "a small model, in minutes), or builtin (for the built-in recordings). Default: "
            "builtin for the built-in recordings, else here.",
        ),
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Use fewer recordings, for a result in minutes.")
    ] = False,
    compare: Annotated[
        Path | None,
        typer.Option(
            "--compare",
            help="Output folder of an earlier run with a model of another family, such as an audio "
            "language model, for claims that compare the two.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Seed of samples, noise and resampling.")] = 0,
    overwrite: OverwriteOption = False,
    json: JsonOption = False,
    dtype: DtypeOption = Dtype.float32,
    device: DeviceOption = None,
    distributed: DistributedOption = "auto",
) -> None:
    """Runs experiments, and makes a page of results per experiment and an index of the pages.

    Prints the error of an experiment that fails, and starts the next one. To continue after an
    interruption, run the same command again.
    """
    from experiments import runtime
    from experiments.commands.output import describe_origin, open_output
    from experiments.progress import Progress
    from experiments.studies import registry

    names, steps = registry.sort_study_ids(experiments), Progress()
    for name in data or ():
        if not name.startswith("hf:") and not Path(name).exists():
            raise FileNotFoundError(f"--data {name}: no such file or folder. Check the spelling.")
    others = {} if compare is None else {name: compare / name / "arrays.nc" for name in names}
    for path in others.values():
        if not path.exists():
            raise FileNotFoundError(f"--compare {compare}: it has no {path}. Run it first.")
    with steps("start JAX"):
        runtime.start(device, distributed)
        from experiments.data import real_speech
        from experiments.studies import reproduce as studies
        from jaxasr.processes import this_process
    process = this_process()
    sources = data or real_speech.folders()
    corpus, default_preset = studies.open_recordings(sources)
    steps.note(f"recordings: {', '.join(map(str, sources)) or 'built-in'} ({len(corpus)})")
    recordings = {"data": corpus.name, "sha256": corpus.sha256(transcripts=True)[:16]}
    description = describe_origin(
        "reproduce",
        [],
        model,
        **recordings,
        **({} if compare is None else {"compare": compare}),
        preset=preset or default_preset,
        quick=quick,
        seed=seed,
        dtype=dtype.value,
    )
    files = dict.fromkeys(_FILES, description)
    outputs = {name: open_output(out / name, files, overwrite) for name in names}
    with steps(f"load {model}"):
        asr = runtime.load(model, dtype.value)
    settings = {"preset": preset or default_preset, "quick": quick, "seed": seed, "steps": steps}

    def run(name: str, study: Any, folder: Path) -> dict[str, Any]:
        steps.note(f"{name}  {study.title}")
        return studies.reproduce(
            name,
            study,
            asr,
            corpus,
            folder,
            record=outputs[name].record,
            process=process,
            compare=others.get(name),
            **settings,
        )

    def report(name: str, error: BaseException) -> None:
        print_error(RuntimeError(f"{name}: {type(error).__name__}: {error}"))

    results = studies.reproduce_all(names, out, run, report, process)
    steps.print_total()
    if process.is_first:
        _print(results, out, json)
    else:
        steps.note(f"finished {process.name}; process 0 writes the pages")
    if None in results.values():
        raise typer.Exit(2)


def _print(results: dict[str, dict[str, Any] | None], out: Path, json: bool) -> None:
    from rich.table import Table
    from rich.text import Text

    from experiments.progress import console as standard_output
    from experiments.studies import finding_rows
    from interventions.storage.text_files import printable, to_json

    if json:
        print(to_json(results))
        return
    rows = [
        (name, row)
        for name, result in results.items()
        for row in (result["findings"].values() if result else ())
    ]
    table = Table(box=None, header_style="dim", pad_edge=False)
    for column in ("", "verdict", "claim", "paper", "here"):
        table.add_column(column, overflow="fold", no_wrap=column in ("", "verdict"))
    for name, row in rows:
        texts = [finding_rows.format_evidence(row), *finding_rows.notes(row)]
        here = "; ".join(text for text in texts if text != "—")
        cells = (name, finding_rows.format_verdict(row), row["statement"], row["paper"], here)
        table.add_row(*(Text(printable(cell)) for cell in cells))
    console = standard_output()
    console.print(table)
    console.print(f"\n{finding_rows.summarise(row for _, row in rows)}")
    print(f"\n{printable(out / 'index.html')}")
