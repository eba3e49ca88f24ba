"""`jaxasr info`: the configuration of a model and every site in it."""

import math
from typing import TYPE_CHECKING, Annotated, Any

import typer

from experiments.commands.options import DEFAULT_MODEL, MODEL_HELP, Dtype, DtypeOption, JsonOption

if TYPE_CHECKING:
    from jaxasr import Config

EXAMPLE = "jaxasr info large-v3 --batch 8 --tokens 100"

ITEM_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


def info(
    model: Annotated[str, typer.Argument(help=MODEL_HELP)] = DEFAULT_MODEL,
    batch: Annotated[int, typer.Option("--batch", min=1, help="Recordings per pass.")] = 1,
    tokens: Annotated[int, typer.Option("--tokens", min=1, help="Decoder tokens per pass.")] = 32,
    dtype: DtypeOption = Dtype.float32,
    json: JsonOption = False,
) -> None:
    """Lists the layers, heads and parameters of a model, and each site with its shape and bytes.

    Works without the weights of a released model: then only their source and hash are missing.
    """
    from interventions.storage.text_files import to_json

    description = describe(model, batch, tokens, dtype.value)
    if json:
        print(to_json(description))
    else:
        _print(description)


def describe(model: str, batch: int, n_tokens: int, dtype: str = "float32") -> dict[str, Any]:
    """Describes a model as plain values.

    Args:
        model: as `--model`.
        batch: recordings per pass, which shapes depend on.
        n_tokens: decoder tokens per pass.
        dtype: number format of weights and activations.

    Returns:
        `model`, `config`, `n_parameters`, `parameter_bytes`, `weights` (None if they are not on
        this machine) and `sites`, in the order of the forward pass.

    Raises:
        ValueError: for more tokens than the decoder's context holds; an unknown model.

    Example:
        ```python
        round(describe("tiny", batch=1, n_tokens=32)["n_parameters"] / 1e6, 2)  # 37.76
        ```
    """
    import dataclasses

    config, weights = _read_config(model)
    config = config.replace(dtype=dtype, param_dtype=dtype)
    if n_tokens > config.n_text_ctx:
        raise ValueError(
            f"--tokens: expected at most {config.n_text_ctx}, the decoder's context, "
            f"got {n_tokens}."
        )
    n_parameters = _n_parameters(config)
    return {
        "model": model,
        "config": dataclasses.asdict(config),
        "n_parameters": n_parameters,
        "parameter_bytes": n_parameters * ITEM_BYTES[dtype],
        "weights": weights,
        "sites": _sites(config, batch, n_tokens),
    }


def _read_config(model: str) -> tuple["Config", dict[str, Any] | None]:
    """Returns the configuration and the source of local weights; downloads no released model."""
    from jaxasr.config import SIZES
    from jaxasr.weights import read_checkpoint

    if model in SIZES and not _is_local(model):
        return SIZES[model], None
    checkpoint = read_checkpoint(model)
    source = {
        "format": checkpoint.format,
        "path": str(checkpoint.source),
        "sha256": checkpoint.sha256,
        "bytes": checkpoint.tensors.nbytes,
    }
    return checkpoint.config, source


def _is_local(model: str) -> bool:
    from pathlib import Path

    from jaxasr.weights import hub, packaged

    return Path(model).exists() or bool(
        packaged.locate(model) or hub.cached(hub.REPOSITORIES[model])
    )


def _n_parameters(config: "Config") -> int:
    import jax

    from jaxasr.weights.assemble import abstract_model

    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(abstract_model(config)))


def _sites(config: "Config", batch: int, n_tokens: int) -> list[dict[str, Any]]:
    from jaxasr import sites

    rows = []
    for site in sites.SITES:
        spec = sites.spec(config, site, batch, n_tokens)
        layers = (spec.n_layer,) if spec.n_layer else ()
        shape = (*layers, *spec.shape)
        axes = ("L", *spec.axes) if layers else spec.axes
        rows.append(
            {
                "site": site,
                "axes": list(axes),
                "shape": list(shape),
                "bytes": math.prod(shape) * ITEM_BYTES[config.dtype],
            }
        )
    return rows


def _print(description: dict[str, Any]) -> None:
    from rich.table import Table

    from experiments.progress import console
    from interventions.storage.text_files import printable

    terminal = console()
    terminal.print(printable(description["model"]), style="bold", markup=False)
    for key, value in _facts(description).items():
        terminal.print(f"  {key:<11} {printable(value)}", markup=False, soft_wrap=True)
    table = Table("site", "axes", "shape", box=None, header_style="dim", pad_edge=False)
    table.add_column("bytes", justify="right")
    for row in description["sites"]:
        table.add_row(
            row["site"],
            " ".join(row["axes"]),
            " × ".join(map(str, row["shape"])),
            _size(row["bytes"]),
        )
    terminal.print()
    terminal.print(table)


def _facts(description: dict[str, Any]) -> dict[str, str]:
    config, weights = description["config"], description["weights"] or {}
    bytes_as = f"{_size(description['parameter_bytes'])} as {config['param_dtype']}"
    place = "not on this machine"
    if weights:
        place = f"{weights['path']} ({weights['format']}, {_size(weights['bytes'])})"
    return {
        "encoder": f"{_stack(config, 'audio')} frames, {config['n_mels']} mels",
        "decoder": f"{_stack(config, 'text')} tokens, vocabulary {config['n_vocab']:,}",
        "parameters": f"{description['n_parameters']:,} ({bytes_as})",
        "weights": place,
        "sha256": weights.get("sha256", "unknown"),
    }


def _stack(config: dict[str, Any], kind: str) -> str:
    layers, heads, width, context = (
        config[f"n_{kind}_{name}"] for name in ("layer", "head", "state", "ctx")
    )
    return f"{layers} layers × {heads} heads, width {width}, context {context}"


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"
