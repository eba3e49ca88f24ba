"""Every registered pytree accepts any leaves, because JAX puts placeholders into pytrees."""

import dataclasses
import importlib
import inspect
import pkgutil

import jax
import jax.numpy as jnp
import pytest

import interventions
import jaxasr
from jaxasr import rules

SHAPE = jax.ShapeDtypeStruct((2,), jnp.float32)


def registered_classes() -> list[type]:
    """Returns the classes of both packages that `jaxasr.pytrees` registers, and `Rules`."""
    found = {rules.Rules}
    for package in (jaxasr, interventions):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if module.name.endswith("__main__"):
                continue
            members = vars(importlib.import_module(module.name)).values()
            found |= {
                x for x in members if inspect.isclass(x) and "_is_pytree_dataclass" in vars(x)
            }
    return sorted(found, key=lambda cls: f"{cls.__module__}.{cls.__qualname__}")


def children_of(cls: type) -> list[str]:
    """Returns the fields that hold arrays."""
    if cls is rules.Rules:
        return ["suppress", "suppress_begin", "max_initial"]
    return [f.name for f in dataclasses.fields(cls) if f.metadata.get("pytree_node", True)]


def made_of(cls: type, leaf: object) -> object:
    """Makes a value without its constructor, with `leaf` in every field that holds arrays."""
    value = object.__new__(cls)
    for field in dataclasses.fields(cls):
        is_child = field.name in children_of(cls)
        object.__setattr__(value, field.name, leaf if is_child else "static")
    return value


@pytest.mark.parametrize("cls", registered_classes(), ids=lambda cls: cls.__qualname__)
def test_a_pytree_accepts_any_leaves(cls):
    value, n_leaves = made_of(cls, jnp.zeros(2)), len(children_of(cls))
    assert len(jax.tree.leaves(value)) == n_leaves
    for leaf in (None, SHAPE, object(), 3):
        replaced = jax.tree.map(lambda _, leaf=leaf: leaf, value)
        assert all(getattr(replaced, name) is leaf for name in children_of(cls))
        assert isinstance(repr(replaced), str)
    traced = jax.eval_shape(lambda x: x, value)
    assert all(getattr(traced, name).shape == (2,) for name in children_of(cls))
    if n_leaves:
        axes = jax.tree.map(lambda _: 0, value)
        assert jax.tree.structure(jax.vmap(lambda x: x, (axes,))(value)) == jax.tree.structure(
            value
        )


def test_the_search_finds_classes_of_both_packages():
    names = {cls.__qualname__ for cls in registered_classes()}
    assert names >= {"Run", "Memory", "Generation", "Patch", "Recordings", "StackedMetric", "Rules"}
    assert len(names) > 40


def test_a_model_is_made_of_shapes_too(tiny_model):
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tiny_model)
    assert shapes.n_parameters == tiny_model.n_parameters


def test_the_constructor_still_checks():
    with pytest.raises(ValueError, match="got neither"):
        interventions.Run(tokens=jnp.zeros((1, 2), jnp.int32))
    empty = jax.tree.map(lambda _: None, interventions.Run(tokens=1, mel=2))
    assert (empty.tokens, empty.mel, empty.memory) == (None, None, None)
