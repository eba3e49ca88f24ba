"""`jaxasr reproduce`: the experiments of "Beyond Transcription", and those beyond it."""

import enum
from pathlib import Path
from typing import Annotated, Any

import typer

from experiments.commands.errors import say
from experiments.commands.options import (
    DEFAULT_MODEL,
    DeviceOption,
    Dtype,
    DtypeOption,
    JsonOption,
    ModelOption,
    OverwriteOption,
)

_DATA_HELP = "Recordings: a folder with a manifest, or a corpus as it was published. Default: $JAXASR_DATA, or built-in ones."
_FILES = ("index.html", "result.json", "arrays.nc")
EXAMPLE = "jaxasr reproduce E7 E8 --quick --out studies"


class Preset(enum.StrEnum):
    """Whose settings: the paper's, ours for a small model, ours for the built-in recordings."""

    paper = "paper"
    here = "here"
    builtin = "builtin"


def reproduce(
    experiments: Annotated[
        list[str], typer.Argument(help="E1 … E8 of the paper, B1 … beyond it, or all.")
    ],
    out: Annotated[
        Path,
        typer.Option("--out", "-o", help="Folder for an index and a folder for each experiment."),
    ],
    model: ModelOption = DEFAULT_MODEL,
    data: Annotated[str | None, typer.Option("--data", help=_DATA_HELP)] = None,
    preset: Annotated[
        Preset | None,
        typer.Option("--preset", help="Whose settings. Default: what fits the recordings."),
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="The same on fewer recordings, within two minutes.")
    ] = False,
    seed: Annotated[int, typer.Option("--seed", help="Of samples, noise and resampling.")] = 0,
    overwrite: OverwriteOption = False,
    json: JsonOption = False,
    dtype: DtypeOption = Dtype.float32,
    device: DeviceOption = None,
) -> None:
    """Runs experiments: numbers, figures, a page and verdicts for each, and an index.

    Whatever interrupts it, the same command goes on where it was. One that fails is reported, and the others get their turn.
    """
    from experiments import runtime
    from experiments.commands.output import checked, made
    from experiments.progress import Progress
    from experiments.studies import registry

    names, steps = registry.resolve(experiments), Progress()
    with steps("start JAX"):
        runtime.start(device)
        from experiments.studies import reproduce as studies
    corpus, fits = studies.open_recordings(data)
    recordings = {"data": corpus.name, "sha256": corpus.sha256(transcripts=True)[:16]}
    known = made(
        "reproduce",
        [],
        model,
        **recordings,
        preset=preset or fits,
        quick=quick,
        seed=seed,
        dtype=dtype.value,
    )
    outputs = {name: checked(out / name, dict.fromkeys(_FILES, known), overwrite) for name in names}
    with steps(f"load {model}"):
        asr = runtime.load(model, dtype.value)
    settings = {"preset": (preset or fits), "quick": quick, "seed": seed, "steps": steps}

    def one(name: str, study: Any, folder: Path) -> dict[str, Any]:
        steps.note(f"{name}  {study.title}")
        return studies.reproduce(
            name, study, asr, corpus, folder, record=outputs[name].record, **settings
        )

    done = studies.reproduce_all(
        names,
        out,
        one,
        lambda name, problem: say(RuntimeError(f"{name}: {type(problem).__name__}: {problem}")),
    )
    steps.say_total()
    _print(done, out, json)
    if None in done.values():
        raise typer.Exit(2)


def _print(done: dict[str, dict[str, Any] | None], out: Path, json: bool) -> None:
    from experiments.studies.study_page import format_evidence
    from interventions.storage.text_files import printable, to_json

    if json:
        print(to_json(done))
        return
    for name, result in done.items():
        for finding in result["findings"].values() if result else ():
            print(
                printable(
                    f"{name}  {finding['verdict']:<32}  {finding['statement']}: {format_evidence(finding['ours'])}"
                )
            )
    print(f"\n{printable(out / 'index.html')}")
