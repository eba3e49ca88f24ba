"""Makes frozen dataclasses that are pytrees."""

import dataclasses
from collections.abc import Callable
from typing import Any, TypeVar, dataclass_transform

import jax
from flax.struct import field as field

_Class = TypeVar("_Class", bound=type)


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def dataclass(cls: _Class | None = None, **options: Any) -> _Class | Callable[[_Class], _Class]:
    """Makes a class a frozen dataclass and a pytree, like `flax.struct.dataclass`.

    The dataclass of Flax is not used, because it registers types by
    `jax.tree_util.register_dataclass`. In JAX 0.10 the structures of two such types are equal if
    both have equally many fields. A function under `jax.jit` can then run the program of the other
    type. This happens for one pair of types in 128. The structures of types made here always
    differ. The functions of `jaxasr` and `interventions` handle types of Flax correctly, too.

    `__post_init__` may check the fields, because only a call of the class runs it. JAX puts tracers
    and placeholders into the fields without a check. Results of `__post_init__` belong in fields.

    Args:
        cls: class with annotated fields. Fields made by `field(pytree_node=False)` are static, all
            others are children.
        options: options of `dataclasses.dataclass`.

    Returns:
        The class, with a method `replace(**changes)`.

    Example:
        >>> from jaxasr import pytrees
        >>> @pytrees.dataclass
        ... class Shift:
        ...     value: float
        ...     def __call__(self, x, at):
        ...         return x + self.value
        >>> jax.tree.leaves(Shift(2.0))
        [2.0]
    """
    return _register(cls, **options) if cls is not None else lambda c: _register(c, **options)


def _register(cls: Any, **options: Any) -> Any:
    """Returns `cls` as a frozen dataclass that is registered as a pytree."""
    if cls.__dict__.get("_is_pytree_dataclass"):
        return cls
    cls = dataclasses.dataclass(**{**options, "frozen": True})(cls)
    cls._is_pytree_dataclass = True
    fields = dataclasses.fields(cls)
    static = tuple(f.name for f in fields if not f.metadata.get("pytree_node", True))
    children = tuple(f.name for f in fields if f.metadata.get("pytree_node", True))
    keys = tuple(jax.tree_util.GetAttrKey(name) for name in children)

    def flatten(value: Any) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        return tuple([getattr(value, name) for name in children]), tuple(
            [getattr(value, name) for name in static]
        )

    def flatten_with_keys(value: Any) -> tuple[tuple[tuple[Any, Any], ...], tuple[Any, ...]]:
        child_values, static_values = flatten(value)
        return tuple(zip(keys, child_values, strict=True)), static_values

    def unflatten(static_values: tuple[Any, ...], child_values: Any) -> Any:
        # Skips the constructor and its checks, because JAX also puts other objects than arrays
        # into pytrees.
        value = object.__new__(cls)
        for name, part in zip((*static, *children), (*static_values, *child_values), strict=True):
            object.__setattr__(value, name, part)
        return value

    jax.tree_util.register_pytree_with_keys(cls, flatten_with_keys, unflatten, flatten)
    cls.replace = dataclasses.replace
    return cls
