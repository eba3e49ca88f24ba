"""Options that several commands share."""

import enum
from pathlib import Path
from typing import Annotated

import typer


class Dtype(enum.StrEnum):
    """What weights and activations are stored and computed in."""

    float32 = "float32"
    bfloat16 = "bfloat16"


class Device(enum.StrEnum):
    """What the computation runs on."""

    cpu = "cpu"
    gpu = "gpu"
    tpu = "tpu"


MODEL_HELP = "A released name (tiny.en, base, large-v3 …), a Hugging Face id, or a path to weights."
DEFAULT_MODEL = "tiny.en"

ModelOption = Annotated[str, typer.Option("--model", "-m", help=MODEL_HELP)]
DtypeOption = Annotated[
    Dtype, typer.Option("--dtype", help="Number format of weights and activations.")
]
DeviceOption = Annotated[
    Device | None, typer.Option("--device", help="Default: the best there is.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
OverwriteOption = Annotated[
    bool,
    typer.Option(
        "--overwrite", help="Write over what another command or another input wrote into --out."
    ),
]
OutOption = Annotated[Path | None, typer.Option("--out", "-o", help="Folder for the files.")]
LanguageOption = Annotated[
    str | None,
    typer.Option("--language", "-l", help="Such as en or German. Default: what the model hears."),
]
