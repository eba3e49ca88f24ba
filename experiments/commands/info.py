"""Defines `jaxasr info`, which shows the configuration of a model and its sites."""

import math
from typing import TYPE_CHECKING, Annotated, Any

import typer

from experiments.commands.options import DEFAULT_MODEL, MODEL_HELP, Dtype, DtypeOption, JsonOption

if TYPE_CHECKING:
    from jaxasr import Config

EXAMPLE = "jaxasr info large-v3 --batch 8 --tokens 100"

# Bytes per number of each dtype.
ITEM_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


def info(
    model: Annotated[str, typer.Argument(help=MODEL_HELP)] = DEFAULT_MODEL,
    batch: Annotated[int, typer.Option("--batch", min=1, help="Recordings per pass.")] = 1,
    tokens: Annotated[int, typer.Option("--tokens", min=1, help="Decoder tokens per pass.")] = 32,
    dtype: DtypeOption = Dtype.float32,
    json: JsonOption = False,
) -> None:
    """Lists the size of a model, and the shape and bytes of each of its sites.

    Works for a released model without its weights, but then shows no path and no hash.
    """
    from interventions.storage.text_files import to_json

    description = describe(model, batch, tokens, dtype.value)
    if json:
        print(to_json(description))
    else:
        _print_description(description)


def describe(model: str, batch: int, n_tokens: int, dtype: str = "float32") -> dict[str, Any]:
    """Describes a model as plain values.

    Args:
        model: name of a released model, Hugging Face id, or path to weights.
        batch: recordings per pass. Shapes of activations depend on it.
        n_tokens: decoder tokens per pass.
        dtype: number format of weights and activations.

    Returns:
        A dictionary with `model`, `config`, `prefix`, `n_parameters`, `parameter_bytes`, `weights`,
        `compiled_programs` and `sites`. `weights` is None if the weights are not on this machine.
        `prefix` describes the audio that a language model reads; None for a Whisper.
        `compiled_programs` describes the programs on disk. The sites are in the order of the
        forward pass.

    Raises:
        ValueError: the model is unknown, or `n_tokens` exceeds the decoder's context.

    Example:
        ```python
        round(describe("tiny", batch=1, n_tokens=32)["n_parameters"] / 1e6, 2)  # 37.76
        ```
    """
    import dataclasses

    from jaxasr.precision import precision_fields

    config, weights = _read_config(model)
    config = config.replace(**precision_fields(dtype))
    if n_tokens > config.n_text_ctx:
        raise ValueError(
            f"--tokens: expected at most {config.n_text_ctx}, the decoder's context, "
            f"got {n_tokens}."
        )
    n_parameters = _count_parameters(config)
    return {
        "model": model,
        "config": dataclasses.asdict(config),
        "prefix": _describe_prefix(config, batch),
        "n_parameters": n_parameters,
        "parameter_bytes": n_parameters * ITEM_BYTES[config.param_dtype],
        "weights": weights,
        "compiled_programs": describe_cache(),
        "sites": _describe_sites(config, batch, n_tokens),
    }


def _read_config(model: str) -> tuple["Config", dict[str, Any] | None]:
    """Returns the configuration of a model, and a description of its weights.

    The description is None if the model is a released one whose weights are not on this machine. No
    weights of released models are downloaded.
    """
    from jaxasr.language.sizes import RELEASED
    from jaxasr.weights import read_checkpoint

    if model in RELEASED and not _has_local_weights(model):
        return RELEASED[model], None
    checkpoint = read_checkpoint(model)
    weights = {
        "format": checkpoint.format,
        "path": str(checkpoint.source),
        "sha256": checkpoint.sha256,
        "bytes": checkpoint.tensors.nbytes,
    }
    return checkpoint.config, weights


def _describe_prefix(config: "Config", batch: int) -> dict[str, int] | None:
    """Describes the audio of windows of 30 s in the context of an audio language model."""
    if config.audio_language is None:
        return None
    shape, n_tokens = config.decoder, config.n_audio_tokens
    n_vectors = batch * n_tokens * ITEM_BYTES[config.dtype]
    return {
        "audio_tokens": n_tokens,
        "bytes": n_vectors * shape.width,
        "cache_bytes": n_vectors * 2 * shape.n_layer * shape.n_kv_head * shape.d_head,
    }


def describe_cache() -> dict[str, Any] | None:
    """Describes the compiled programs on disk; None if none are saved.

    Example:
        ```python
        describe_cache()["can_read"]  # False if JAX cannot read them back on this processor
        ```
    """
    from experiments import compile_cache

    folder = compile_cache.enable()
    if folder is None:
        return None
    # JAX keeps the time of the last use of a program in another small file.
    programs = [file for file in folder.iterdir() if not file.name.endswith("-atime")]
    return {
        "path": str(folder),
        "programs": len(programs),
        "bytes": sum(file.stat().st_size for file in programs),
        "can_read": compile_cache.can_read(),
    }


def _has_local_weights(model: str) -> bool:
    from pathlib import Path

    from jaxasr.weights import hub, packaged

    return Path(model).exists() or bool(
        packaged.locate(model) or hub.cached(hub.REPOSITORIES[model])
    )


def _count_parameters(config: "Config") -> int:
    import jax

    from jaxasr.weights.assemble import abstract_model

    # An abstract model has shapes but no values, so counting takes no memory.
    return sum(math.prod(array.shape) for array in jax.tree.leaves(abstract_model(config)))


def _describe_sites(config: "Config", batch: int, n_tokens: int) -> list[dict[str, Any]]:
    from jaxasr import sites

    rows = []
    for site in sites.of(config):
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


def _print_description(description: dict[str, Any]) -> None:
    from rich.table import Table

    from experiments.progress import console
    from interventions.storage.text_files import printable

    terminal = console()
    terminal.print(printable(description["model"]), style="bold", markup=False)
    for key, value in _format_facts(description).items():
        terminal.print(f"  {key:<11} {printable(value)}", markup=False, soft_wrap=True)
    table = Table("site", "axes", "shape", box=None, header_style="dim", pad_edge=False)
    table.add_column("bytes", justify="right")
    for row in description["sites"]:
        table.add_row(
            row["site"],
            " ".join(row["axes"]),
            " × ".join(map(str, row["shape"])),
            format_bytes(row["bytes"]),
        )
    terminal.print()
    terminal.print(table)


def _format_facts(description: dict[str, Any]) -> dict[str, str]:
    config, weights = description["config"], description["weights"] or {}
    parameter_size = f"{format_bytes(description['parameter_bytes'])} as {config['param_dtype']}"
    weights_file = "not on this machine"
    if weights:
        size = format_bytes(weights["bytes"])
        weights_file = f"{weights['path']} ({weights['format']}, {size})"
    return {
        "encoder": f"{_format_stack(config, 'audio')} frames, {config['n_mels']} mels",
        "decoder": f"{_format_stack(config, 'text')} tokens, vocabulary {config['n_vocab']:,}",
        **_format_prefix(description["prefix"]),
        "parameters": f"{description['n_parameters']:,} ({parameter_size})",
        "weights": weights_file,
        "sha256": weights.get("sha256", "unknown"),
        "compiled": _format_cache(description["compiled_programs"]),
    }


def _format_prefix(prefix: dict[str, int] | None) -> dict[str, str]:
    if prefix is None:
        return {}
    vectors, cache = (format_bytes(prefix[name]) for name in ("bytes", "cache_bytes"))
    tokens = f"{prefix['audio_tokens']} audio tokens per window of 30 s"
    return {"prefix": f"{tokens}, {vectors}; their keys and values {cache}"}


def _format_cache(cache: dict[str, Any] | None) -> str:
    from experiments.compile_cache import NEVER_READ

    if cache is None:
        return "no programs are saved"
    saved = f"{cache['path']} ({cache['programs']} programs, {format_bytes(cache['bytes'])})"
    return saved if cache["can_read"] else f"{saved}. {NEVER_READ}"


def _format_stack(config: dict[str, Any], stack: str) -> str:
    layers, heads, width, context = (
        config[f"n_{stack}_{name}"] for name in ("layer", "head", "state", "ctx")
    )
    n_shared = config["n_text_kv_head"] if stack == "text" else None
    shared = f" ({n_shared} of keys and values)" if n_shared not in (None, heads) else ""
    return f"{layers} layers × {heads} heads{shared}, width {width}, context {context}"


def format_bytes(count: float) -> str:
    """Formats a number of bytes with three digits.

    Example:
        >>> format_bytes(3_090_000_000)
        '3.09 GB'
    """
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"
