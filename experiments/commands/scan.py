"""`jaxasr scan`: one page with everything that a first look at a recording wants."""

from pathlib import Path
from typing import Annotated, Any

import typer

from experiments.commands.errors import check_recordings
from experiments.commands.options import (
    DEFAULT_MODEL,
    DeviceOption,
    Dtype,
    DtypeOption,
    JsonOption,
    LanguageOption,
    ModelOption,
    OverwriteOption,
)

EXAMPLE = "jaxasr scan speech.flac --out speech-scan"


def scan(
    audio: Annotated[
        Path, typer.Argument(help="A recording; its 30 s from --start on are scanned.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for index.html and scan.json.")],
    model: ModelOption = DEFAULT_MODEL,
    start: Annotated[
        float, typer.Option("--start", min=0, help="Seconds into the recording.")
    ] = 0.0,
    language: LanguageOption = None,
    overwrite: OverwriteOption = False,
    json: JsonOption = False,
    dtype: DtypeOption = Dtype.float32,
    device: DeviceOption = None,
) -> None:
    """Writes one page about a recording: text, word times, confidence, both lenses, heads, signs of loops and silence.

    Writes index.html, which opens from disk, and scan.json into --out.
    """
    from experiments import runtime
    from experiments.commands.output import checked, made
    from experiments.progress import Progress
    from interventions.storage.text_files import plain, to_json, write_json, write_text

    check_recordings([audio])
    known = made("scan", [audio], model, start=start, language=language, dtype=dtype.value)
    output, steps = checked(out, {"index.html": known, "scan.json": known}, overwrite), Progress()
    with steps("start JAX"):
        runtime.start(device)
        from experiments.analyses import scan as scanning
        from experiments.analyses.lens import page_of, read_window, transcribed
        from jaxasr.config import SAMPLE_RATE
    runtime.check_language(model, language)
    with steps(f"read {audio.name}"):
        samples, source, seconds = read_window(audio, start)
    with steps(f"load {model}"):
        asr = runtime.load(model, dtype.value)
    transcription = transcribed(asr, samples, steps, language)
    page = page_of(asr, transcription, source, steps, model=model)
    with steps("heads"):
        heads = scanning.head_effects(asr, transcription)
    path = out / "index.html"
    with steps("write the page"), output.writing() as new:
        write_text(new / path.name, scanning.render(page, heads))
        summary = scanning.summary(page, heads) | {"seconds_taken": dict(steps.seconds)}
        write_json(new / "scan.json", summary)
    steps.say_total()
    if len(samples) / SAMPLE_RATE < seconds:
        steps.note(
            f"Read {len(samples) / SAMPLE_RATE:g} s of {seconds:g} s; --start chooses another place."
        )
    if json:
        print(to_json(plain(summary | {"page": str(path)})))
    else:
        _print(page, summary, path)


def _print(page: Any, summary: dict[str, Any], path: Path) -> None:
    from rich.text import Text

    from experiments.progress import console

    shown = console()
    for part in summary["segments"]:
        shown.print(
            Text(
                f"{part['start']:7.2f} {part['end']:7.2f}  {part['probability']:.2f}  {part['text']}"
            )
        )
    for line in page.signs.lines() or ["No sign of a loop or of silence."]:
        shown.print(Text(line, style="yellow"))
    largest = ", ".join(
        f"{head['layer']}.{head['head']} ({head['change']:+.1f})"
        for head in summary["heads"]["largest"]
    )
    shown.print(
        Text(
            f"Cross-attention heads, by the change of the text's log-probability without them: {largest}"
        )
    )
    shown.print(f"\n{path}", soft_wrap=True, markup=False)
