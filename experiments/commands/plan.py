"""Defines `jaxasr plan`, which reports what work needs on a device that may not be here."""

import dataclasses
import os
from typing import TYPE_CHECKING, Annotated, Any

import typer

from experiments.commands.options import Dtype, DtypeOption, JsonOption, ModelOption

if TYPE_CHECKING:
    from interventions.planning import PlannedDevice, Report
    from jaxasr import Config

EXAMPLE = "jaxasr plan encode --model large-v3 --dtype bfloat16 --device v5e:2x2"

app = typer.Typer(
    help="Plan work without the machine: bytes, programs, operations and time. Loads no weights.",
    epilog=f"Example:  {EXAMPLE}",
    no_args_is_help=True,
)

DeviceOption = Annotated[
    str,
    typer.Option(
        "--device",
        help="cpu, gpu (an H100), h200, a100, or TPU chips such as v5e:2x2 or v6e:2x2. Programs "
        "for a TPU are compiled, which needs pip install 'jaxasr[tpu]' and some minutes.",
    ),
]
ModelAxisOption = Annotated[
    int,
    typer.Option(
        "--model-axis",
        min=1,
        help="Chips that share the weights of one model: all chips of --device, or 1 if each holds "
        "the whole model. XLA then adds exchanges between the chips.",
    ),
]
RecordingsOption = Annotated[int, typer.Option("--recordings", min=1, help="Number of recordings.")]
WindowsOption = Annotated[int, typer.Option("--windows", min=1, help="Windows of 30 s per call.")]
TokensOption = Annotated[int, typer.Option("--tokens", min=1, help="Tokens per recording.")]
SiteOption = Annotated[
    str, typer.Option("--site", help="Site to patch. `jaxasr info` lists all sites.")
]
OverOption = Annotated[
    str,
    typer.Option(
        "--over", help="Dimensions of the grid, separated by commas: layer, head, position, time."
    ),
]


def plan_encode(
    device: DeviceOption,
    windows: WindowsOption = 1,
    model: ModelOption = "large-v3",
    dtype: DtypeOption = Dtype.bfloat16,
    model_axis: ModelAxisOption = 1,
    json: JsonOption = False,
) -> None:
    """Plans to encode windows of 30 s."""
    config, planned = _start(model, dtype, device, model_axis)
    from interventions import planning

    _print(planning.plan_encode(config, planned, windows), json)


def plan_generate(
    device: DeviceOption,
    windows: WindowsOption = 1,
    tokens: TokensOption = 224,
    model: ModelOption = "large-v3",
    dtype: DtypeOption = Dtype.bfloat16,
    model_axis: ModelAxisOption = 1,
    json: JsonOption = False,
) -> None:
    """Plans to generate texts from windows of 30 s."""
    config, planned = _start(model, dtype, device, model_axis)
    from interventions import planning

    _print(planning.plan_generate(config, planned, windows, tokens), json)


def plan_patch(
    device: DeviceOption,
    site: SiteOption,
    over: OverOption = "layer",
    recordings: RecordingsOption = 1,
    tokens: TokensOption = 30,
    window: Annotated[
        float, typer.Option("--window", help="Seconds per window of the dimension time.")
    ] = 0.5,
    estimate: Annotated[
        bool, typer.Option("--estimate", help="Plan attribution, the estimate of all cells.")
    ] = False,
    model: ModelOption = "large-v3",
    dtype: DtypeOption = Dtype.bfloat16,
    model_axis: ModelAxisOption = 1,
    json: JsonOption = False,
) -> None:
    """Plans a sweep whose source is another recording, or its estimate by attribution."""
    dims = tuple(dim.strip() for dim in over.split(",") if dim.strip())
    config, planned = _start(model, dtype, device, model_axis)
    from interventions import planning

    if estimate:
        report = planning.plan_attribution(config, planned, site, dims, recordings, tokens)
    else:
        report = planning.plan_patch(
            config, planned, site, dims, recordings, tokens, window_s=window
        )
    _print(report, json)


def plan_probe(
    device: DeviceOption,
    layers: Annotated[int, typer.Option("--layers", min=1, help="Number of layers.")],
    rows: Annotated[int, typer.Option("--rows", min=10, help="Number of rows.")],
    width: Annotated[int, typer.Option("--width", min=1, help="Number of features.")],
    classes: Annotated[int, typer.Option("--classes", min=2, help="Number of classes.")] = 2,
    penalties: Annotated[int, typer.Option("--penalties", min=1, help="Number of penalties.")] = 4,
    folds: Annotated[int, typer.Option("--folds", min=2, help="Number of folds.")] = 5,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="Number of seeds.")] = 1,
    json: JsonOption = False,
) -> None:
    """Plans a bank of linear probes."""
    _, planned = _start("tiny.en", Dtype.float32, device)
    from interventions import planning

    shape = layers, rows, width
    _print(planning.plan_probe(planned, shape, classes, penalties, folds, seeds), json)


# By name: the function, and the example at the end of its help text.
COMMANDS = {
    "encode": (plan_encode, EXAMPLE),
    "generate": (
        plan_generate,
        "jaxasr plan generate --model qwen2-audio-7b --windows 8 --device v5e:2x4 --model-axis 8",
    ),
    "patch": (
        plan_patch,
        "jaxasr plan patch --site decoder.cross_attn.z --over layer,head --recordings 8 "
        "--device v5e:2x2",
    ),
    "probe": (
        plan_probe,
        "jaxasr plan probe --layers 33 --rows 5000 --width 1280 --device v5e:2x2",
    ),
}


def _start(
    model: str, dtype: Dtype, device: str, model_axis: int = 1
) -> tuple["Config", "PlannedDevice"]:
    """Reads the configuration of a model, and finds the devices."""
    # No device of this machine is used, so that planning does not disturb it.
    os.environ["JAX_PLATFORMS"] = "cpu"
    from interventions.planning import find_device
    from jaxasr.language.sizes import RELEASED

    if model not in RELEASED:
        raise ValueError(f"--model {model}: expected one of {', '.join(RELEASED)}.")
    config = RELEASED[model].replace(dtype=dtype.value, param_dtype=dtype.value)
    return config, find_device(device, model_axis)


def _print(report: "Report", json: bool) -> None:
    from interventions.storage.text_files import to_json

    if json:
        print(to_json(report.to_dict()))
    else:
        _print_table(report)


def _print_table(report: "Report") -> None:
    from rich.table import Table

    from experiments.progress import console

    terminal = console()
    plural = "s" if report.n_devices > 1 else ""
    terminal.print(f"{report.title}, on {report.device} ({report.n_devices} device{plural})")
    for note in report.notes:
        terminal.print(f"  {note}", markup=False, soft_wrap=True)
    table = Table(box=None, header_style="dim", pad_edge=False)
    table.add_column("program")
    for title in ("calls", "TFLOP", "arguments", "results", "temporary", "exchanges", "compiled"):
        table.add_column(title, justify="right")
    for program in report.programs:
        table.add_row(program.name, *_format_numbers(dataclasses.asdict(program)))
    terminal.print(table)
    for program in report.programs:
        if program.error:
            terminal.print(f"  {program.name}: {program.error}", markup=False, soft_wrap=True)
    for line in _summary(report):
        terminal.print(line, markup=False, soft_wrap=True)


def _format_numbers(program: dict[str, Any]) -> list[str]:
    from experiments.commands.info import format_bytes

    temporary, collectives = program["temporary_bytes"], program["collectives"]
    exchanges = "?" if collectives is None else str(sum(collectives.values()))
    seconds = program["compile_s"]
    return [
        str(program["n_calls"]),
        f"{program['flops'] / 1e12:.3g}",
        format_bytes(program["argument_bytes"]),
        format_bytes(program["output_bytes"]),
        "?" if temporary is None else format_bytes(temporary),
        exchanges,
        "no" if seconds is None else f"{seconds:.0f} s",
    ]


def _summary(report: "Report") -> list[str]:
    from experiments.commands.info import format_bytes

    memory = "unknown" if report.memory_bytes is None else format_bytes(report.memory_bytes)
    fits = {True: "fits", False: "does not fit", None: "not known whether it fits"}[report.fits]
    seconds = report.seconds
    time = "unknown" if seconds is None else f"at least {seconds:.3g} s at the peak of the device"
    return [
        f"per device: {report.flops / 1e12:.3g} TFLOP, {format_bytes(report.peak_bytes)} of "
        f"{memory}, {fits}",
        f"time: {time}",
    ]
