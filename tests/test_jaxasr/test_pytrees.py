"""`pytrees.dataclass` makes frozen dataclasses that are pytrees. JAX never confuses their types."""

import dataclasses

import flax.struct
import jax
import jax.numpy as jnp
import pytest

from jaxasr import pytrees


def make_type(i, decorate=pytrees.dataclass):
    """Returns a class with one field, whose instances map x to 0 * x + i."""
    return decorate(
        type(
            f"Kind{i}", (), {"__annotations__": {"s": float}, "__call__": lambda self, x: x * 0 + i}
        )
    )


@pytrees.dataclass
class Shift:
    value: jax.Array
    by: int = pytrees.field(pytree_node=False, default=3)


@flax.struct.dataclass
class FlaxShift:
    value: jax.Array
    by: int = flax.struct.field(pytree_node=False, default=3)


def test_our_dataclass_behaves_like_that_of_flax():
    ours, flax_made = Shift(jnp.ones(2), 4), FlaxShift(jnp.ones(2), 4)
    assert jax.tree.leaves(ours)[0].shape == (2,)
    assert [str(path) for path, _ in jax.tree.leaves_with_path(ours)] == [
        str(path) for path, _ in jax.tree.leaves_with_path(flax_made)
    ]
    assert ours.replace(by=5).by == 5
    assert jax.tree.map(lambda x: x + 1, ours).by == 4
    with pytest.raises(dataclasses.FrozenInstanceError):
        ours.by = 2


def test_leaves_may_be_replaced_by_any_object():
    assert jax.tree.map(lambda _: None, Shift(jnp.ones(2))).value is None
    assert jax.eval_shape(lambda x: x, Shift(jnp.ones(2))).value.shape == (2,)


def test_a_plain_jit_never_confuses_two_types_with_equal_fields():
    types = [make_type(i) for i in range(150)]
    assert jax.tree.structure(types[0](1.0)) != jax.tree.structure(types[1](1.0))
    call = jax.jit(lambda edit, x: edit(x))
    assert [float(call(make(1.0), 2.0)) for make in types] == list(range(150))


@pytrees.dataclass
class Weighted:
    value: float
    weight: float = pytrees.field(pytree_node=False, default=0.0)

    def __post_init__(self):
        if not isinstance(self.value, float):
            raise TypeError("value: expected a float.")
        object.__setattr__(self, "weight", 3.0)

    def __call__(self, x):
        return x * self.value * self.weight


def test_only_the_constructor_runs_post_init():
    with pytest.raises(TypeError, match="expected a float"):
        Weighted(None)
    assert jax.tree.map(lambda _: None, Weighted(2.0)).value is None
    # The program gets a tracer in place of the float, and the field that `__post_init__` has set.
    assert jax.jit(lambda edit, x: edit(x))(Weighted(2.0), 2.0) == 12


def test_decorating_twice_changes_nothing():
    assert pytrees.dataclass(Shift) is Shift
    assert (
        pytrees.dataclass(frozen=True)(type("Own", (), {"__annotations__": {"s": float}}))(1.0).s
        == 1
    )
