"""Defines `jaxasr loops`, which ranks the parts of the decoder that cause a user's loops."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from experiments.commands.options import (
    DEFAULT_MODEL,
    Device,
    DeviceOption,
    DistributedOption,
    Dtype,
    DtypeOption,
    JsonOption,
    ModelOption,
    OverwriteOption,
)

if TYPE_CHECKING:
    from experiments.commands.output import Output
    from experiments.data.corpora import Corpus

EXAMPLE = "jaxasr loops loops.jsonl --clean clean.jsonl --out loops"

_FILES = ("index.html", "result.json", "arrays.nc", "parts.png", "maps.png")
_MANIFEST_HELP = (
    "Recordings that loop: a manifest (.jsonl or .csv), a folder of LibriSpeech, Common Voice or "
    "TIMIT, or hf:NAME. Uses the first 30 s of each. Columns: path, and optionally transcript, "
    "speaker, lang, start, end, and previous (the text before the recording)."
)
_CLEAN_HELP = (
    "Clean speech, in the same layouts, for the cost of each patch. The word error rate needs "
    "transcripts. A cost below 2 points needs about 180 speakers."
)
_TOKENS_HELP = (
    "Largest number of tokens per text. A loop must be found in them, which needs 48 or more."
)


def loops(
    manifest: Annotated[str, typer.Argument(help=_MANIFEST_HELP)],
    clean: Annotated[str, typer.Option("--clean", help=_CLEAN_HELP)],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder for index.html, result.json and arrays.nc.")
    ],
    model: ModelOption = DEFAULT_MODEL,
    tokens: Annotated[int, typer.Option("--tokens", min=48, max=440, help=_TOKENS_HELP)] = 64,
    seed: Annotated[int, typer.Option("--seed", help="Seed of noise, halves and resampling.")] = 0,
    quick: Annotated[
        bool,
        typer.Option("--quick", help="White noise only, on six loops and twelve clean recordings."),
    ] = False,
    overwrite: OverwriteOption = False,
    json: JsonOption = False,
    dtype: DtypeOption = Dtype.float32,
    device: DeviceOption = None,
    distributed: DistributedOption = "auto",
) -> None:
    """Ranks the heads and layers of the decoder by the loops that they resolve when patched.

    Leaves out recordings that do not loop, and says which. Patches every layer of cross-attention,
    self-attention and MLP and every head with white noise, zero and the mean over clean speech.
    Compares white noise with equally long moves in random directions, and measures the cost on
    clean speech. To continue after an interruption, run the same command again.
    """
    recordings = {
        "MANIFEST": _open_corpus("MANIFEST", manifest),
        "--clean": _open_corpus("--clean", clean),
    }
    sources = {
        name: [corpus.name, corpus.sha256(transcripts=True)[:16]]
        for name, corpus in recordings.items()
    }
    options = {"tokens": tokens, "seed": seed, "quick": quick, "dtype": dtype.value}
    output = _open_output(out, model, sources | options, overwrite)
    _run(
        recordings["MANIFEST"],
        recordings["--clean"],
        output,
        model=model,
        json=json,
        device=device,
        distributed=distributed,
        **options,
    )


def _open_corpus(name: str, path: str) -> "Corpus":
    """Opens a corpus, and names the argument in errors."""
    from experiments.data.corpora import open_corpus

    try:
        return open_corpus(path)
    except (ValueError, OSError) as error:
        raise type(error)(f"{name} {path}: {error}") from None


def _open_output(out: Path, model: str, options: dict[str, Any], overwrite: bool) -> "Output":
    from experiments.commands.output import describe_origin, open_output

    description = describe_origin("loops", [], model, **options)
    return open_output(out, dict.fromkeys(_FILES, description), overwrite)


def _run(
    loops: "Corpus",
    clean: "Corpus",
    output: "Output",
    *,
    model: str,
    tokens: int,
    seed: int,
    quick: bool,
    dtype: str,
    json: bool,
    device: Device | None,
    distributed: str,
) -> None:
    from experiments import runtime
    from experiments.progress import Progress

    steps = Progress()
    with steps("start JAX"):
        runtime.start(device, distributed)
        from experiments.studies.loop_ranking import page
        from experiments.studies.loop_ranking.run import Settings, rank_loops
        from jaxasr.processes import this_process
    with steps(f"load {model}"):
        asr = runtime.load_whisper(model, dtype)
    settings = Settings(max_new_tokens=tokens, seed=seed)
    process = this_process()
    result = rank_loops(
        asr,
        loops,
        clean,
        output.folder,
        settings.quick() if quick else settings,
        steps,
        record=output.record,
        process=process,
    )
    steps.print_total()
    if not process.is_first:
        steps.note(f"finished {process.name}; process 0 writes the page")
        return
    page.print_result(result, output.folder, json)
