"""`jaxasr patch`: put activations of something else into a recording's pass, at every cell of a grid, and see what changes."""

from pathlib import Path
from typing import Annotated, Any

import typer

from experiments.commands.errors import check_recordings
from experiments.commands.options import (
    DEFAULT_MODEL,
    Device,
    DeviceOption,
    Dtype,
    DtypeOption,
    JsonOption,
    LanguageOption,
    ModelOption,
    OverwriteOption,
)

EXAMPLE = "jaxasr patch speech.flac --source snr:0 --site decoder.cross_attn.z --over layer,head --out heads"

_FILES = ("index.html", "figure.png", "figure.svg", "result.json", "result.zarr")
_CELLS = "cells"  # what is done of a sweep
_SOURCE = (
    "A file, or what is made of the target: noise (white, as loud), silence, snr:DB, bandstop:LOW-HIGH (Hz), mask:START-STOP (s); "
    "or no sound: zero, mean (over positions), resample[:SEED] (another TARGET)."
)
_METRIC = (
    "logit_diff[:ANSWER,FOIL], logprob[:ANSWER], kl, rank; "
    "with --sequence wer, cer, insertions, repeat_span, loop, resolved, length, no_speech_prob, avg_logprob."
)


def patch(
    targets: Annotated[
        list[Path],
        typer.Argument(
            help="Recordings to patch, of which the first 30 s are heard.", metavar="TARGET..."
        ),
    ],
    source: Annotated[str, typer.Option("--source", "-s", help=_SOURCE)],
    site: Annotated[str, typer.Option("--site", help="Where; jaxasr info lists the sites.")],
    out: Annotated[
        Path,
        typer.Option(
            "--out", "-o", help="Folder for index.html, figure, result.json and result.zarr."
        ),
    ],
    over: Annotated[
        str, typer.Option("--over", help="The grid, of: layer, head, position, time, alpha.")
    ] = "layer",
    metric: Annotated[str | None, typer.Option("--metric", help=_METRIC)] = None,
    text: Annotated[
        str,
        typer.Option(
            "--text", help="What is said before the scored token; with --sequence the reference."
        ),
    ] = "",
    answer: Annotated[
        str,
        typer.Option(
            "--answer", help="The scored token; default the one that the source changes most."
        ),
    ] = "",
    foil: Annotated[
        str,
        typer.Option("--foil", help="What logit_diff compares with; default what the source says."),
    ] = "",
    alpha: Annotated[
        str, typer.Option("--alpha", help="Strengths, as 0,0.5,1: own·(1-α) + source·α.")
    ] = "",
    window: Annotated[float, typer.Option("--window", help="Seconds of a window of time.")] = 0.5,
    sequence: Annotated[
        bool,
        typer.Option("--sequence", help="Write the whole text under every patch, not one token."),
    ] = False,
    tokens: Annotated[
        int,
        typer.Option("--tokens", min=1, max=440, help="With --sequence, at most so many tokens."),
    ] = 224,
    seed: Annotated[int, typer.Option("--seed", help="Of noise.")] = 0,
    model: ModelOption = DEFAULT_MODEL,
    language: LanguageOption = None,
    overwrite: OverwriteOption = False,
    json: JsonOption = False,
    dtype: DtypeOption = Dtype.float32,
    device: DeviceOption = None,
) -> None:
    """Patches a site of recordings with activations from a source, cell by cell, and shows what each cell changes.

    Prints the plan first; what is done is kept in --out, so that an interrupted run goes on.
    """
    name, _, tokens_of = (metric or ("wer" if sequence else "logit_diff")).partition(":")
    answer, foil = _of_metric(tokens_of, answer, foil)
    fields = {
        "site": site,
        "over": _dims(over),
        "source": source,
        "metric": name,
        "sequence": sequence,
        "text": text,
        "answer": answer,
    }
    fields |= {
        "foil": foil,
        "alphas": _numbers(alpha),
        "window_s": window,
        "language": language,
        "seed": seed,
        "new_tokens": tokens,
    }
    check_recordings(targets)
    output = _output(targets, out, fields, model, dtype, overwrite)
    _run(targets, output, fields, model=model, json=json, dtype=dtype, device=device)


def _output(
    targets: list[Path], out: Path, fields: dict, model: str, dtype: Dtype, overwrite: bool
) -> Any:
    """Checks the folder of --out. Raises ValueError where something else is in the way."""
    from experiments.commands.output import checked, made

    source = Path(fields["source"])
    recordings = [*targets, source] if source.is_file() else targets
    named = source.name if source.is_file() else fields["source"]
    known = made("patch", recordings, model, dtype=dtype.value, **fields | {"source": named})
    return checked(out, dict.fromkeys((*_FILES, _CELLS), known), overwrite)


def _of_metric(text: str, answer: str, foil: str) -> tuple[str, str]:
    if not text:
        return answer, foil
    first, _, second = text.partition(",")
    return first, second or foil


def _dims(over: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in over.split(",") if part.strip())


def _numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(",")) if text else ()
    except ValueError:
        raise ValueError(
            f"--alpha: expected numbers with commas between them, as 0,0.5,1, got {text!r}."
        ) from None


def _run(
    targets: list[Path],
    output: Any,
    fields: dict,
    *,
    model: str,
    json: bool,
    dtype: Dtype,
    device: Device | None,
) -> None:
    from experiments import runtime
    from experiments.progress import Progress
    from interventions.storage.provenance import provenance

    steps = Progress()
    with steps("start JAX"):
        runtime.start(device)
        import jaxasr
        from experiments.analyses import patch as experiment
        from experiments.pages import patch_page
        from jaxasr.config import HOP, N_SAMPLES
    question = experiment.Question(**fields)
    runtime.check_language(model, question.language)
    with steps("read the recordings"):
        audio = [jaxasr.load_audio(path)[:N_SAMPLES] for path in targets]
        others = experiment.sources(audio, question)
    with steps(f"load {model}"):
        asr = runtime.load(model, dtype.value)
    with steps("hear and plan"):
        prepared = experiment.prepare(asr, audio, others, question)
    steps.note(prepared.plan, prepared.scored)
    out = output.begin(_CELLS)
    with steps.bar("sweep") as progress:
        result = prepared.run(out / _CELLS, progress)
    with steps("write"):
        known = provenance(
            model=runtime.weights(asr),
            data=[str(path) for path in targets],
            config=fields,
            seed=question.seed,
        )
        facts = {
            "site": question.site,
            "model": model,
            "targets": [path.name for path in targets],
            "source_name": question.source,
        }
        facts |= {"plan": prepared.plan, "scored": prepared.scored, "texts": prepared.texts}
        sounds = {"target": audio[0]} | (
            {} if prepared.sound is None else {"source": prepared.sound[:N_SAMPLES]}
        )
        mel = jaxasr.log_mel(audio[0], asr.config.n_mels)[:, : -(-len(audio[0]) // HOP)]
        words = experiment.words(asr, audio[0], question) if "time" in question.dims else []
        shown = {"facts": facts, "sounds": sounds, "mel": mel, "words": words, "provenance": known}
        found = patch_page.write(
            result, out, output.record, metric=question.metric, tokenizer=asr.tokenizer, **shown
        )
    steps.print_total()
    patch_page.show(found, out, json)
