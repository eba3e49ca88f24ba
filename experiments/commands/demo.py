"""`jaxasr demo`: a real recording, real weights, both lenses, from one command."""

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


def demo(
    model: ModelOption = DEFAULT_MODEL,
    out: OutOption = None,
    overwrite: OverwriteOption = False,
    json: JsonOption = False,
    dtype: DtypeOption = Dtype.float32,
    device: DeviceOption = None,
) -> None:
    """Opens the recording that comes with jaxasr: its text and both lenses.

    Writes a page that opens from disk, by default ./jaxasr-demo/index.html.
    """
    from importlib import resources

    from experiments.commands.lens import look

    with resources.as_file(resources.files("experiments").joinpath("assets", "demo.flac")) as audio:
        folder = out or Path("jaxasr-demo")
        look(
            audio,
            out=folder,
            model=model,
            overwrite=overwrite,
            json=json,
            dtype=dtype,
            device=device,
        )
