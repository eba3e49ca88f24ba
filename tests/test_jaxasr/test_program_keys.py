"""Edits, metrics, readouts and rules share a compiled program only if they compute the same."""

import dataclasses
import functools
import types

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from attacks import program_pairs
from flax import nnx
from flax.core import FrozenDict

import interventions as iv
from interventions import Run
from jaxasr import compiled
from jaxasr.program_keys import Key

# Per kind of edit, metric, readout or rule: a function, its arrays, and the kind.
CALLS = program_pairs.calls()


@pytest.mark.parametrize("order", [1, -1], ids=["forward", "backward"])
def test_each_kind_of_edit_computes_its_values_after_all_other_kinds(order):
    compiled._jitted.cache_clear()
    # The programs are built in this process, so that they could be confused.
    for name in list(CALLS)[::order]:
        expected = program_pairs.result(name, CALLS, compile_it=False).split()
        values = program_pairs.result(name, CALLS).split()
        np.testing.assert_allclose(
            np.array(values, float), np.array(expected, float), rtol=1e-4, atol=2e-4, err_msg=name
        )


def test_decode_does_not_confuse_two_classes_with_equal_fields(tiny_model):
    tokens, memory = np.array([[1, 2, 3]]), tiny_model.encode(np.zeros((1, 7, 22), np.float32))[0]
    for edit, by_hand in (
        (program_pairs.Times(2.0), lambda x, at: x * 2),
        (program_pairs.Plus(2.0), lambda x, at: x + 2),
    ):
        logits, expected = (
            tiny_model.decode(tokens, memory, {"decoder.mlp_out": e})[0] for e in (edit, by_hand)
        )
        np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-5)


def test_sweep_does_not_confuse_two_metrics_with_equal_fields(tiny_model):
    run = Run(
        memory=tiny_model.encode(np.zeros((1, 7, 22), np.float32))[0], tokens=np.array([[1, 2, 3]])
    )
    options = {"source": "zero", "site": "decoder.resid_post", "over": ("layer", "position")}
    logprobs = iv.sweep(tiny_model, run, metric=iv.logprob(13), **options)
    ranks = iv.sweep(tiny_model, run, metric=iv.metrics.rank(13), **options)
    assert (logprobs.values < 0).all()
    assert (ranks.values >= 0).all()
    assert (ranks.values == ranks.values.round()).all()
    for layer, position in np.ndindex(ranks.shape):
        edits = {"decoder.resid_post": iv.only(iv.Zero(), layers=layer, positions=position)}
        logits = np.asarray(tiny_model.decode(run.tokens, run.memory, edits)[0])[0, -1]
        assert ranks.values[layer, position] == (logits > logits[13]).sum()


ARRAY = np.arange(3.0)


def make_edit(s):
    return lambda x: x * s


@dataclasses.dataclass(frozen=True, slots=True)
class Slots:
    k: float


class Named(list):
    def __init__(self, name):
        super().__init__([1])
        self.name = name


DIFFERENT_PAIRS = [
    (1, True),
    (1, 1.0),
    (0.0, -0.0),
    (0, False),
    ("a", b"a"),
    ((1, 2), [1, 2]),
    ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
    (np.float32(1), np.float64(1)),
    (np.arange(3), np.arange(3.0)),
    (ARRAY, ARRAY + 1),
    (np.int32(1), 1),
    (make_edit(1), make_edit(1)),
    (functools.partial(make_edit, 1), functools.partial(make_edit, True)),
    (program_pairs.Typed(1), program_pairs.Typed(True)),
    (jax.tree.structure(program_pairs.Times(1.0)), jax.tree.structure(program_pairs.Plus(1.0))),
    (program_pairs.Plain(1), program_pairs.Plain(1)),
    (Slots(1), Slots(2)),
    (Slots(1), Slots(1.0)),
    (Named("a"), Named("b")),
    (FrozenDict(a=1), FrozenDict(a=True)),
]


@pytest.mark.parametrize(("first", "second"), DIFFERENT_PAIRS)
def test_keys_of_values_that_may_compute_differently_differ(first, second):
    assert Key(first) != Key(second)


MAKERS_OF_EQUAL_VALUES = [
    lambda: (1, "a", None, 2.5, float("nan"), {"x": [1, {2}]}),
    lambda: np.arange(5),
    lambda: jax.tree.structure(iv.chain(iv.Zero(), iv.Scale(2.0))),
    lambda: make_edit,
    lambda: Slots(1),
    lambda: Named("a"),
    lambda: functools.partial(make_edit, 3),
    lambda: iv.Zero,
    lambda: jnp.float32,
    lambda: np.dtype("int8"),
]


@pytest.mark.parametrize("make", MAKERS_OF_EQUAL_VALUES)
def test_keys_of_equal_values_are_equal(make):
    assert Key(make()) == Key(make())
    assert hash(Key(make())) == hash(Key(make()))


# Globals that edits read. The tests change them.
FACTOR = 2.0
FACTORS = {"all": [2.0]}


def _helper(x):
    return x * FACTOR


def test_a_changed_global_compiles_another_program(monkeypatch):
    def scaled(x, edit):
        return edit(x)

    for edit in (lambda x: x * FACTOR, lambda x: _helper(x), lambda x: x * FACTORS["all"][0]):
        assert compiled.call(scaled, 3.0, edit) == 6
        n = compiled.n_compiled(scaled)
        assert compiled.call(scaled, 4.0, edit) == 8
        assert compiled.n_compiled(scaled) == n
        monkeypatch.setitem(globals(), "FACTOR", 5.0)
        monkeypatch.setitem(FACTORS, "all", [5.0])
        assert compiled.call(scaled, 3.0, edit) == 15
        monkeypatch.undo()


def test_a_changed_closure_attribute_default_or_method_compiles_another_program():
    factor = 2.0

    def closed(x):
        return x * factor

    class Instance:
        k = 2.0

        def __call__(self, x):
            return x * self.k

    def default(x, k=2.0):
        return x * k

    def apply(x, edit):
        return edit(x)

    @flax.struct.dataclass
    class Field:
        k: float = flax.struct.field(pytree_node=False, default=2.0)

        def __call__(self, x):
            return x * self.k

    instance = Instance()
    edits = closed, instance, default, Field()
    assert [compiled.call(apply, 3.0, edit) for edit in edits] == [6] * len(edits)
    factor, instance.k, default.__defaults__ = 5.0, 5.0, (5.0,)
    Field.__call__ = lambda self, x: x * self.k * 2.5
    assert [compiled.call(apply, 3.0, edit) for edit in edits] == [15] * len(edits)


class Settings:
    strength = 2.0

    @property
    def twice(self):
        return 2 * FACTOR


def test_a_changed_class_attribute_property_or_object_in_a_closure_compiles_another_program(
    monkeypatch,
):
    class Probe(nnx.Module):
        def __init__(self):
            self.k = nnx.Param(jnp.float32(2))

        def __call__(self, x):
            return x * self.k[...]

    class Slotted:
        __slots__ = ("k",)

    def attribute(x):
        return x * attribute.k

    def apply(x, edit):
        return edit(x)

    probe, settings, slotted, space = Probe(), Settings(), Slotted(), types.SimpleNamespace(k=2.0)
    attribute.k = slotted.k = 2.0
    edits = [
        lambda x: probe(x),
        probe.__call__,
        lambda x: x * Settings.strength,
        lambda x: x * settings.twice / 2,
        lambda x: x * slotted.k,
        lambda x: x * space.k,
        attribute,
    ]
    assert [float(compiled.call(apply, 3.0, edit)) for edit in edits] == [6] * len(edits)
    probe.k[...] = jnp.float32(5)
    monkeypatch.setattr(Settings, "strength", 5.0)
    monkeypatch.setitem(globals(), "FACTOR", 5.0)
    attribute.k = slotted.k = space.k = 5.0
    assert [float(compiled.call(apply, 3.0, edit)) for edit in edits] == [15] * len(edits)


def test_functions_that_all_call_each_other_are_read_once():
    code = "".join(
        f"def f{i}(x):\n    return {' + '.join(f'f{j}(x)' for j in range(30) if j != i)}\n"
        for i in range(30)
    )
    names: dict = {"__name__": "mutual"}
    exec(code, names)
    assert Key(names["f0"]) == Key(names["f0"])


def test_objects_that_refer_to_themselves_have_a_key():
    def even(n):
        return n == 0 or odd(n - 1)

    def odd(n):
        return n != 0 and even(n - 1)

    loop: list = [even]
    loop.append(loop)
    assert Key(loop) == Key(loop)
    assert Key(types.SimpleNamespace(a=loop)) != Key(loop)


def test_an_unhashable_object_without_attributes_is_refused():
    class Unhashable:
        __slots__ = ()
        __hash__ = None

    with pytest.raises(
        TypeError, match="must be hashable, or a pytree whose leaves are arrays; got Unhashable"
    ):
        compiled.call(lambda x, taps: x, 1.0, Unhashable())
