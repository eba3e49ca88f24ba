"""Exact keys of compiled programs: two keys are equal only if the programs compute the same from equal arrays.

`==` does not decide that. `1 == True == 1.0`; with some versions of JAX the structures of two dataclasses with as many
fields are equal; and a function stays equal to itself while a global that it reads changes.
"""

import collections
import enum
import functools
import hashlib
import os
import sys
import sysconfig
import types
from collections.abc import Hashable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.tree_util import PyTreeDef

_ROOT = Path(__file__).parents[1]
_LIBRARIES = tuple({
    *(sysconfig.get_paths()[name] + os.sep for name in ("stdlib", "platstdlib", "purelib", "platlib")),
    *(str(_ROOT / package) + os.sep for package in ("jaxasr", "interventions", "experiments")),
})  # fmt: skip
_INSTALLED = ("site-packages", "dist-packages")  # also those of a user, or named by PYTHONPATH


class Key:
    """Holds the key of a value, hashed once.

    The key differs wherever the value could make a program differ. Read by content: numbers and strings with their types,
    containers, NumPy arrays, dataclasses, the attributes of an object, and the structure of pytrees, in which types of
    nodes count by identity. A function counts by identity and by what it reads: its defaults, its closure, its attributes,
    and the globals of its module; a class by its methods and attributes. Globals of other modules, and objects of installed
    libraries that a function refers to, count by identity, flax modules by their structure and the identity of their arrays.
    The code of installed libraries is taken as constant.

    Raises:
        TypeError: for an object that can neither be hashed nor read.
    """

    __slots__ = ("_hash", "parts")

    def __init__(self, value: Any):
        self.parts = _Reader().read(value)
        self._hash = hash(self.parts)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Key) and self._hash == other._hash and self.parts == other.parts

    def __hash__(self) -> int:
        return self._hash


class _Same:
    """Compares by identity, and keeps its object alive so that no other can take its place."""

    __slots__ = ("value",)

    def __init__(self, value: Any):
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self.value is other.value

    def __hash__(self) -> int:
        return id(self.value)


class _Reader:
    def __init__(self) -> None:
        self.open: list[int] = []  # the objects that are being read, each within the one before
        self.met: set[int] = (
            set()
        )  # functions, classes and objects whose content is in the key already

    def read(self, value: Any, shallow: bool = False) -> Hashable:
        """Returns the key of `value`; `shallow`: of an object that is no container, dataclass or function, its identity."""
        kind = type(value)
        if kind is str or value is None:
            return value
        if kind is bool or kind is int:
            return kind, value
        if kind is tuple:  # most of the structure of a model
            return kind, tuple(
                [item if type(item) is str else self.read(item, shallow) for item in value]
            )
        if isinstance(value, float | complex):
            return kind, repr(value)  # -0.0 differs from 0.0, NaN equals NaN
        if isinstance(value, jax.Array | types.ModuleType | enum.Enum | jax.core.Tracer):
            return _Same(value)
        if id(value) in self.open:
            return "cycle", self.open.index(id(value))
        if isinstance(value, types.FunctionType | type):
            if id(value) in self.met:
                return _Same(value)
            self.met.add(id(value))
        self.open.append(id(value))
        try:
            return self._parts(value, kind, shallow)
        finally:
            self.open.pop()

    def _parts(self, value: Any, kind: type, shallow: bool) -> Hashable:
        def read(part: Any) -> Hashable:
            return self.read(part, shallow)

        match value:
            case type():
                return _Same(value), () if _is_of_library(value) else tuple(self._methods(value))
            case Mapping():
                return (
                    kind,
                    tuple([(read(name), read(item)) for name, item in value.items()]),
                    self._attributes(value),
                )
            case PyTreeDef():
                return self._structure(value)
            case tuple() | list() | collections.deque():
                return kind, tuple(map(read, value)), self._attributes(value)
            case nnx.Module() | nnx.Variable():
                leaves, tree = jax.tree.flatten(value)
                return hash(tree), tree, tuple(map(_Same, leaves))
            case set() | frozenset():
                return kind, frozenset(map(read, value)), self._attributes(value)
            case bytes():
                return kind, value
            case np.ndarray() | np.generic() if value.dtype != object:
                return kind, value.dtype, value.shape, hashlib.sha256(value.tobytes()).digest()
            case functools.partial():
                return kind, read(value.func), read(value.args), read(value.keywords)
            case types.MethodType():
                return kind, read(value.__func__), read(value.__self__)
            case types.FunctionType():
                return _Same(value), tuple(self._read_by(value))
        if hasattr(kind, "__dataclass_fields__"):
            return self.read(kind), self._attributes(value)
        if shallow and _is_of_library(kind) and kind is not types.SimpleNamespace:
            return _Same(value)
        return self._object(value, kind)

    def _structure(self, tree: Any) -> Hashable:
        if (node := tree.node_data()) is None:
            return None
        kind, static = node
        return self.read(kind), self.read(static), tuple(map(self._structure, tree.children()))

    def _object(self, value: Any, kind: type) -> Hashable:
        if kind.__hash__ is None and not hasattr(value, "__dict__") and not _slots(kind):
            raise TypeError(
                f"A static value must be hashable, or a pytree whose leaves are arrays; got {kind.__name__}."
            )
        if (
            kind.__hash__ is not None and kind.__eq__ is not object.__eq__
        ):  # its class defines which of its objects are equal
            return self.read(kind), value, () if _is_of_library(kind) else self._attributes(value)
        if id(value) in self.met:
            return _Same(value)
        self.met.add(id(value))
        return self.read(kind), _Same(value), self._attributes(value)

    def _attributes(self, value: Any) -> Hashable:
        names = [
            name
            for name in (*getattr(type(value), "__dataclass_fields__", ()), *_slots(type(value)))
            if hasattr(value, name)
        ]
        return self._named(
            {
                **{name: getattr(value, name) for name in names},
                **getattr(value, "__dict__", {}),
            }.items()
        )

    def _named(self, items: Iterable[tuple[str, Any]]) -> Hashable:
        return tuple((name, self.read(item, shallow=True)) for name, item in items)

    def _methods(self, kind: type) -> Iterator[Hashable]:
        for base in kind.__mro__:
            for name, member in () if _is_of_library(base) else vars(base).items():
                if isinstance(member, property):
                    yield name, self.read((member.fget, member.fset), shallow=True)
                elif isinstance(member, staticmethod | classmethod):
                    yield name, self.read(member.__func__, shallow=True)
                elif isinstance(member, types.FunctionType) or not name.startswith("__"):
                    yield name, self.read(member, shallow=True)

    def _read_by(self, function: types.FunctionType) -> Iterator[Hashable]:
        if _in_library(function.__code__.co_filename):
            return
        yield self._named(
            [
                ("", function.__defaults__),
                *(function.__kwdefaults__ or {}).items(),
                *vars(function).items(),
            ]
        )
        yield self._named(
            zip(function.__code__.co_freevars, map(_content, function.__closure__ or ()))
        )
        for name in _names(function.__code__):
            if name in function.__globals__:
                value = function.__globals__[name]
                elsewhere = (
                    isinstance(value, types.FunctionType | type)
                    and value.__module__ != function.__module__
                )
                yield name, _Same(value) if elsewhere else self.read(value, shallow=True)


@functools.cache
def _in_library(file: str) -> bool:
    return file.startswith(_LIBRARIES) or not set(_INSTALLED).isdisjoint(Path(file).parts)


@functools.cache
def _slots(kind: type) -> tuple[str, ...]:
    return tuple(
        name
        for base in kind.__mro__
        for name in _listed(vars(base).get("__slots__", ()))
        if not name.startswith("__")
    )


def _listed(slots: Any) -> tuple[str, ...]:
    return (slots,) if isinstance(slots, str) else tuple(slots)


@functools.cache
def _is_of_library(kind: type) -> bool:
    module = sys.modules.get(kind.__module__)
    return kind.__module__ == "builtins" or _in_library(getattr(module, "__file__", None) or "")


def _content(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not assigned yet
        return None


@functools.cache
def _names(code: types.CodeType) -> tuple[str, ...]:
    """Returns the names that code, and the functions within it, may look up in their module."""
    within = (const for const in code.co_consts if isinstance(const, types.CodeType))
    return tuple(
        dict.fromkeys([*code.co_names, *(name for inner in within for name in _names(inner))])
    )
