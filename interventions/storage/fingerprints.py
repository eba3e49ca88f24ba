"""Fingerprints of values and code that are the same in every process.

A cached result is matched by the fingerprint of everything it depends on. Values of different types
differ: 1, True and 1.0, or two classes with equal fields. The fingerprint of a function covers its
behaviour: bytecode, constants, defaults, closure, and the functions and values of its module that it
names. Code of installed packages is covered by its name, code of this one also by its module's text.
"""

import dataclasses
import enum
import functools
import hashlib
import types
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from interventions.storage import code_inspection as code

_PLAIN = (type(None), bool, int, float, complex, str, bytes, type(...), type(NotImplemented))
_GENERATED_OF_FUNCTIONS = {"__signature__", "__type_params__", "__annotations__"}
_CODE = (
    "co_code",
    "co_exceptiontable",
    "co_flags",
    "co_argcount",
    "co_posonlyargcount",
    "co_kwonlyargcount",
)
_NAMES = ("co_names", "co_varnames", "co_freevars", "co_cellvars")


def fingerprint(**values: Any) -> str:
    """Computes a SHA-256 over values that is the same in every process.

    Args:
        values: arrays, numbers, texts, containers, functions, classes and their instances.

    Returns:
        The digest in hexadecimal.

    Raises:
        ValueError: a value, or something that code refers to, cannot be described in a way that is
            the same in another process; the message names its place.

    Example:
        >>> fingerprint(scale=1.0) == fingerprint(scale=1.0)
        True
        >>> fingerprint(scale=1.0) == fingerprint(scale=1)
        False
    """
    return _Digest().of(values, "")


class _Digest:
    """Describes a value and everything that it refers to.

    A value that contains itself is described by how many levels up it occurs.
    """

    def __init__(self) -> None:
        self.open: list[int] = []  # ids of the values that are being described
        # Holds each value, so that no other value can take its id.
        self.finished: dict[int, tuple[str, Any]] = {}

    def of(self, value: Any, where: str) -> str:
        """Returns a digest of `value`, which errors call `where`."""
        if isinstance(value, _PLAIN):
            return _hash(type(value).__name__, value.hex() if type(value) is float else repr(value))
        if isinstance(value, np.ndarray | np.generic | jax.Array):
            return _array(value, where)
        if id(value) in self.finished:
            return self.finished[id(value)][0]
        if id(value) in self.open:
            return _hash("above", str(len(self.open) - self.open.index(id(value))))
        self.open.append(id(value))
        digest = _hash(*self._parts(value, where))
        self.open.pop()
        self.finished[id(value)] = digest, value
        return digest

    def _attributes(self, value: Any, names: Iterable[str], where: str) -> Iterable[str]:
        return (self.of(getattr(value, name), where) for name in names)

    def _parts(self, value: Any, where: str) -> Iterable[str]:
        """The strings that describe a value: its kind, then digests of what it holds."""
        match value:
            case enum.Enum():
                kind, content = type(value), self.of(value.value, where)
                return "enum", kind.__module__, kind.__qualname__, value.name, content
            case tuple() | list():
                items = (self.of(item, f"{where}[{i}]") for i, item in enumerate(value))
                return type(value).__name__, self.of(type(value), where), *items
            case set() | frozenset():
                # Each item has a fresh description, because the order of a set may differ.
                items = sorted(_Digest().of(item, f"{where} item") for item in value)
                return type(value).__name__, *items
            case Mapping():
                return "mapping", self.of(type(value), where), *self._items(value, where)
            case slice() | range():
                ends = self._attributes(value, ("start", "stop", "step"), where)
                return type(value).__name__, *ends
            case np.dtype():
                return "dtype", str(value)
            case type():
                return self._class(value, where)
            case types.ModuleType():
                return "module", value.__name__
            case functools.partial():
                return (
                    "partial",
                    self.of(value.func, f"{where}.func"),
                    self.of(value.args, f"{where}.args"),
                    self.of(value.keywords, f"{where}.keywords"),
                )
            case types.MethodType():
                owner = self.of(value.__self__, f"{where}.__self__")
                return "method", self.of(value.__func__, where), owner
            case types.FunctionType():
                return self._function(value, where)
            case types.CodeType():
                return self._code(value, where)
            case staticmethod() | classmethod():
                return type(value).__name__, self.of(value.__func__, where)
            case property():
                return "property", *self._attributes(value, ("fget", "fset", "fdel"), where)
            case functools.cached_property():
                return "property", self.of(value.func, where)
            case types.MemberDescriptorType() | types.GetSetDescriptorType():
                return "slot", value.__name__
            case nnx.Variable():
                return "variable", self.of(type(value), where), self.of(value[...], where)
            case nnx.Module():
                members = vars(value).items()
                named = {name: item for name, item in members if not name.startswith("_pytree__")}
                return "module", self.of(type(value), where), self.of(named, where)
        return self._object(value, where)

    def _items(self, mapping: Mapping[Any, Any], where: str) -> Iterable[str]:
        """Digests of keys and values, in the order of the keys' digests."""
        items = [(_Digest().of(key, where), key, item) for key, item in mapping.items()]
        for digest, key, item in sorted(items, key=lambda entry: entry[0]):
            yield digest
            yield self.of(item, f"{where}.{key}" if where else str(key))

    def _object(self, value: Any, where: str) -> Iterable[str]:
        if dataclasses.is_dataclass(value):
            fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
            # An instance of a class of this package may hold caches next to its fields.
            fields |= {} if code.is_ours(type(value)) else getattr(value, "__dict__", {})
            return "object", self.of(type(value), where), self.of(fields, where)
        if callable(wrapped := getattr(value, "__wrapped__", None)):  # jax.jit and the like
            return "wrapped", type(value).__name__, self.of(wrapped, where)
        if code.is_found_by_name(value):
            return "named", value.__module__ or "", value.__qualname__
        if isinstance(value, np.ufunc | jnp.ufunc):
            return "ufunc", type(value).__module__, value.__name__
        if type(value) is object:  # a sentinel, which holds nothing
            return ("sentinel",)
        if hasattr(value, "__dict__") and not code.is_installed(type(value)):
            return "object", self.of(type(value), where), self.of(dict(vars(value)), where)
        raise ValueError(
            f"{where}: a {type(value).__module__}.{type(value).__qualname__} has no description "
            "that is the same in another process, so what is kept cannot be matched to it. Use "
            "arrays, numbers, functions and dataclasses of them, or leave out store=."
        )

    def _class(self, cls: type, where: str) -> Iterable[str]:
        name = "class", cls.__module__, cls.__qualname__
        if code.is_ours(cls):
            return *name, code.source_digest(cls.__module__)
        if code.is_installed(cls):
            return name
        bases = (self.of(base, where) for base in cls.__bases__)
        members = {
            key: member for key, member in vars(cls).items() if not code.is_generated(key, member)
        }
        parts = (
            part
            for key in sorted(members)
            for part in (key, self.of(members[key], f"{where}: {cls.__qualname__}.{key}"))
        )
        return *name, *bases, *parts

    def _function(self, fn: types.FunctionType, where: str) -> Iterable[str]:
        here = f"{where}: {fn.__qualname__}"
        name = "function", fn.__module__ or "", fn.__qualname__
        file = fn.__code__.co_filename
        # The file counts, too, because a wrapper takes the module's name from what it wraps.
        known = (code.is_ours(fn) or code.is_installed(fn)) and code.is_known_file(file)
        if known and "<locals>" not in fn.__qualname__:
            return *name, code.source_digest(fn.__module__) if code.is_ours(fn) else ""
        attributes = {k: v for k, v in vars(fn).items() if k not in _GENERATED_OF_FUNCTIONS}
        parts = [code.closure(fn), fn.__defaults__, fn.__kwdefaults__, attributes]
        if not code.is_installed_file(file):  # a decorator of a package is known by its name
            parts += [fn.__code__, code.read_globals(fn)]
        return *name, *(self.of(part, here) for part in parts)

    def _code(self, compiled: types.CodeType, where: str) -> Iterable[str]:
        fixed = (repr(getattr(compiled, name, None)) for name in (*_CODE, *_NAMES))
        return "code", *fixed, *(self.of(const, where) for const in compiled.co_consts)


def _hash(*parts: str) -> str:
    """A digest of strings, each preceded by its length, so that no two lists share one."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode("utf-8", "surrogatepass")
        digest.update(f"{len(data)} ".encode() + data)
    return digest.hexdigest()


def _array(value: Any, where: str) -> str:
    if isinstance(value, jax.Array) and jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
        return _hash("key", str(value.dtype), _array(jax.random.key_data(value), where))
    array = np.asarray(value)
    if array.dtype.hasobject:
        raise ValueError(
            f"{where}: expected an array of numbers or texts, got one of objects, "
            "which has no stable description."
        )
    contents = hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()
    return _hash("array", str(array.dtype), str(array.shape), contents)
