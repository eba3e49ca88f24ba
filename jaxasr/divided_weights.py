"""Divides the weights of one model over devices, for models that one device cannot hold.

The devices are a mesh with the axis "model". Each device holds some of the attention heads, of the
hidden units of every MLP, and of the vocabulary. XLA inserts the exchanges between devices.
"""

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec as P

from jaxasr.config import Config
from jaxasr.model import SpeechModel

MODEL = "model"


class Rule(NamedTuple):
    """Divides one axis of the arrays whose name contains a pattern.

    Attributes:
        pattern: regular expression of the name of a weight, or of keys and values.
        axis: the divided axis, counted from the last one, so that a layer axis changes nothing.
        unit: what the axis consists of, a field of `jaxasr.config.StackShape` or "n_vocab". Each
            device must hold a whole number of units. Otherwise every device holds all of them.
    """

    pattern: str
    axis: int
    unit: str


# The first rule whose pattern occurs decides. Other arrays, such as norms and convolutions, are
# whole on every device.
RULES = (
    Rule(r"attn\.query\.(kernel|bias)$", -1, "n_head"),
    Rule(r"attn\.(key|value)\.(kernel|bias)$", -1, "n_kv_head"),
    Rule(r"attn\.out\.kernel$", -2, "n_head"),
    Rule(r"mlp\.(fc1|gate|up)\.(kernel|bias)$", -1, "n_mlp"),
    Rule(r"mlp\.(fc2|down)\.kernel$", -2, "n_mlp"),
    Rule(r"(token_embedding|projection)$", -2, "n_vocab"),
    Rule(r"(^|(memory|past(\.\d+)?|trace)\.)[kv](\.\d+)?$", -3, "n_kv_head"),
)


def spec_of(name: str, n_axes: int, config: Config, n_devices: int) -> P:
    """Returns the placement of an array.

    Args:
        name: name of the array, such as "decoder.blocks.mlp.up.kernel".
        n_axes: number of its axes.
        config: dimensions of the model.
        n_devices: number of devices.

    Example:
        >>> from jaxasr.divided_weights import spec_of
        >>> spec_of("decoder.blocks.mlp.fc1.kernel", 3, jaxasr.SIZES["large-v3"], 8)
        PartitionSpec(None, None, 'model')
    """
    rule = next((rule for rule in RULES if re.search(rule.pattern, name)), None)
    if rule is None or _count_units(name, rule.unit, config) % n_devices:
        return P()
    return P(*[None] * (n_axes + rule.axis), MODEL)


def _count_units(name: str, unit: str, config: Config) -> int:
    if unit == "n_vocab":
        return config.n_vocab
    return getattr(config.stack("encoder" if "encoder." in name else "decoder"), unit)


def specs_of_arrays(tree: Any, config: Config, n_devices: int) -> Any:
    """Returns the placement of every array of a pytree, as a tree of the same structure.

    Example:
        >>> from jaxasr.divided_weights import specs_of_arrays
        >>> specs = specs_of_arrays(asr.model, asr.config, 2)
        >>> specs.decoder.blocks.attn.out.kernel.get_value()
        PartitionSpec(None, 'model')
    """

    def find_spec(path: Any, leaf: Any) -> P:
        # The last key of a weight is "value", the array in an nnx.Variable.
        name = jax.tree_util.keystr(path, simple=True, separator=".").removesuffix(".value")
        return spec_of(name, getattr(leaf, "ndim", 0), config, n_devices)

    return jax.tree_util.tree_map_with_path(find_spec, tree)


def shardings_of_call(arguments: Sequence[Any], mesh: Mesh) -> list[Any]:
    """Returns where the arrays of each argument of a program are, for a program with one model.

    Args:
        arguments: pytrees, of which one holds a model.
        mesh: the devices that share the model, from `make_model_mesh`.

    Example:
        >>> from jaxasr.divided_weights import make_model_mesh, shardings_of_call
        >>> shardings_of_call([jnp.ones(3)], make_model_mesh(jax.devices()[:1]))[0].spec
        PartitionSpec()
    """
    nodes = jax.tree.leaves(arguments, is_leaf=lambda node: isinstance(node, SpeechModel))
    config = next((node.config for node in nodes if isinstance(node, SpeechModel)), None)

    def place(argument: Any) -> Any:
        if config is None:
            return jax.tree.map(lambda _: NamedSharding(mesh, P()), argument)
        specs = specs_of_arrays(argument, config, mesh.size)
        return jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs)

    return [place(argument) for argument in arguments]


def make_model_mesh(devices: Sequence[Any]) -> Mesh:
    """Returns a mesh of devices that share one model."""
    return jax.make_mesh((len(devices),), (MODEL,), (AxisType.Auto,), devices=devices)


def divide_weights(model: SpeechModel, n_devices: int | None = None) -> SpeechModel:
    """Divides the weights of a model over devices, which then compute every call together.

    Args:
        model: the model. To load one that a device cannot hold, load it within
            `jax.default_device(jax.local_devices(backend="cpu")[0])`.
        n_devices: number of devices. None: all devices of this process.

    Returns:
        The model for `encode`, `decode`, `generate` and the methods of `interventions`. Leave out
        their argument `mesh`. Results differ from those of one device in the last digits.

    Raises:
        ValueError: there are fewer devices, or the model would run a fused kernel of a TPU, which
            cannot be divided.

    Example:
        >>> model = jaxasr.divide_weights(asr.model, 1)
        >>> model.decoder.blocks.mlp.fc1.kernel.sharding.spec
        PartitionSpec(None, None, 'model')
    """
    devices = jax.local_devices()
    n_devices = len(devices) if n_devices is None else n_devices
    if not 1 <= n_devices <= len(devices):
        raise ValueError(
            f"n_devices: expected 1 to {len(devices)}, the devices of this process, "
            f"got {n_devices}."
        )
    check_kernel(model.config, devices[0].platform)
    mesh = make_model_mesh(devices[:n_devices])
    return jax.device_put(model, shardings_of_call([model], mesh)[0])


def check_kernel(config: Config, platform: str) -> None:
    """Raises ValueError if a fused kernel would run that cannot be divided."""
    if platform == "tpu" and config.attention_kernel != "xla":
        raise ValueError(
            "attention_kernel: expected 'xla' for weights that are divided over TPUs, because the "
            f"fused kernel cannot be divided; got {config.attention_kernel!r}. "
            "Load the model with attention_kernel='xla'."
        )
