"""Defines `jaxasr patch`, which replaces activations cell by cell and measures the effect."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from experiments.commands.errors import check_recordings
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
    from experiments.analyses.patch_question import PatchQuestion
    from experiments.commands.output import Output

EXAMPLE = (
    "jaxasr patch speech.flac --source snr:0 --site decoder.cross_attn.z --over layer,head "
    "--out heads"
)

_FILES = ("index.html", "figure.png", "figure.svg", "result.json", "result.zarr")
_CELLS = "cells"  # subfolder of --out with the finished cells of a sweep
_SOURCE_HELP = (
    "Where the patch comes from. Another recording: the path of a file. Another sound of the same "
    "length: noise (white, as loud as TARGET) or silence. A corrupted TARGET: snr:DB (with noise), "
    "bandstop:LOW-HIGH (without these Hz), mask:START-STOP (silent for these seconds). Activations "
    "instead of a recording: zero, mean (the mean of TARGET over positions), resample[:SEED] "
    "(those of another TARGET, chosen at random)."
)
_METRIC_HELP = (
    "What to measure: logit_diff[:ANSWER,FOIL], logprob[:ANSWER], kl or rank. With --sequence: "
    "wer, cer, insertions, repeat_span, loop, resolved (1 if the patch stops a loop), length, "
    "no_speech_prob or avg_logprob. Default: logit_diff, or wer with --sequence."
)
_OUT_HELP = "Folder for index.html, the figure, result.json and result.zarr."
_TEXT_HELP = (
    "Words before the scored token. With --sequence: the correct text, for wer and cer. Default: "
    "the text that the model generates."
)
_ANSWER_HELP = (
    "The scored word. Default with --text: the likeliest word after that text. Default without "
    "--text: the generated word whose probability the source changes most, or the last word if the "
    "source is not a recording."
)
_RECORDINGS_HELP = (
    "Recordings that a device computes together. Equal numbers give equal bits, on any number of "
    "devices and processes. Default: chosen for the memory."
)
_FOIL_HELP = (
    "The word that logit_diff subtracts. Default: the likeliest other word, for the source if that "
    "is a recording, else for TARGET."
)
# Other commands detect the language, but this command does not.
_LANGUAGE_HELP = "Language of the speech, such as en or German. Default: English."
_ALPHA_HELP = "Strengths α, such as 0,0.5,1: (1-α) · target + α · source."


def patch(
    targets: Annotated[
        list[Path],
        typer.Argument(help="Recordings to patch. Uses the first 30 s of each.", metavar="TARGET"),
    ],
    source: Annotated[str, typer.Option("--source", "-s", help=_SOURCE_HELP)],
    site: Annotated[
        str, typer.Option("--site", help="Site to patch. `jaxasr info` lists all sites.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help=_OUT_HELP)],
    over: Annotated[
        str,
        typer.Option(
            "--over",
            help="Dimensions of the grid, separated by commas: layer, head, position, time, alpha.",
        ),
    ] = "layer",
    metric: Annotated[str | None, typer.Option("--metric", help=_METRIC_HELP)] = None,
    text: Annotated[str, typer.Option("--text", help=_TEXT_HELP)] = "",
    answer: Annotated[str, typer.Option("--answer", help=_ANSWER_HELP)] = "",
    foil: Annotated[str, typer.Option("--foil", help=_FOIL_HELP)] = "",
    alpha: Annotated[str, typer.Option("--alpha", help=_ALPHA_HELP)] = "",
    window: Annotated[
        float, typer.Option("--window", help="Seconds per window of the dimension time.")
    ] = 0.5,
    sequence: Annotated[
        bool, typer.Option("--sequence", help="Generate a text per cell instead of one score.")
    ] = False,
    tokens: Annotated[
        int,
        typer.Option(
            "--tokens", min=1, max=440, help="Largest number of tokens per generated text."
        ),
    ] = 224,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the noise.")] = 0,
    recordings: Annotated[
        int | None, typer.Option("--recordings", min=1, help=_RECORDINGS_HELP)
    ] = None,
    model: ModelOption = DEFAULT_MODEL,
    language: Annotated[str | None, typer.Option("--language", "-l", help=_LANGUAGE_HELP)] = None,
    overwrite: OverwriteOption = False,
    json: JsonOption = False,
    dtype: DtypeOption = Dtype.float32,
    device: DeviceOption = None,
    distributed: DistributedOption = "auto",
) -> None:
    """Patches activations at one site, cell by cell, and ranks the cells by their effect.

    Prints the plan first. Keeps finished cells in --out. To continue after an interruption, run the
    same command again.
    """
    from experiments.analyses.patch_question import PatchQuestion
    from experiments.runtime import check_language

    # The words of a metric, such as logit_diff:letter,book, take the place of --answer and --foil.
    metric = metric or ("wer" if sequence else "logit_diff")
    metric_name, _, metric_words = metric.partition(":")
    metric_answer, _, metric_foil = metric_words.partition(",")
    check_recordings(targets)
    question = PatchQuestion(
        site=site,
        over=tuple(dim.strip() for dim in over.split(",") if dim.strip()),
        source=source,
        metric=metric_name,
        sequence=sequence,
        text=text,
        answer=metric_answer or answer,
        foil=metric_foil or foil,
        alphas=_parse_alphas(alpha),
        window_s=window,
        language=language,
        seed=seed,
        new_tokens=tokens,
        recordings_together=recordings,
    )
    question.check_targets(len(targets))
    check_language(model, language)
    output = _open_output(targets, out, question, model, dtype, overwrite)
    options = {"model": model, "json": json, "dtype": dtype, "device": device}
    _run(targets, output, question, distributed=distributed, **options)


def _parse_alphas(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(",")) if text else ()
    except ValueError:
        raise ValueError(
            f"--alpha: expected numbers separated by commas, such as 0,0.5,1, got {text!r}."
        ) from None


def _open_output(
    targets: list[Path],
    out: Path,
    question: "PatchQuestion",
    model: str,
    dtype: Dtype,
    overwrite: bool,
) -> "Output":
    from experiments.commands.output import describe_origin, open_output

    options = dataclasses.asdict(question)
    source, recordings = Path(question.source), list(targets)
    if source.is_file():
        # The folder does not matter, so the description has only the file's name and its hash.
        options["source"] = source.name
        recordings.append(source)
    description = describe_origin("patch", recordings, model, dtype=dtype.value, **options)
    return open_output(out, dict.fromkeys((*_FILES, _CELLS), description), overwrite)


def _run(
    targets: list[Path],
    output: "Output",
    question: "PatchQuestion",
    *,
    model: str,
    json: bool,
    dtype: Dtype,
    device: Device | None,
    distributed: str,
) -> None:
    from experiments import runtime
    from experiments.progress import Progress

    steps = Progress()
    with steps("start JAX"):
        runtime.start(device, distributed)
        import jaxasr
        from experiments.analyses.patch import check_grid, patch as run_patch
        from experiments.analyses.patch_recordings import make_sources
        from experiments.pages import patch_page
        from interventions.storage.provenance import provenance
        from jaxasr.config import N_SAMPLES
        from jaxasr.processes import this_process
    check_grid(question)
    with steps("read the recordings"):
        audio = [jaxasr.load_audio(path)[:N_SAMPLES] for path in targets]
        sources = make_sources(audio, question)
    with steps(f"load {model}"):
        asr = runtime.load_whisper(model, dtype.value)
    process = this_process()
    outcome = run_patch(
        asr,
        audio,
        sources,
        question,
        steps,
        lambda: output.prepare_folder(_CELLS, process),
        process,
    )
    if outcome is None:
        steps.note(f"finished {process.name}; process 0 writes the page")
        return
    with steps("write the page"):
        page = patch_page.PatchPage(
            model=model,
            targets=tuple(path.name for path in targets),
            source_name=question.source,
            site=question.site,
            metric=question.metric,
            plan=outcome.plan,
            scored=outcome.scored,
            texts=outcome.texts,
            target_sound=audio[0],
            source_sound=outcome.source_sound,
            words=outcome.words,
            provenance=provenance(
                model=runtime.describe_weights(asr),
                data=[str(path) for path in targets],
                config=dataclasses.asdict(question),
                seed=question.seed,
            ),
        )
        numbers = patch_page.write(page, outcome.result, output.folder, output.record, asr)
    steps.print_total()
    patch_page.print_result(numbers, output.folder, json)
