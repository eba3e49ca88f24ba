"""Puts the tensors of a checkpoint into the model, one parameter at a time, after checking every name and shape."""

import functools
import math
import re
from typing import Any

import jax
import numpy as np
from flax import nnx

from jaxasr.config import Config
from jaxasr.model import Whisper
from jaxasr.weights.checkpoint import Checkpoint
from jaxasr.weights.errors import WeightsError

# The model's parameter -> the checkpoint's tensor. Linear kernels are [in, out] here and [out, in] there, convolutions
# [width, in, out] here and [out, in, width] there: reversing the axes is right for both, and its own inverse.
_RENAMED = (
    ("mlp.fc1.", "mlp.0."),
    ("mlp.fc2.", "mlp.2."),
    (".kernel", ".weight"),
    (".scale", ".weight"),
)


def tensor_name(leaf: str) -> str:
    """The checkpoint's name for parameter `leaf`; a `{}` stands for the layer."""
    if leaf in ("decoder.token_embedding", "decoder.projection"):
        return f"{leaf}.weight"
    for ours, theirs in _RENAMED:
        leaf = (
            leaf.replace(ours, theirs)
            if ours.endswith(".")
            else re.sub(re.escape(ours) + "$", theirs, leaf)
        )
    return leaf.replace(".blocks.", ".blocks.{}.")


def from_torch(leaf: str, tensor: Any) -> Any:
    """A tensor in torch's layout -> the parameter's layout, and back."""
    return tensor.transpose() if leaf.endswith(".kernel") else tensor


def leaf_name(path: tuple[Any, ...]) -> str:
    """`decoder.blocks.attn.query.kernel` from a path of `jax.tree_util`."""
    parts = [str(getattr(key, "name", getattr(key, "key", ""))) for key in path]
    return ".".join(
        parts[:-1] if parts[-1] == "value" else parts
    )  # the last is the Variable's own, not the value projection


def structure(config: Config) -> Whisper:
    """The model of this configuration with shapes in place of arrays."""
    return jax.eval_shape(lambda: Whisper(config, rngs=nnx.Rngs(0)))


@functools.lru_cache(maxsize=16)
def _layout(config: Config) -> tuple[list[tuple[str, jax.ShapeDtypeStruct]], Any]:
    """Returns the name and shape of every leaf, and the tree; tracing the constructor takes 0.1 s, so it is kept."""
    paths, treedef = jax.tree_util.tree_flatten_with_path(structure(config))
    return [(leaf_name(path), leaf) for path, leaf in paths], treedef


def leaves(model: Whisper) -> dict[str, Any]:
    """`{leaf name: array}` of a model, in the order of the pytree."""
    return {leaf_name(path): leaf for path, leaf in jax.tree_util.tree_flatten_with_path(model)[0]}


def tensor_shapes(leaf: str, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    """`{tensor name: shape}` of the tensors that make up parameter `leaf`, in order of layers."""
    name = tensor_name(leaf)
    layers = shape[0] if "{}" in name else 1
    own = shape[1:] if "{}" in name else shape
    return {
        name.format(layer): own[::-1] if leaf.endswith(".kernel") else own
        for layer in range(layers)
    }


def check(checkpoint: Checkpoint, expected: dict[str, tuple[int, ...]]) -> None:
    """Raises `WeightsError` naming every tensor that is missing, left over, or of another shape."""
    tensors = checkpoint.tensors
    missing = [f"{name} {list(shape)}" for name, shape in expected.items() if name not in tensors]
    left_over = [f"{name} {list(tensors.shape(name))}" for name in tensors if name not in expected]
    wrong = [
        f"{name}: expected {list(shape)}, found {list(tensors.shape(name))}"
        for name, shape in expected.items()
        if name in tensors and tensors.shape(name) != shape
    ]
    problems = {"missing": missing, "left over": left_over, "of another shape": wrong}
    if any(problems.values()):
        said = "".join(
            f"\n  {what} ({len(names)}): " + "; ".join(names)
            for what, names in problems.items()
            if names
        )
        raise WeightsError(
            f"{checkpoint.source}: expected the {len(expected)} tensors of a Whisper of its own dimensions, found others.{said}\n"
            "Check that config and weights belong together, and that the file is whole."
        )


class _Spoilt:
    """Names of tensors that are not finite: as stored, or only in the type they are kept in."""

    def __init__(self, param_dtype: str):
        self.param_dtype, self.stored, self.overflown = param_dtype, [], []

    def copy(self, name: str, tensor: np.ndarray, into: np.ndarray) -> None:
        """Copies `tensor`, and notes its name if it or the copy is not finite."""
        with np.errstate(over="ignore", invalid="ignore"):
            into[...] = tensor
        if not np.isfinite(into).all():
            (self.overflown if np.isfinite(tensor).all() else self.stored).append(name)

    def check(self, source: object) -> None:
        """Raises `WeightsError` naming every tensor that was noted."""
        if self.stored:
            raise WeightsError(
                f"{source}: expected finite weights, found NaN or infinite ones in {len(self.stored)} tensors: "
                f"{', '.join(self.stored)}. The training may have diverged, or the file is damaged; use an earlier checkpoint."
            )
        if self.overflown:
            raise WeightsError(
                f"{source}: expected weights that fit into {self.param_dtype}, found larger ones in {len(self.overflown)} tensors: "
                f"{', '.join(self.overflown)}. Load with param_dtype='float32' or 'bfloat16'."
            )


def _filled(
    checkpoint: Checkpoint, leaf: str, shape: tuple[int, ...], dtype: Any, spoilt: _Spoilt
) -> jax.Array:
    """One parameter: its layers read one after the other into place."""
    out = np.empty(shape, dtype)
    names = list(tensor_shapes(leaf, shape))
    for into, name in zip(out if "{}" in tensor_name(leaf) else out[None], names):
        spoilt.copy(name, from_torch(leaf, checkpoint.tensors[name]), into)
    return jax.device_put(out)  # `jnp.asarray` would compile a copy for every shape


def assemble(
    checkpoint: Checkpoint, dtype: str = "float32", param_dtype: str = "float32"
) -> Whisper:
    """The model of `checkpoint`, computing in `dtype` with weights stored in `param_dtype`.

    Reads one parameter at a time, the largest first: at its peak it needs little more than the model itself.
    Raises `WeightsError` listing everything that is missing, left over or of another shape, before it reads anything;
    and listing every tensor that is not finite, as stored or in `param_dtype`.
    """
    wanted, treedef = _layout(checkpoint.config.replace(dtype=dtype, param_dtype=param_dtype))
    check(
        checkpoint,
        {
            name: shape
            for leaf, spec in wanted
            for name, shape in tensor_shapes(leaf, spec.shape).items()
        },
    )
    arrays: dict[str, jax.Array] = {}
    spoilt = _Spoilt(param_dtype)
    for leaf, spec in sorted(wanted, key=lambda pair: -math.prod(pair[1].shape)):
        arrays[leaf] = _filled(checkpoint, leaf, spec.shape, spec.dtype, spoilt)
    spoilt.check(checkpoint.source)
    return jax.tree.unflatten(treedef, [arrays[leaf] for leaf, _ in wanted])
