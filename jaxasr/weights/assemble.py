"""Builds the model from the tensors of a checkpoint, after checking every name and shape."""

import functools
import math
import os
import re
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any

import jax
import numpy as np
from flax import nnx

from jaxasr.config import Config
from jaxasr.language.model import AudioLanguageModel
from jaxasr.model import SpeechModel, Whisper
from jaxasr.weights.checkpoint import Checkpoint
from jaxasr.weights.copying import FiniteCopier, empty_aligned
from jaxasr.weights.errors import WeightsError

# Number of tensors that are read at the same time.
_MAX_THREADS = 8
# Part of a parameter's name in the model -> the same part in a checkpoint. A part that begins with
# a dot is the end of the name.
_RENAMED_PARTS = (
    ("mlp.fc1.", "mlp.0."),
    ("mlp.fc2.", "mlp.2."),
    (".kernel", ".weight"),
    (".scale", ".weight"),
)


def tensor_name(parameter: str) -> str:
    """Returns the name of a parameter in a checkpoint. `{}` stands for the index of the layer.

    Args:
        parameter: name of the parameter in the model, without an index.

    Example:
        >>> tensor_name("encoder.blocks.mlp.fc1.kernel")
        'encoder.blocks.{}.mlp.0.weight'
    """
    if parameter in ("decoder.token_embedding", "decoder.projection"):
        return f"{parameter}.weight"
    for part, checkpoint_part in _RENAMED_PARTS:
        pattern = re.escape(part) + ("" if part.endswith(".") else "$")
        parameter = re.sub(pattern, checkpoint_part, parameter)
    return parameter.replace(".blocks.", ".blocks.{}.")


def convert_layout(parameter: str, tensor: Any) -> Any:
    """Converts a tensor from torch's layout to the layout of the model, or back.

    Args:
        parameter: name of the parameter in the model.
        tensor: the tensor of one layer.

    Example:
        >>> convert_layout("decoder.blocks.mlp.fc1.kernel", np.ones((4, 2))).shape
        (2, 4)
    """
    # A linear kernel is [in, out] here and [out, in] in torch. A convolution kernel is
    # [width, in, out] here and [out, in, width] in torch. Reversed axes convert both.
    return tensor.transpose() if parameter.endswith(".kernel") else tensor


def parameter_name(path: tuple[Any, ...]) -> str:
    """Returns the name of a parameter, such as `decoder.blocks.attn.query.kernel`.

    Args:
        path: keys of `jax.tree_util` from the model to the parameter.

    Example:
        >>> parameter_name((jax.tree_util.GetAttrKey("decoder"), jax.tree_util.DictKey("ln")))
        'decoder.ln'
    """
    parts = [str(getattr(key, "name", getattr(key, "key", ""))) for key in path]
    # The last key may be "value", the array in an nnx.Variable. The name leaves it out.
    return ".".join(parts[:-1] if parts[-1] == "value" else parts)


def abstract_model(config: Config) -> SpeechModel:
    """Returns the model of this configuration with shapes in place of arrays.

    Example:
        ```python
        from jaxasr.weights.assemble import abstract_model

        abstract_model(jaxasr.SIZES["large-v3"])  # without memory for weights
        ```
    """
    make_model = Whisper if config.audio_language is None else AudioLanguageModel
    return jax.eval_shape(lambda: make_model(config, rngs=nnx.Rngs(0)))


@functools.lru_cache(maxsize=16)
def _list_parameters(config: Config) -> tuple[list[tuple[str, jax.ShapeDtypeStruct]], Any]:
    """Returns the name and shape of every parameter, and the tree structure."""
    # The result is cached, because tracing the constructor takes 0.1 s.
    paths, treedef = jax.tree_util.tree_flatten_with_path(abstract_model(config))
    return [(parameter_name(path), shape) for path, shape in paths], treedef


def parameters_by_name(model: SpeechModel) -> dict[str, Any]:
    """Returns the arrays of a model by name, in the order of the pytree.

    Example:
        ```python
        from jaxasr.weights.assemble import parameters_by_name

        parameters_by_name(asr.model)["decoder.ln.scale"].shape  # (384,)
        ```
    """
    return {
        parameter_name(path): array
        for path, array in jax.tree_util.tree_flatten_with_path(model)[0]
    }


def tensor_shapes(parameter: str, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    """Returns names and shapes of the tensors that hold a parameter, in the order of layers.

    Args:
        parameter: name of the parameter in the model.
        shape: shape of the parameter, with the layer as the first axis if it has one.

    Example:
        >>> tensor_shapes("decoder.blocks.mlp.fc1.bias", (1, 8))
        {'decoder.blocks.0.mlp.0.bias': (8,)}
    """
    name = tensor_name(parameter)
    n_layers, shape = (shape[0], shape[1:]) if "{}" in name else (1, shape)
    shape = shape[::-1] if parameter.endswith(".kernel") else shape
    return {name.format(layer): shape for layer in range(n_layers)}


def check_tensors(checkpoint: Checkpoint, expected: dict[str, tuple[int, ...]]) -> None:
    """Checks the names and shapes of all tensors.

    Args:
        checkpoint: the checkpoint.
        expected: names and shapes of the model's tensors.

    Raises:
        WeightsError: a tensor is missing, left over or of another shape. The error names all such
            tensors.

    Example:
        ```python
        from jaxasr.weights import read_checkpoint
        from jaxasr.weights.assemble import check_tensors

        checkpoint = read_checkpoint("tiny.en")
        tensors = checkpoint.tensors
        check_tensors(checkpoint, {name: tensors.shape(name) for name in tensors})
        ```
    """
    tensors = checkpoint.tensors
    missing = [f"{name} {list(shape)}" for name, shape in expected.items() if name not in tensors]
    left_over = [f"{name} {tensors.describe(name)}" for name in tensors if name not in expected]
    wrong = [
        f"{name}: expected {list(shape)}, found {tensors.describe(name)}"
        for name, shape in expected.items()
        if name in tensors and tensors.shape(name) != shape
    ]
    problems = {"missing": missing, "left over": left_over, "of another shape": wrong}
    if any(problems.values()):
        listed = "".join(
            f"\n  {problem} ({len(names)}): " + "; ".join(names)
            for problem, names in problems.items()
            if names
        )
        raise WeightsError(
            f"{checkpoint.source}: expected the {len(expected)} tensors of a model of the family "
            f"{checkpoint.config.family!r} with these dimensions, found others.{listed}\n"
            "Check that config and weights belong together, and that the file is complete."
        )


def _read_parameter(
    checkpoint: Checkpoint,
    parameter: str,
    shape: tuple[int, ...],
    dtype: Any,
    copier: FiniteCopier,
    threads: Executor,
) -> jax.Array:
    """Reads one parameter into one array, several layers at a time, and puts it on the device."""
    array = empty_aligned(shape, dtype)
    layer_arrays = array if "{}" in tensor_name(parameter) else array[None]

    def read(layer: np.ndarray, name: str) -> None:
        copier.copy(name, convert_layout(parameter, checkpoint.tensors[name]), layer)

    # The list waits for all threads, and raises the first error.
    list(threads.map(read, layer_arrays, tensor_shapes(parameter, shape)))
    return jax.device_put(array)  # `jnp.asarray` would compile a program for every shape


def assemble(
    checkpoint: Checkpoint, dtype: str = "float32", param_dtype: str = "float32", **computation: Any
) -> Whisper:
    """Builds the model of a checkpoint.

    Reads one parameter at a time, the largest first, and puts it on the device. So the host holds
    little more than one parameter if the device has its own memory, and little more than the model
    if it does not.

    Args:
        checkpoint: from `read_checkpoint`.
        dtype: type of activations: "float32", "bfloat16" or "float16".
        param_dtype: type of the weights in memory.
        computation: the fields `products`, `float32_products` and `attention_kernel` of
            `jaxasr.Config`.

    Raises:
        WeightsError: a tensor is missing, left over or of another shape; a weight is not finite, or
            exceeds the range of `param_dtype`. The error names all such tensors.

    Example:
        ```python
        from jaxasr.weights import assemble, read_checkpoint

        model = assemble(read_checkpoint("tiny.en"))
        ```
    """
    parameters, treedef = _list_parameters(
        checkpoint.config.replace(dtype=dtype, param_dtype=param_dtype, **computation)
    )
    expected: dict[str, tuple[int, ...]] = {}
    for parameter, spec in parameters:
        expected |= tensor_shapes(parameter, spec.shape)
    check_tensors(checkpoint, expected)
    arrays: dict[str, jax.Array] = {}
    copier = FiniteCopier(param_dtype)
    with ThreadPoolExecutor(min(_MAX_THREADS, os.cpu_count() or 1)) as threads:
        for parameter, spec in sorted(parameters, key=lambda pair: -math.prod(pair[1].shape)):
            arrays[parameter] = _read_parameter(
                checkpoint, parameter, spec.shape, spec.dtype, copier, threads
            )
    copier.check(checkpoint.source)
    return jax.tree.unflatten(treedef, [arrays[parameter] for parameter, _ in parameters])
