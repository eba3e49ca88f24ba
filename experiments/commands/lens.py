"""`jaxasr lens`: what every layer of the decoder would write, and what the decoder writes from every layer of the encoder."""

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
)

EXAMPLE = "jaxasr lens speech.flac --out speech-lens"


def lens(
    audio: Annotated[
        Path, typer.Argument(help="A recording; its 30 s from --start on are looked at.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for index.html and lens.json.")],
    model: ModelOption = DEFAULT_MODEL,
    start: Annotated[
        float, typer.Option("--start", min=0, help="Seconds into the recording.")
    ] = 0.0,
    top_k: Annotated[
        int, typer.Option("--top-k", min=1, max=50, help="Tokens kept for each layer and position.")
    ] = 5,
    language: LanguageOption = None,
    overwrite: OverwriteOption = False,
    json: JsonOption = False,
    dtype: DtypeOption = Dtype.float32,
    device: DeviceOption = None,
) -> None:
    """Shows what each decoder layer would write, and what each encoder layer is heard as.

    Writes index.html, which opens from disk, and lens.json into --out.
    """
    options = {"start": start, "top_k": top_k, "language": language}
    look(
        audio,
        out=out,
        model=model,
        **options,
        overwrite=overwrite,
        json=json,
        dtype=dtype,
        device=device,
    )


def look(
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
    """Writes `index.html` and `lens.json` into `out`, and prints the text and both lenses (or, with `json`, the numbers)."""
    from experiments import runtime
    from experiments.commands.output import checked, made
    from experiments.progress import Progress
    from interventions.storage.text_files import plain, printable, to_json, write_json, write_text

    check_recordings([audio])
    known = made(
        "lens", [audio], model, start=start, top_k=top_k, language=language, dtype=dtype.value
    )
    output, steps = checked(out, {"index.html": known, "lens.json": known}, overwrite), Progress()
    with steps("start JAX"):
        runtime.start(device)
        from experiments.analyses.lens import lens_page, read_window
        from experiments.pages import lens_page as page, terminal
        from jaxasr.config import SAMPLE_RATE
    runtime.check_language(model, language)
    with steps(f"read {audio.name}"):
        samples, source, seconds = read_window(audio, start)
    with steps(f"load {model}"):
        asr = runtime.load(model, dtype.value)
    found = lens_page(asr, samples, source, steps, model=model, language=language, top_k=top_k)
    path = out / "index.html"
    with steps("write the page"), output.writing() as new:
        write_text(new / path.name, page.render(found))
        summary = page.summary(found) | {"seconds_taken": dict(steps.seconds)}
        write_json(new / "lens.json", summary)
    steps.say_total()
    if len(samples) / SAMPLE_RATE < seconds:
        steps.note(
            f"Read {len(samples) / SAMPLE_RATE:g} s of {seconds:g} s; --start chooses another place."
        )
    if json:
        print(to_json(plain(summary | {"page": str(path)})))
    else:
        terminal.print_page(found)
        print(f"\n{printable(path)}")
