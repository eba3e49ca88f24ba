"""Checks that no edit, metric, readout or rule runs the compiled program of another one.

A kind is one edit, metric, readout or rule. `python -m tests.attacks.program_pairs` calls all kinds
in one process, in both orders, through the same compiled function. The command compares each result
with that of a process that calls only this kind. The test in pytest compares each result with that
of a call that is not compiled.
"""

import functools
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

import interventions as iv
import jaxasr
from interventions.edits import AtCell, FromRow
from jaxasr import compiled
from jaxasr.rules import Rules

B, T, H, S = 2, 3, 5, 4  # rows, queries, heads and keys of an attention pattern
V = 11  # tokens of the vocabulary


def _edit_class(
    name: str, fields: dict[str, Any], call: Callable, static: tuple[str, ...] = ()
) -> type:
    """Returns an edit class as a user would write it."""
    body = {"__annotations__": dict.fromkeys(fields, Any), "__call__": call}
    body |= {field: flax.struct.field(pytree_node=False) for field in static}
    return flax.struct.dataclass(type(name, (), body))


Times = _edit_class("Times", {"s": 0}, lambda self, x, at: x * self.s)
Plus = _edit_class("Plus", {"s": 0}, lambda self, x, at: x + self.s)
Power = _edit_class("Power", {"s": 0}, lambda self, x, at: jnp.abs(x) ** self.s)
Static = _edit_class(
    "Static",
    {"s": 0},
    lambda self, x, at: x + jnp.asarray([[self.s]]).dtype.itemsize * np.signbit(self.s),
    ("s",),
)
Typed = _edit_class("Typed", {"s": 0}, lambda self, x, at: x + len(type(self.s).__name__), ("s",))


class Plain:
    """An edit that is not a pytree."""

    def __init__(self, s: float):
        self.s = s

    def __call__(self, x: Any, at: Any) -> Any:
        return x - self.s


def _function(s: float) -> Callable:
    return lambda x, at: x * s + 1


def _added(s: float, x: Any, at: Any) -> Any:
    return x + 3 * s


def edits() -> dict[str, Any]:
    """Returns edits of an attention pattern [B, H, T, S].

    There is one of each kind, and pairs that a cache of programs may confuse.
    """
    x = np.linspace(0.1, 0.9, B * H * T * S, dtype=np.float32).reshape(B, H, T, S)
    two = jnp.float32(2)
    return {
        "Patch": iv.Patch(x[::-1].copy()),
        "Patch, partial": iv.Patch(x[::-1].copy(), partial=True),
        "Mix": iv.Mix(two, x[::-1].copy()),
        "Patch of FromRow": iv.Patch(FromRow(jnp.array([1, 0]))),
        "Add": iv.Add(x),
        "Scale": iv.Scale(two),
        "Zero": iv.Zero(),
        "Project": iv.Project.span(jnp.eye(S)[:2]),
        "Project, keep": iv.Project.span(jnp.eye(S)[:2], keep=True),
        "Chain": iv.chain(iv.Scale(two), Plus(two)),
        "Chain, turned": iv.chain(Plus(two), iv.Scale(two)),
        "Restrict": iv.only(iv.Scale(two), heads=1),
        "Restrict, positions": iv.only(iv.Scale(two), positions=1),
        "Restrict, frames": iv.only(iv.Scale(two), frames=slice(0, 2)),
        "Restrict, rows": iv.only(iv.Scale(two), rows=1),
        "Restrict of Plus": iv.only(Plus(two), heads=1),
        "Knockout": iv.knockout([1, 2]),
        "AttendOnlyTo": iv.attend_only_to([1, 2]),
        "Knockout, range": iv.knockout(range(1, 3)),
        "AttendOnlyTo, range": iv.attend_only_to(range(1, 3)),
        "freeze": iv.freeze_pattern(x * 2),
        "Times": Times(two),
        "Plus": Plus(two),
        "Power": Power(two),
        "Static 0.0": Static(0.0),
        "Static -0.0": Static(-0.0),
        "Typed 1": Typed(1),
        "Typed True": Typed(True),
        "Typed 1.0": Typed(1.0),
        "Plain 1": Plain(1.0),
        "Plain 2": Plain(2.0),
        "function 1": _function(1.0),
        "function 2": _function(2.0),
        "partial 1": functools.partial(_added, 1),
        "partial 1.5": functools.partial(_added, 1.5),
        "method": iv.Scale(jnp.float32(3)).__call__,
    }


def metrics() -> dict[str, Any]:
    """Returns metrics: one of each kind, and classes with equal fields."""
    answer = jnp.array([3, 4])
    Own = _edit_class("Own", {"answer": 0}, lambda self, logits: logits.sum(-1) + self.answer)
    Other = _edit_class("Other", {"answer": 0}, lambda self, logits: logits.max(-1) - self.answer)
    return {
        "logprob": iv.logprob(answer),
        "rank": iv.metrics.rank(answer),
        "logprob, first": iv.logprob(answer, 0),
        "rank, first": iv.metrics.rank(answer, 0),
        "logit_diff": iv.logit_diff(answer, 5),
        "kl": iv.kl(np.linspace(0, 1, B * V, dtype=np.float32).reshape(B, V)),
        "Own": Own(answer),
        "Other": Other(answer),
    }


def readouts() -> dict[str, Any]:
    """Returns readouts of one site."""
    site = "decoder.attn.pattern"
    return {
        "select": jaxasr.select(site),
        "reduce, sum": jaxasr.reduce("name", site, jnp.sum),
        "reduce, max": jaxasr.reduce("name", site, jnp.max),
        "reduce, own": jaxasr.reduce("name", site, functools.partial(_function(3.0), at=None)),
        "reduce, other name": jaxasr.reduce("other", site, jnp.sum),
        "merge": jaxasr.merge(jaxasr.select(site), jaxasr.reduce("name", site, jnp.sum)),
    }


def rules() -> dict[str, Any]:
    """Returns generation rules: one of each kind, and classes with equal fields."""
    suppress = jnp.arange(V) == 2
    none = jnp.zeros(V, bool)
    kinds = {
        f"Rules {timestamps} {begin}": Rules(suppress, none, jnp.int32(1), timestamps, V - 1, begin)
        for timestamps in (False, True)
        for begin in (6, 7)
    }
    fields = {"suppress": 0, "begin": 0, "at": 0}
    First = _edit_class(
        "First", fields, lambda self, logits, *_: jnp.where(self.suppress, 0, logits) + self.at
    )
    Second = _edit_class(
        "Second", fields, lambda self, logits, *_: jnp.where(self.begin, 0, logits) * self.at
    )
    return kinds | {
        "First": First(suppress, none, jnp.int32(4)),
        "Second": Second(suppress, none, jnp.int32(4)),
    }


def _edit_all(x: Any, at: Any, edit: Any) -> Any:
    return edit(x, at)


def _score(logits: Any, metric: Any) -> Any:
    return metric(logits)


def _read(x: Any, readout: Any) -> Any:
    return readout({"decoder.attn.pattern": x})


def _rule(logits: Any, tokens: Any, rule: Any) -> Any:
    return rule(logits, tokens, jnp.int32(2), 2)


def calls() -> dict[str, tuple[Callable, tuple, Any]]:
    """Returns, for every kind, a function, its arrays, and its edit, metric, readout or rule."""
    x = jnp.asarray(np.random.default_rng(0).random((B, H, T, S), np.float32))
    logits = jnp.asarray(np.random.default_rng(1).normal(size=(B, V)), jnp.float32)
    tokens = jnp.array([[1, 2, 0, 0], [3, 7, 0, 0]], jnp.int32)
    positions = jnp.broadcast_to(jnp.arange(T), (B, T))
    at = jaxasr.At(
        jnp.int32(1),
        positions,
        jnp.broadcast_to(jnp.arange(S), (B, S)),
        "decoder.cross_attn.pattern",
    )
    at_z = jaxasr.At(jnp.int32(1), positions, keys=None, site="decoder.cross_attn.z")
    z = jnp.moveaxis(x, 1, 2)
    kinds = {f"edit {name}": (_edit_all, (x, at), edit) for name, edit in edits().items()}
    noise = {
        "Noise": iv.Noise(3),
        "Noise, replace": iv.Noise(3, replace=True),
        "Times at z": Times(2.0),
        "Plus at z": Plus(2.0),
    }
    kinds |= {f"edit {name}": (_edit_all, (z, at_z), edit) for name, edit in noise.items()}
    cell = {"layer": jnp.int32(1), "head": jnp.int32(2)}
    frames = (jnp.int32(1), jnp.int32(S))
    for name, edit in {
        "Zero": iv.Zero(),
        "Scale": iv.Scale(2.0),
        "Plus": Plus(2.0),
        "Times": Times(2.0),
    }.items():
        kinds[f"edit AtCell {name}"] = (
            _edit_all,
            (z, at_z),
            AtCell(edit, "decoder.cross_attn.z", *frames)(cell)["decoder.cross_attn.z"],
        )
    kinds |= {f"metric {name}": (_score, (logits,), metric) for name, metric in metrics().items()}
    kinds |= {f"readout {name}": (_read, (x,), readout) for name, readout in readouts().items()}
    return kinds | {
        f"rule {name}": (_rule, (logits, tokens), rule) for name, rule in rules().items()
    }


def result(name: str, kinds: dict, compile_it: bool = True) -> str:
    """Returns the result of one kind as text. With `compile_it=False`, compiles nothing."""
    function, arrays, kind = kinds[name]
    out = compiled.call(function, *arrays, kind) if compile_it else function(*arrays, kind)
    return " ".join(
        f"{value:.4f}"
        for leaf in jax.tree.leaves(out)
        for value in np.asarray(leaf, np.float64).ravel()
    )


def main() -> int:
    kinds = calls()
    if len(sys.argv) > 1:
        print(result(sys.argv[1], kinds))
        return 0
    wrong = []
    command = [sys.executable, "-m", "tests.attacks.program_pairs"]
    fresh = {
        name: subprocess.run(
            [*command, name], check=True, capture_output=True, text=True
        ).stdout.strip()
        for name in kinds
    }
    for order in (list(kinds), list(kinds)[::-1]):
        compiled._jitted.cache_clear()
        wrong += [name for name in order if result(name, kinds) != fresh[name]]
    pairs = sum(a[0] is b[0] for a in kinds.values() for b in kinds.values()) - len(kinds)
    print(
        f"jax {jax.__version__}: {len(kinds)} kinds, {pairs} ordered pairs, "
        f"{len(wrong)} wrong {wrong}"
    )
    return bool(wrong)


if __name__ == "__main__":
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    sys.exit(main())
