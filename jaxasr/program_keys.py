"""Exact keys of compiled programs. Programs with equal keys compute the same.

Python's `==` is not enough, for three reasons (docs/decisions/0015):

* `1 == True == 1.0`, but they compile to different programs.
* In some versions of JAX, the structures of two dataclasses with equally many fields are equal.
* A function remains equal to itself when a global that it reads changes.
"""

import collections
import enum
import functools
import hashlib
import types
from collections.abc import Hashable, Iterable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.core import Tracer
from jax.tree_util import PyTreeDef

from jaxasr.installed_code import is_library_file, is_library_module


class Key:
    """The key of a value, hashed once. Two values have equal keys only if their programs are equal.

    Keys compare values as follows:

    * Numbers, strings, containers, NumPy arrays and dataclasses: by type and content.
    * Structures of pytrees: by the types and static fields of their nodes.
    * Functions: by identity, defaults, closure, attributes, and the globals that they read.
    * Classes: by identity, methods and attributes.
    * Flax modules: by structure and by the identity of their arrays.
    * JAX arrays, Python modules and enum members: by identity alone.
    * Functions and classes of other modules, and objects of installed libraries, that a function
      refers to: by identity alone.
    * Other objects: by `==` and by their attributes.

    A key assumes that the code of installed libraries is constant. The packages of this project
    count as installed libraries.

    Args:
        value: any pytree, function or object.

    Raises:
        TypeError: `value` contains an object that has no hash and no attributes.

    Example:
        >>> Key(1) == Key(True)
        False
    """

    __slots__ = ("_hash", "parts")

    def __init__(self, value: Any):
        self.parts = _Reader().read(value)
        self._hash = hash(self.parts)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Key) and self._hash == other._hash and self.parts == other.parts

    def __hash__(self) -> int:
        return self._hash


class _Identity:
    """Compares by identity. Keeps its object alive, so that no other object gets the same id."""

    __slots__ = ("value",)

    def __init__(self, value: Any):
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Identity) and self.value is other.value

    def __hash__(self) -> int:
        return id(self.value)


class _Reader:
    """Converts one value to the parts of a key."""

    def __init__(self) -> None:
        self.ancestors: list[int] = []  # ids of the objects being read, outermost first
        self.already_read: set[int] = set()  # ids of functions, classes and objects in the key

    def read(self, value: Any, shallow: bool = False) -> Hashable:
        """Returns the parts of the key of a value.

        Args:
            value: any value.
            shallow: compare objects of installed libraries by identity, unless they are
                containers, dataclasses or functions.
        """
        kind = type(value)
        if kind is str or value is None:
            return value
        if kind is bool or kind is int:
            return kind, value
        if kind is tuple:  # a fast path, because tuples are most of a model's structure
            return kind, tuple(
                [item if type(item) is str else self.read(item, shallow) for item in value]
            )
        if isinstance(value, float | complex):
            return kind, repr(value)  # -0.0 differs from 0.0, NaN equals NaN
        if isinstance(value, jax.Array | types.ModuleType | enum.Enum | Tracer):
            return _Identity(value)
        if id(value) in self.ancestors:  # the value contains itself
            return "cycle", self.ancestors.index(id(value))
        if isinstance(value, types.FunctionType | type):
            if id(value) in self.already_read:
                return _Identity(value)
            self.already_read.add(id(value))
        self.ancestors.append(id(value))
        try:
            return self._read_by_type(value, kind, shallow)
        finally:
            self.ancestors.pop()

    def _read_by_type(self, value: Any, kind: type, shallow: bool) -> Hashable:
        def read(part: Any) -> Hashable:
            return self.read(part, shallow)

        match value:
            case type():
                return _Identity(value), () if is_library_module(value.__module__) else tuple(
                    self._read_members(value)
                )
            case Mapping():
                return (
                    kind,
                    tuple([(read(name), read(item)) for name, item in value.items()]),
                    self._read_attributes(value),
                )
            case PyTreeDef():
                return self._read_treedef(value)
            case tuple() | list() | collections.deque():
                return kind, tuple(map(read, value)), self._read_attributes(value)
            case nnx.Module() | nnx.Variable():
                # The hash of a treedef distinguishes types that its `==` does not distinguish.
                leaves, tree = jax.tree.flatten(value)
                return hash(tree), tree, tuple(map(_Identity, leaves))
            case set() | frozenset():
                return kind, frozenset(map(read, value)), self._read_attributes(value)
            case bytes():
                return kind, value
            case np.ndarray() | np.generic() if value.dtype != object:
                return kind, value.dtype, value.shape, hashlib.sha256(value.tobytes()).digest()
            case functools.partial():
                return kind, read(value.func), read(value.args), read(value.keywords)
            case types.MethodType():
                return kind, read(value.__func__), read(value.__self__)
            case types.FunctionType():
                return _Identity(value), tuple(self._read_references(value))
        if hasattr(kind, "__dataclass_fields__"):
            return self.read(kind), self._read_attributes(value)
        if shallow and is_library_module(kind.__module__) and kind is not types.SimpleNamespace:
            return _Identity(value)
        return self._read_object(value, kind)

    def _read_treedef(self, tree: Any) -> Hashable:
        """Returns the types and static fields of the nodes of a treedef."""
        if (node := tree.node_data()) is None:  # a leaf
            return None
        kind, static = node
        return self.read(kind), self.read(static), tuple(map(self._read_treedef, tree.children()))

    def _read_object(self, value: Any, kind: type) -> Hashable:
        """Returns the parts of an object whose type has no rule of its own."""
        if kind.__hash__ is None and not hasattr(value, "__dict__") and not _find_slots(kind):
            raise TypeError(
                "A static value must be hashable, or a pytree whose leaves are arrays; "
                f"got {kind.__name__}."
            )
        # An object is compared by `==` if its class defines it, and by identity otherwise.
        defines_equality = kind.__hash__ is not None and kind.__eq__ is not object.__eq__
        if defines_equality:
            return (
                self.read(kind),
                value,
                () if is_library_module(kind.__module__) else self._read_attributes(value),
            )
        if id(value) in self.already_read:
            return _Identity(value)
        self.already_read.add(id(value))
        return self.read(kind), _Identity(value), self._read_attributes(value)

    def _read_attributes(self, value: Any) -> Hashable:
        """Returns the fields, slots and attributes of an object."""
        kind = type(value)
        names = (*getattr(kind, "__dataclass_fields__", ()), *_find_slots(kind))
        attributes = {name: getattr(value, name) for name in names if hasattr(value, name)}
        return self._read_items({**attributes, **getattr(value, "__dict__", {})}.items())

    def _read_items(self, items: Iterable[tuple[str, Any]]) -> Hashable:
        return tuple((name, self.read(item, shallow=True)) for name, item in items)

    def _read_members(self, kind: type) -> Iterator[Hashable]:
        """Yields the methods and attributes of a class and of its bases outside of libraries."""
        for base in kind.__mro__:
            for name, member in () if is_library_module(base.__module__) else vars(base).items():
                if isinstance(member, property):
                    yield name, self.read((member.fget, member.fset), shallow=True)
                elif isinstance(member, staticmethod | classmethod):
                    yield name, self.read(member.__func__, shallow=True)
                elif isinstance(member, types.FunctionType) or not name.startswith("__"):
                    yield name, self.read(member, shallow=True)

    def _read_references(self, function: types.FunctionType) -> Iterator[Hashable]:
        if is_library_file(function.__code__.co_filename):
            return
        keyword_defaults = function.__kwdefaults__ or {}
        yield self._read_items(
            [("", function.__defaults__), *keyword_defaults.items(), *vars(function).items()]
        )
        closure = map(_read_cell, function.__closure__ or ())
        yield self._read_items(zip(function.__code__.co_freevars, closure))
        for name in _find_global_names(function.__code__):
            if name in function.__globals__:
                value = function.__globals__[name]
                is_code = isinstance(value, types.FunctionType | type)
                # Functions and classes of other modules count by identity, as `Key` describes.
                is_imported = is_code and value.__module__ != function.__module__
                yield name, _Identity(value) if is_imported else self.read(value, shallow=True)


@functools.cache
def _find_slots(kind: type) -> tuple[str, ...]:
    """Returns the names in `__slots__` of a class and its bases, which `__dict__` lacks."""
    return tuple(
        name
        for base in kind.__mro__
        for name in _as_tuple(vars(base).get("__slots__", ()))
        if not name.startswith("__")
    )


def _as_tuple(slots: Any) -> tuple[str, ...]:
    return (slots,) if isinstance(slots, str) else tuple(slots)


def _read_cell(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # the variable is not assigned yet
        return None


@functools.cache
def _find_global_names(code: types.CodeType) -> tuple[str, ...]:
    """Returns the global names that `code` and the functions defined in it use."""
    inner = (const for const in code.co_consts if isinstance(const, types.CodeType))
    inner_names = (name for inner_code in inner for name in _find_global_names(inner_code))
    return tuple(dict.fromkeys([*code.co_names, *inner_names]))
