"""Computes fingerprints of values and code that are the same in every process.

A cached result is used only if the fingerprint of its inputs is unchanged. Equal values of
different types, such as 1, True and 1.0, have different fingerprints.

The fingerprint of a function of the user covers its bytecode, constants, defaults and closure, and
the globals that it reads. The fingerprint of a function of an installed package covers its name.
The fingerprint of a function of our packages covers its name and the source text of its module.
"""

import dataclasses
import enum
import functools
import hashlib
import types
from collections.abc import Iterable, Mapping
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from interventions.storage import code_inspection as code
from jaxasr.installed_code import is_library_file

# Types whose values are described by their `repr`.
_PLAIN = (type(None), bool, int, float, complex, str, bytes, type(...), type(NotImplemented))
# Attributes of functions that do not change the results of the functions.
_IGNORED_ATTRIBUTES = {"__signature__", "__type_params__", "__annotations__"}
# Attributes of code objects that a fingerprint covers.
_CODE_ATTRIBUTES = (
    "co_code",
    "co_exceptiontable",
    "co_flags",
    "co_argcount",
    "co_posonlyargcount",
    "co_kwonlyargcount",
)
# More such attributes: the names that the code uses.
_CODE_NAMES = ("co_names", "co_varnames", "co_freevars", "co_cellvars")


def fingerprint(**values: Any) -> str:
    """Computes a SHA-256 of values that is the same in every process.

    Args:
        values: arrays, numbers, texts, containers, functions, classes or instances of classes.

    Returns:
        The digest in hexadecimal.

    Raises:
        ValueError: a value, or an object that a function refers to, has no description that is the
            same in every process. The message names the object.

    Example:
        >>> fingerprint(scale=1.0) == fingerprint(scale=1.0)
        True
        >>> fingerprint(scale=1.0) == fingerprint(scale=1)
        False
    """
    return _Hasher().digest(values, "")


class _Hasher:
    """Computes the digest of a value and everything that it refers to.

    If a value contains itself, the number of levels between both occurrences describes the inner
    one.
    """

    def __init__(self) -> None:
        self.in_progress: list[int] = []  # ids of the values that contain the current one
        # Digest and value, by the id of the value. Python cannot reuse the id of a value that is
        # kept here.
        self.finished: dict[int, tuple[str, Any]] = {}

    def digest(self, value: Any, where: str) -> str:
        """Returns the digest of `value`, which error messages call `where`."""
        if isinstance(value, _PLAIN):
            return _hash(type(value).__name__, value.hex() if type(value) is float else repr(value))
        if isinstance(value, np.ndarray | np.generic | jax.Array):
            return _hash_array(value, where)
        if id(value) in self.finished:
            return self.finished[id(value)][0]
        if id(value) in self.in_progress:
            levels = len(self.in_progress) - self.in_progress.index(id(value))
            return _hash("above", str(levels))
        self.in_progress.append(id(value))
        digest = _hash(*self._description(value, where))
        self.in_progress.pop()
        self.finished[id(value)] = digest, value
        return digest

    def _attributes(self, value: Any, names: Iterable[str], where: str) -> Iterable[str]:
        return (self.digest(getattr(value, name), where) for name in names)

    def _description(self, value: Any, where: str) -> Iterable[str]:
        """Returns the type of a value, and the digests of its contents."""
        match value:
            case enum.Enum():
                cls, content = type(value), self.digest(value.value, where)
                return "enum", cls.__module__, cls.__qualname__, value.name, content
            case tuple() | list():
                items = (self.digest(item, f"{where}[{i}]") for i, item in enumerate(value))
                return type(value).__name__, self.digest(type(value), where), *items
            case set() | frozenset():
                # A new _Hasher per item, because the order of a set differs between processes.
                items = sorted(_Hasher().digest(item, f"{where} item") for item in value)
                return type(value).__name__, *items
            case Mapping():
                return "mapping", self.digest(type(value), where), *self._items(value, where)
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
                    self.digest(value.func, f"{where}.func"),
                    self.digest(value.args, f"{where}.args"),
                    self.digest(value.keywords, f"{where}.keywords"),
                )
            case types.MethodType():
                owner = self.digest(value.__self__, f"{where}.__self__")
                return "method", self.digest(value.__func__, where), owner
            case types.FunctionType():
                return self._function(value, where)
            case types.CodeType():
                return self._code(value, where)
            case staticmethod() | classmethod():
                return type(value).__name__, self.digest(value.__func__, where)
            case property():
                return "property", *self._attributes(value, ("fget", "fset", "fdel"), where)
            case functools.cached_property():
                return "property", self.digest(value.func, where)
            case types.MemberDescriptorType() | types.GetSetDescriptorType():
                return "slot", value.__name__
            case nnx.Variable():
                return "variable", self.digest(type(value), where), self.digest(value[...], where)
            case nnx.Module():
                members = vars(value).items()
                named = {name: item for name, item in members if not name.startswith("_pytree__")}
                return "module", self.digest(type(value), where), self.digest(named, where)
        return self._object(value, where)

    def _items(self, mapping: Mapping[Any, Any], where: str) -> Iterable[str]:
        """Returns the digests of keys and values, sorted by the digests of the keys."""
        items = [(_Hasher().digest(key, where), key, item) for key, item in mapping.items()]
        for digest, key, item in sorted(items, key=lambda entry: entry[0]):
            yield digest
            yield self.digest(item, f"{where}.{key}" if where else str(key))

    def _object(self, value: Any, where: str) -> Iterable[str]:
        if dataclasses.is_dataclass(value):
            fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
            # Attributes of our dataclasses that are not fields are caches.
            fields |= {} if code.is_ours(type(value)) else getattr(value, "__dict__", {})
            return "object", self.digest(type(value), where), self.digest(fields, where)
        if callable(wrapped := getattr(value, "__wrapped__", None)):  # jax.jit and the like
            return "wrapped", type(value).__name__, self.digest(wrapped, where)
        if code.is_found_by_name(value):
            return "named", value.__module__ or "", value.__qualname__
        if isinstance(value, np.ufunc | jnp.ufunc):
            return "ufunc", type(value).__module__, cast(Any, value).__name__
        if type(value) is object:  # a marker without content
            return ("sentinel",)
        if hasattr(value, "__dict__") and not code.is_from_known_module(type(value)):
            return "object", self.digest(type(value), where), self.digest(dict(vars(value)), where)
        raise ValueError(
            f"{where}: a {type(value).__module__}.{type(value).__qualname__} has no description "
            "that is the same in another process, so a stored result cannot be matched to it. Use "
            "arrays, numbers, functions and dataclasses of them, or leave out store=."
        )

    def _class(self, cls: type, where: str) -> Iterable[str]:
        name = "class", cls.__module__, cls.__qualname__
        if code.is_ours(cls):
            return *name, code.source_digest(cls.__module__)
        if code.is_from_known_module(cls):
            return name
        bases = (self.digest(base, where) for base in cls.__bases__)
        members = {
            key: member for key, member in vars(cls).items() if not code.is_generated(key, member)
        }
        parts = (
            part
            for key in sorted(members)
            for part in (key, self.digest(members[key], f"{where}: {cls.__qualname__}.{key}"))
        )
        return *name, *bases, *parts

    def _function(self, fn: types.FunctionType, where: str) -> Iterable[str]:
        function_name = f"{where}: {fn.__qualname__}"
        name = "function", fn.__module__ or "", fn.__qualname__
        file = fn.__code__.co_filename
        # The file is checked too, because functools.wraps copies the name of the wrapped module.
        is_known = (code.is_ours(fn) or code.is_from_known_module(fn)) and is_library_file(file)
        if is_known and "<locals>" not in fn.__qualname__:
            return *name, code.source_digest(fn.__module__) if code.is_ours(fn) else ""
        attributes = {k: v for k, v in vars(fn).items() if k not in _IGNORED_ATTRIBUTES}
        parts = [code.closure_values(fn), fn.__defaults__, fn.__kwdefaults__, attributes]
        # The name of a function of an installed package suffices, so its code is not described.
        if not code.is_installed_file(file):
            parts += [fn.__code__, code.read_globals(fn)]
        return *name, *(self.digest(part, function_name) for part in parts)

    def _code(self, compiled: types.CodeType, where: str) -> Iterable[str]:
        attributes = (
            repr(getattr(compiled, name, None)) for name in (*_CODE_ATTRIBUTES, *_CODE_NAMES)
        )
        return "code", *attributes, *(self.digest(const, where) for const in compiled.co_consts)


def _hash(*parts: str) -> str:
    """Computes a digest of strings and their lengths, so that ("ab", "c") differs from ("abc",)."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode("utf-8", "surrogatepass")
        digest.update(f"{len(data)} ".encode() + data)
    return digest.hexdigest()


def _hash_array(value: Any, where: str) -> str:
    if isinstance(value, jax.Array) and jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
        return _hash("key", str(value.dtype), _hash_array(jax.random.key_data(value), where))
    array = np.asarray(value)
    if array.dtype.hasobject:
        raise ValueError(
            f"{where}: expected an array of numbers or texts, got one of objects, "
            "which has no stable description."
        )
    contents = hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()
    return _hash("array", str(array.dtype), str(array.shape), contents)
