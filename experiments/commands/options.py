"""Arguments and options that several commands share."""

import enum
from pathlib import Path
from typing import Annotated

import typer


class Dtype(enum.StrEnum):
    """Number format: a policy of `jaxasr.precision`."""

    float32 = "float32"
    high = "high"
    mixed = "mixed"
    bfloat16 = "bfloat16"


class Device(enum.StrEnum):
    """Processor that the computation runs on."""

    cpu = "cpu"
    gpu = "gpu"
    tpu = "tpu"


MODEL_HELP = (
    "Name of a released model (tiny.en, base, large-v3 …), Hugging Face id, or path to weights."
)
DEFAULT_MODEL = "tiny.en"

RecordingArgument = Annotated[
    Path,
    typer.Argument(help="A recording in any audio format. Uses at most 30 s, from --start on."),
]
StartOption = Annotated[
    float, typer.Option("--start", min=0, help="Seconds into the recording where the 30 s begin.")
]
ModelOption = Annotated[str, typer.Option("--model", "-m", help=MODEL_HELP)]
DtypeOption = Annotated[
    Dtype, typer.Option("--dtype", help="Number format. docs/precision.md compares the four.")
]
DeviceOption = Annotated[
    Device | None,
    typer.Option(
        "--device", help="Processor to compute on. Default: a gpu or tpu if there is one, else cpu."
    ),
]
DISTRIBUTED_HELP = (
    "Divide the recordings between processes: auto (if a launcher such as srun started several), "
    "on, off, or ADDRESS,COUNT,INDEX without a launcher."
)
DistributedOption = Annotated[
    str, typer.Option("--distributed", envvar="JAXASR_DISTRIBUTED", help=DISTRIBUTED_HELP)
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
OutOption = Annotated[
    Path | None, typer.Option("--out", "-o", help="Folder for the files that are made.")
]
OverwriteOption = Annotated[
    bool,
    typer.Option(
        "--overwrite",
        help="Also replace files in --out that come from another command or from other input.",
    ),
]
LanguageOption = Annotated[
    str | None,
    typer.Option(
        "--language",
        "-l",
        help="Language of the speech, such as en or German. Default: detected by the model.",
    ),
]
