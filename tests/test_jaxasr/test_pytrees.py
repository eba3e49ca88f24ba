"""Frozen dataclasses that are pytrees, and that JAX never takes for one another."""

import dataclasses

import flax.struct
import jax
import jax.numpy as jnp
import pytest

from jaxasr import pytrees


def kind(i, decorate=pytrees.dataclass):
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
class Theirs:
    value: jax.Array
    by: int = flax.struct.field(pytree_node=False, default=3)


def test_it_is_what_flax_makes():
    ours, other = Shift(jnp.ones(2), 4), Theirs(jnp.ones(2), 4)
    assert jax.tree.leaves(ours)[0].shape == (2,)
    assert [str(path) for path, _ in jax.tree.leaves_with_path(ours)] == [
        str(path) for path, _ in jax.tree.leaves_with_path(other)
    ]
    assert ours.replace(by=5).by == 5
    assert jax.tree.map(lambda x: x + 1, ours).by == 4
    with pytest.raises(dataclasses.FrozenInstanceError):
        ours.by = 2


def test_any_leaf_can_be_put_in():
    assert jax.tree.map(lambda _: None, Shift(jnp.ones(2))).value is None
    assert jax.eval_shape(lambda x: x, Shift(jnp.ones(2))).value.shape == (2,)


def test_a_jit_of_the_users_never_takes_one_type_for_another():
    kinds = [kind(i) for i in range(150)]
    assert jax.tree.structure(kinds[0](1.0)) != jax.tree.structure(kinds[1](1.0))
    call = jax.jit(lambda edit, x: edit(x))
    assert [float(call(make(1.0), 2.0)) for make in kinds] == list(range(150))


@pytrees.dataclass
class Weighted:
    value: float

    def __post_init__(self):
        object.__setattr__(self, "weight", 3.0)

    def __call__(self, x):
        return x * self.value * self.weight


def test_a_constructor_that_sets_more_runs_again_and_a_decorated_class_stays():
    assert jax.jit(lambda edit, x: edit(x))(Weighted(2.0), 2.0) == 12
    assert pytrees.dataclass(Shift) is Shift
    assert (
        pytrees.dataclass(frozen=True)(type("Own", (), {"__annotations__": {"s": float}}))(1.0).s
        == 1
    )
