"""Defines `jaxasr scan`, which makes a page with an overview of one recording."""

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
    """Makes a page that shows a recording's text, both lenses and the most important heads.

    The page also shows the time and probability of each word, and warns of loops and silence. Makes
    two files in --out: index.html opens in a browser, and scan.json has the numbers.
    """
    from experiments import runtime
    from experiments.commands.one_recording import open_recording
    from experiments.commands.output import describe_origin, open_output
    from experiments.progress import Progress

    check_recordings([audio])
    options = {"start": start, "language": language, "dtype": dtype.value}
    description = describe_origin("scan", [audio], model, **options)
    output = open_output(out, dict.fromkeys(("index.html", "scan.json"), description), overwrite)
    runtime.check_language(model, language)
    steps = Progress()
    opened = open_recording(audio, steps, model=model, start=start, dtype=dtype, device=device)

    # These modules import JAX, so they are imported after `open_recording` has started it.
    from experiments.analyses import scan as analysis
    from experiments.analyses.lens import make_lens_page, transcribe_window
    from interventions.storage.text_files import to_json, to_json_types, write_json, write_text

    transcription = transcribe_window(opened.asr, opened.samples, steps, language)
    page = make_lens_page(opened.asr, transcription, opened.source, steps, model=model)
    with steps("heads"):
        heads = analysis.head_effects(opened.asr, transcription)
    with steps("write the page"), output.writing() as new:
        write_text(new / "index.html", analysis.render(page, heads))
        summary = analysis.summary(page, heads) | {"seconds_taken": dict(steps.seconds)}
        write_json(new / "scan.json", summary)
    steps.print_total()
    opened.note_unread(steps)
    path = out / "index.html"
    if json:
        print(to_json(to_json_types(summary | {"page": str(path)})))
    else:
        _print_summary(page, summary, path)


def _print_summary(page: "LensPage", summary: dict[str, Any], path: Path) -> None:
    from rich.text import Text

    from experiments.progress import console

    terminal = console()
    for segment in summary["segments"]:
        times = f"{segment['start']:7.2f} {segment['end']:7.2f}"
        terminal.print(Text(f"{times}  {segment['probability']:.2f}  {segment['text']}"))
    for line in page.signs.lines() or ["No sign of a loop or of silence."]:
        terminal.print(Text(line, style="yellow"))
    effects = ", ".join(
        f"layer {head['layer']} head {head['head']} ({head['change']:+.1f})"
        for head in summary["heads"]["largest"]
    )
    terminal.print(Text(f"Change of the text's log-probability if a head is ablated: {effects}"))
    terminal.print(f"\n{path}", soft_wrap=True, markup=False)
