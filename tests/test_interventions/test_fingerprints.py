"""Fingerprints of a value are equal in every process, and those of different values differ."""

import functools
import importlib
import os
import subprocess
import sys
from pathlib import Path

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import interventions as iv
from interventions.storage.fingerprints import fingerprint


@flax.struct.dataclass
class Times:
    by: float

    def __call__(self, x, at):
        return x * self.by


@flax.struct.dataclass
class Plus:
    by: float

    def __call__(self, x, at):
        return x + self.by


@flax.struct.dataclass
class Static:
    by: object = flax.struct.field(pytree_node=False)

    def __call__(self, x, at):
        return x * self.by


def doubled(x):
    return x * 2


def closure(k):
    return lambda x, at: x * k


def distinct_values():
    """Returns values whose fingerprints must all differ."""
    return [
        *(
            Times(2.0),
            Plus(2.0),
            Static(1),
            Static(True),
            Static(1.0),
            Static("1"),
            Static(None),
            Static((1, 2)),
            Static([1, 2]),
        ),
        *(
            Static(0.0),
            Static(-0.0),
            Static(float("nan")),
            Static({"a": 1}),
            Static({"a": True}),
            Static(np.ones(2, np.float64)),
        ),
        *(
            iv.Zero(),
            iv.Scale(2.0),
            iv.Noise(2),
            iv.Patch(jnp.ones(2)),
            iv.Patch(jnp.ones(2, jnp.bfloat16)),
            iv.Patch(jnp.ones((1, 2))),
        ),
        *(
            iv.logprob(3),
            iv.metrics.rank(3),
            iv.logprob(4),
            iv.logprob(3, position=-2),
            iv.logit_diff(3, 4),
            iv.kl(jnp.ones((1, 4))),
        ),
        *(
            closure(2),
            closure(3),
            closure(2.0),
            doubled,
            lambda x, at: x,
            lambda x, at: -x,
            lambda x, at, y=1: x,
            lambda x, at, y=2: x,
        ),
        *(
            jnp.tanh,
            jnp.exp,
            jax.jit(doubled),
            jax.nn.relu,
            Times,
            Plus,
            {"b", "a"},
            {"a"},
            frozenset({"a"}),
            jax.random.key(0),
        ),
    ]


def test_different_values_have_different_fingerprints():
    fingerprints = [fingerprint(value=value) for value in distinct_values()]
    assert len(set(fingerprints)) == len(fingerprints)
    assert fingerprints == [fingerprint(value=value) for value in distinct_values()]


def test_fingerprints_are_equal_in_another_process():
    code = (
        "import test_fingerprints as t; "
        "print(*[t.fingerprint(value=value) for value in t.distinct_values()])"
    )
    paths = os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])
    environment = {**os.environ, "PYTHONHASHSEED": "7", "PYTHONPATH": paths}
    process = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        timeout=240,
        env=environment,
    )
    assert process.stdout.split() == [fingerprint(value=value) for value in distinct_values()]


def test_recursive_functions_and_cyclic_lists_have_fingerprints():
    def again(x, n=3):
        return x if n == 0 else again(x, n - 1)

    loop = [1]
    loop.append(loop)
    assert fingerprint(value=again) != fingerprint(value=doubled)
    assert fingerprint(value=loop) == fingerprint(value=loop)


class Double:
    def __init__(self, a):
        self.a = a * 2


class Triple:
    def __init__(self, a):
        self.a = a * 3


class Inner(nnx.Module):
    def __init__(self, function):
        self.function = function


class Outer(nnx.Module):
    def __init__(self, inner):
        self.inner, self.k = inner, nnx.Param(jnp.ones(2))


def test_fingerprints_include_constructors_submodules_and_wrapped_code():
    Triple.__qualname__ = Double.__qualname__
    assert fingerprint(a=lambda: Double(1)) == fingerprint(a=lambda: Double(1))
    assert fingerprint(a=Double) != fingerprint(a=Triple)
    assert fingerprint(a=Outer(Inner(jax.nn.relu))) != fingerprint(a=Outer(Inner(jnp.tanh)))
    assert fingerprint(a=Outer(Inner(jax.nn.relu))) == fingerprint(a=Outer(Inner(jax.nn.relu)))
    wrapped = [functools.wraps(iv.only)(f) for f in (lambda x: x * 2, lambda x: x * 3)]
    assert fingerprint(a=wrapped[0]) != fingerprint(a=wrapped[1])


def test_fingerprints_follow_attributes_through_modules_of_the_user(tmp_path, monkeypatch):
    package = tmp_path / "package_of_a_user"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "settings.py").write_text("import package_of_a_user\nSCALE, UNUSED = 1, 1\n")
    (tmp_path / "edits_of_a_user.py").write_text(
        "import package_of_a_user.settings\n"
        "def scale(x, at):\n"
        "    return x * package_of_a_user.settings.SCALE\n"
        "def make():\n"
        "    import package_of_a_user.settings\n"
        "    return lambda x, at: x * package_of_a_user.settings.SCALE\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    module = importlib.import_module("edits_of_a_user")
    settings = importlib.import_module("package_of_a_user.settings")
    for edit in (module.scale, module.make()):
        before = fingerprint(edit=edit)
        monkeypatch.setattr(settings, "UNUSED", 2)
        assert fingerprint(edit=edit) == before
        monkeypatch.setattr(settings, "SCALE", settings.SCALE + 1)
        assert fingerprint(edit=edit) != before
