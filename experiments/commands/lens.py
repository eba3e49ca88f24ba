"""Defines `jaxasr lens`, which applies both lenses to a recording and makes a page."""

from pathlib import Path
from typing import Annotated

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
    RecordingArgument,
    StartOption,
)

EXAMPLE = "jaxasr lens speech.flac --out speech-lens"


def lens(
    audio: RecordingArgument,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for index.html and lens.json.")],
    model: ModelOption = DEFAULT_MODEL,
    start: StartOption = 0.0,
    top_k: Annotated[
        int, typer.Option("--top-k", min=1, max=50, help="Tokens kept per layer and position.")
    ] = 5,
    language: LanguageOption = None,
    overwrite: OverwriteOption = False,
    json: JsonOption = False,
    dtype: DtypeOption = Dtype.float32,
    device: DeviceOption = None,
) -> None:
    """Shows what each decoder layer predicts, and the text generated from each encoder layer.

    Makes two files in --out: index.html opens in a browser, and lens.json has the numbers.
    """
    write_lens_page(
        audio,
        out=out,
        model=model,
        start=start,
        top_k=top_k,
        language=language,
        overwrite=overwrite,
        json=json,
        dtype=dtype,
        device=device,
    )


def write_lens_page(
    audio: Path,
    *,
    out: Path,
    model: str,
    start: float = 0.0,
    top_k: int = 5,
    language: str | None = None,
    overwrite: bool = False,
    json: bool = False,
    dtype: Dtype = Dtype.float32,
    device: Device | None = None,
) -> None:
    """Writes `index.html` and `lens.json` into `out`, and prints the result.

    The result is printed as tables, or with `json` as JSON. The arguments are the options of
    `jaxasr lens`.
    """
    from experiments import runtime
    from experiments.commands.one_recording import open_recording
    from experiments.commands.output import describe_origin, open_output
    from experiments.progress import Progress

    check_recordings([audio])
    options = {"start": start, "top_k": top_k, "language": language, "dtype": dtype.value}
    description = describe_origin("lens", [audio], model, **options)
    output = open_output(out, dict.fromkeys(("index.html", "lens.json"), description), overwrite)
    runtime.check_language(model, language)
    steps = Progress()
    opened = open_recording(audio, steps, model=model, start=start, dtype=dtype, device=device)

    # These modules import JAX, so they are imported after `open_recording` has started it.
    from experiments.analyses.lens import lens_page
    from experiments.pages import lens_page as html_page, terminal
    from interventions.storage.text_files import (
        printable,
        to_json,
        to_json_types,
        write_json,
        write_text,
    )

    page = lens_page(
        opened.asr,
        opened.samples,
        opened.source,
        steps,
        model=model,
        language=language,
        top_k=top_k,
    )
    with steps("write the page"), output.writing() as new:
        write_text(new / "index.html", html_page.render(page))
        summary = html_page.summary(page) | {"seconds_taken": dict(steps.seconds)}
        write_json(new / "lens.json", summary)
    steps.print_total()
    opened.note_unread(steps)
    path = out / "index.html"
    if json:
        print(to_json(to_json_types(summary | {"page": str(path)})))
    else:
        terminal.print_page(page)
        print(f"\n{printable(path)}")
