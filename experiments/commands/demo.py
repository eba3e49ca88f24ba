"""Defines `jaxasr demo`, which applies both lenses to the recording that comes with jaxasr."""

from pathlib import Path

from experiments.commands.options import (
    DEFAULT_MODEL,
    DeviceOption,
    Dtype,
    DtypeOption,
    JsonOption,
    ModelOption,
    OutOption,
    OverwriteOption,
)

EXAMPLE = "jaxasr demo --out my-demo"
DEFAULT_FOLDER = Path("jaxasr-demo")


def demo(
    model: ModelOption = DEFAULT_MODEL,
    out: OutOption = None,
    overwrite: OverwriteOption = False,
    json: JsonOption = False,
    dtype: DtypeOption = Dtype.float32,
    device: DeviceOption = None,
) -> None:
    """Runs `jaxasr lens` on the recording that comes with jaxasr.

    Makes a page that opens in a browser, by default jaxasr-demo/index.html.
    """
    from importlib import resources

    from experiments.commands.lens import write_lens_page

    recording = resources.files("experiments").joinpath("assets", "demo.flac")
    with resources.as_file(recording) as audio:
        write_lens_page(
            audio,
            out=out or DEFAULT_FOLDER,
            model=model,
            overwrite=overwrite,
            json=json,
            dtype=dtype,
            device=device,
        )
