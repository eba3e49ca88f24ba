"""`jaxasr info`: what a model is, and what can be read in it."""

import math
from typing import Annotated, Any

import typer

from experiments.commands.options import DEFAULT_MODEL, MODEL_HELP, Dtype, DtypeOption, JsonOption

EXAMPLE = "jaxasr info large-v3 --batch 8 --tokens 100"

ITEM_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


def info(
    model: Annotated[str, typer.Argument(help=MODEL_HELP)] = DEFAULT_MODEL,
    batch: Annotated[int, typer.Option("--batch", min=1, help="Recordings in a pass.")] = 1,
    tokens: Annotated[int, typer.Option("--tokens", min=1, help="Decoder tokens in a pass.")] = 32,
    dtype: DtypeOption = Dtype.float32,
    json: JsonOption = False,
) -> None:
    """Prints what a model is made of, and every site with its shape and bytes.

    Of a released model whose weights are not on this machine, all but source and hash is known.
    """
    from interventions.storage.text_files import to_json

    found = describe(model, batch, tokens, dtype.value)
    if json:
        print(to_json(found))
    else:
        _print(found)


def describe(model: str, batch: int, n_tokens: int, dtype: str = "float32") -> dict[str, Any]:
    """`config`, `n_parameters`, `parameter_bytes`, `weights` (None when not on this machine) and `sites` of a model."""
    import dataclasses

    config, weights = _find(model)
    config = config.replace(dtype=dtype, param_dtype=dtype)
    if n_tokens > config.n_text_ctx:
        raise ValueError(
            f"--tokens: expected at most {config.n_text_ctx}, the decoder's context, got {n_tokens}."
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


def _find(model: str) -> tuple[Any, dict[str, Any] | None]:
    """Configuration and, where they are on this machine, the source of the weights. Downloads no released size."""
    from jaxasr.config import SIZES
    from jaxasr.weights import read_checkpoint

    if model in SIZES and not _is_here(model):
        return SIZES[model], None
    checkpoint = read_checkpoint(model)
    source = {
        "format": checkpoint.format,
        "path": str(checkpoint.source),
        "sha256": checkpoint.sha256,
        "bytes": checkpoint.tensors.nbytes,
    }
    return checkpoint.config, source


def _is_here(model: str) -> bool:
    from pathlib import Path

    from jaxasr.weights import hub, packaged

    return Path(model).exists() or bool(
        packaged.locate(model) or hub.cached(hub.REPOSITORIES[model])
    )


def _n_parameters(config: Any) -> int:
    import jax

    from jaxasr.weights.assemble import structure

    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(structure(config)))


def _sites(config: Any, batch: int, n_tokens: int) -> list[dict[str, Any]]:
    """Every site, in the order of the forward pass, with the layer axis where there is one."""
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


def _print(found: dict[str, Any]) -> None:
    from rich.table import Table

    from experiments.progress import console
    from interventions.storage.text_files import printable

    shown = console()
    shown.print(printable(found["model"]), style="bold", markup=False)
    for key, value in _facts(found).items():
        shown.print(f"  {key:<11} {printable(value)}", markup=False, soft_wrap=True)
    table = Table("site", "axes", "shape", box=None, header_style="dim", pad_edge=False)
    table.add_column("bytes", justify="right")
    for row in found["sites"]:
        table.add_row(
            row["site"],
            " ".join(row["axes"]),
            " × ".join(map(str, row["shape"])),
            _size(row["bytes"]),
        )
    shown.print()
    shown.print(table)


def _facts(found: dict[str, Any]) -> dict[str, str]:
    c, weights = found["config"], found["weights"] or {}

    def stack(kind: str) -> str:
        return f"{c[f'n_{kind}_layer']} layers × {c[f'n_{kind}_head']} heads, width {c[f'n_{kind}_state']}, context {c[f'n_{kind}_ctx']}"

    return {
        "encoder": f"{stack('audio')} frames, {c['n_mels']} mels",
        "decoder": f"{stack('text')} tokens, vocabulary {c['n_vocab']:,}",
        "parameters": f"{found['n_parameters']:,} ({_size(found['parameter_bytes'])} as {c['param_dtype']})",
        "weights": f"{weights['path']} ({weights['format']}, {_size(weights['bytes'])})"
        if weights
        else "not on this machine",
        "sha256": weights.get("sha256", "unknown"),
    }


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"
