"""`jaxasr scan`: a first look at a recording, on one page."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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
    RecordingArgument,
    StartOption,
)

if TYPE_CHECKING:
    from experiments.pages.lens_page import LensPage

EXAMPLE = "jaxasr scan speech.flac --out speech-scan"


def scan(
    audio: RecordingArgument,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for index.html and scan.json.")],
    model: ModelOption = DEFAULT_MODEL,
    start: StartOption = 0.0,
    language: LanguageOption = None,
    overwrite: OverwriteOption = False,
    json: JsonOption = False,
    dtype: DtypeOption = Dtype.float32,
    device: DeviceOption = None,
) -> None:
    """Makes one page with text, word times, confidence, both lenses, heads, loops and silence.

    Makes two files in --out: index.html, a page to open in a browser, and scan.json, its numbers.
    """
    from experiments import runtime
    from experiments.commands.one_recording import open_recording
    from experiments.commands.output import claim, describe
    from experiments.progress import Progress

    check_recordings([audio])
    options = {"start": start, "language": language, "dtype": dtype.value}
    description = describe("scan", [audio], model, **options)
    output = claim(out, dict.fromkeys(("index.html", "scan.json"), description), overwrite)
    runtime.check_language(model, language)
    steps = Progress()
    opened = open_recording(audio, steps, model=model, start=start, dtype=dtype, device=device)

    from experiments.analyses import scan as analysis
    from experiments.analyses.lens import page_of, transcribed
    from interventions.storage.text_files import plain, to_json, write_json, write_text

    transcription = transcribed(opened.asr, opened.samples, steps, language)
    page = page_of(opened.asr, transcription, opened.source, steps, model=model)
    with steps("heads"):
        heads = analysis.head_effects(opened.asr, transcription)
    with steps("write the page"), output.writing() as new:
        write_text(new / "index.html", analysis.render(page, heads))
        summary = analysis.summary(page, heads) | {"seconds_taken": dict(steps.seconds)}
        write_json(new / "scan.json", summary)
    steps.print_total()
    opened.note_rest(steps)
    path = out / "index.html"
    if json:
        print(to_json(plain(summary | {"page": str(path)})))
    else:
        _print_summary(page, summary, path)


def _print_summary(page: "LensPage", summary: dict[str, Any], path: Path) -> None:
    from rich.text import Text

    from experiments.progress import console

    terminal = console()
    for part in summary["segments"]:
        times = f"{part['start']:7.2f} {part['end']:7.2f}"
        terminal.print(Text(f"{times}  {part['probability']:.2f}  {part['text']}"))
    for line in page.signs.lines() or ["No sign of a loop or of silence."]:
        terminal.print(Text(line, style="yellow"))
    effects = ", ".join(
        f"layer {head['layer']} head {head['head']} ({head['change']:+.1f})"
        for head in summary["heads"]["largest"]
    )
    terminal.print(
        Text(f"Heads, by the change of the text's log-probability if ablated: {effects}")
    )
    terminal.print(f"\n{path}", soft_wrap=True, markup=False)
