"""Digests of values and of code that are the same in every process: what a kept result depends on.

Values are told apart by type as well: 1, True and 1.0 differ, and so do two classes with equal fields. Code counts by what it does:
bytecode, constants, defaults, what a closure holds, and the functions and values of its module that it names. Of installed packages the
name counts, of this one also the text of the module.
"""

import dataclasses
import dis
import enum
import functools
import hashlib
import inspect
import sys
import sysconfig
import types
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

_OURS = ("jaxasr", "interventions", "experiments")
_ROOT = Path(__file__).resolve().parents[1]
_PLAIN = (type(None), bool, int, float, complex, str, bytes, type(...), type(NotImplemented))
# Of a class: what Python, dataclasses and flax make from the rest of it, and caches.
_MADE = {
    *(
        "__module__",
        "__qualname__",
        "__doc__",
        "__dict__",
        "__weakref__",
        "__annotations__",
        "__annotate__",
        "__annotate_func__",
    ),
    *(
        "__annotations_cache__",
        "__firstlineno__",
        "__static_attributes__",
        "__type_params__",
        "__orig_bases__",
        "__parameters__",
    ),
    *(
        "__dataclass_params__",
        "__dataclass_fields__",
        "__match_args__",
        "__slots__",
        "__abstractmethods__",
        "_abc_impl",
        "__hash__",
    ),
    *(
        "__init__",
        "__eq__",
        "__repr__",
        "__setattr__",
        "__delattr__",
        "__replace__",
        "_flax_dataclass",
        "replace",
        "__getstate__",
    ),
    *("__setstate__", "__classdictcell__", "__conditional_annotations__"),
}
_MADE_OF_FUNCTIONS = {"__signature__", "__type_params__", "__annotations__"}
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
    """A SHA-256 over `values`, in hexadecimal.

    Raises:
        ValueError: a value, or something that code refers to, cannot be described in a way that is the same in another process;
            the message says where it is.
    """
    return _Digest().of(values, "")


class _Digest:
    """Describes one value and everything that it refers to. A value inside itself is described by how far up it is met."""

    def __init__(self) -> None:
        self.above: list[int] = []  # the ids of what is being described
        self.known: dict[
            int, tuple[str, Any]
        ] = {}  # the value is held, so that nothing else can have its id

    def of(self, value: Any, where: str) -> str:
        """A digest of `value`, which errors call `where`."""
        if isinstance(value, _PLAIN):
            return _hash(type(value).__name__, value.hex() if type(value) is float else repr(value))
        if isinstance(value, np.ndarray | np.generic | jax.Array):
            return _array(value, where)
        if id(value) in self.known:
            return self.known[id(value)][0]
        if id(value) in self.above:
            return _hash("above", str(len(self.above) - self.above.index(id(value))))
        self.above.append(id(value))
        digest = _hash(*self._parts(value, where))
        self.above.pop()
        self.known[id(value)] = digest, value
        return digest

    def _parts(self, value: Any, where: str) -> Iterable[str]:
        match value:
            case enum.Enum():
                return (
                    "enum",
                    type(value).__module__,
                    type(value).__qualname__,
                    value.name,
                    self.of(value.value, where),
                )
            case tuple() | list():
                return (
                    type(value).__name__,
                    self.of(type(value), where),
                    *(self.of(v, f"{where}[{i}]") for i, v in enumerate(value)),
                )
            case set() | frozenset():
                return type(value).__name__, *sorted(
                    _Digest().of(item, f"{where} item") for item in value
                )
            case Mapping():
                items = (
                    sorted((_Digest().of(key, where), key, item) for key, item in value.items())
                    if value
                    else []
                )
                return (
                    "mapping",
                    self.of(type(value), where),
                    *(p for d, k, v in items for p in (d, self.of(v, _inside(where, k)))),
                )
            case slice() | range():
                return type(value).__name__, *(
                    self.of(getattr(value, name), where) for name in ("start", "stop", "step")
                )
            case np.dtype():
                return "dtype", str(value)
            case type():
                return self._class(value, where)
            case types.ModuleType():
                return "module", value.__name__
            case functools.partial():
                return "partial", *(
                    self.of(getattr(value, name), f"{where}.{name}")
                    for name in ("func", "args", "keywords")
                )
            case types.MethodType():
                return (
                    "method",
                    self.of(value.__func__, where),
                    self.of(value.__self__, f"{where}.__self__"),
                )
            case types.FunctionType():
                return self._function(value, where)
            case types.CodeType():
                return self._code(value, where)
            case staticmethod() | classmethod():
                return type(value).__name__, self.of(value.__func__, where)
            case property():
                return "property", *(
                    self.of(part, where) for part in (value.fget, value.fset, value.fdel)
                )
            case functools.cached_property():
                return "property", self.of(value.func, where)
            case types.MemberDescriptorType() | types.GetSetDescriptorType():
                return "slot", value.__name__
            case nnx.Variable():
                return "variable", self.of(type(value), where), self.of(value[...], where)
            case nnx.Module():
                named = {
                    name: item
                    for name, item in vars(value).items()
                    if not name.startswith("_pytree__")
                }
                return "module", self.of(type(value), where), self.of(named, where)
        return self._object(value, where)

    def _object(self, value: Any, where: str) -> Iterable[str]:
        if dataclasses.is_dataclass(value):
            fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
            fields |= {} if _is_ours(type(value)) else getattr(value, "__dict__", {})
            return "object", self.of(type(value), where), self.of(fields, where)
        if callable(wrapped := getattr(value, "__wrapped__", None)):  # jax.jit and its kind
            return "wrapped", type(value).__name__, self.of(wrapped, where)
        if _is_found_by_name(value):
            return "named", value.__module__ or "", value.__qualname__
        if isinstance(value, np.ufunc | jnp.ufunc):
            return "ufunc", type(value).__module__, value.__name__
        if type(value) is object:  # a sentinel: there is nothing in it
            return ("sentinel",)
        if hasattr(value, "__dict__") and not _is_installed(type(value)):
            return "object", self.of(type(value), where), self.of(dict(vars(value)), where)
        raise ValueError(
            f"{where}: a {type(value).__module__}.{type(value).__qualname__} has no description that is the same in another process, so "
            "what is kept cannot be matched to it. Use arrays, numbers, functions and dataclasses of them, or leave out store=."
        )

    def _class(self, cls: type, where: str) -> Iterable[str]:
        name = "class", cls.__module__, cls.__qualname__
        if _is_ours(cls):
            return *name, _source(cls.__module__)
        if _is_installed(cls):
            return name
        own = {key: item for key, item in vars(cls).items() if not _is_made(key, item)}
        parts = (
            part
            for key in sorted(own)
            for part in (key, self.of(own[key], f"{where}: {cls.__qualname__}.{key}"))
        )
        return *name, *(self.of(base, where) for base in cls.__bases__), *parts

    def _function(self, fn: types.FunctionType, where: str) -> Iterable[str]:
        here = f"{where}: {fn.__qualname__}"
        name = "function", fn.__module__ or "", fn.__qualname__
        known = (_is_ours(fn) or _is_installed(fn)) and _is_known_file(
            fn.__code__.co_filename
        )  # a wrapper takes names from what it wraps
        if known and "<locals>" not in fn.__qualname__:
            return *name, _source(fn.__module__) if _is_ours(fn) else ""
        held = dict(zip(fn.__code__.co_freevars, (_content(cell) for cell in fn.__closure__ or ())))
        own = {key: item for key, item in vars(fn).items() if key not in _MADE_OF_FUNCTIONS}
        parts = [held, fn.__defaults__, fn.__kwdefaults__, own]
        if not _is_installed_file(
            fn.__code__.co_filename
        ):  # a decorator of a package is known by its name
            parts += [fn.__code__, _globals(fn)]
        return *name, *(self.of(part, here) for part in parts)

    def _code(self, code: types.CodeType, where: str) -> Iterable[str]:
        fixed = (repr(getattr(code, name, None)) for name in (*_CODE, *_NAMES))
        return "code", *fixed, *(self.of(const, where) for const in code.co_consts)


def _hash(*parts: str) -> str:
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode("utf-8", "surrogatepass")
        digest.update(f"{len(data)} ".encode() + data)
    return digest.hexdigest()


def _inside(where: str, key: Any) -> str:
    return f"{where}.{key}" if where else str(key)


def _array(value: Any, where: str) -> str:
    if isinstance(value, jax.Array) and jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
        return _hash("key", str(value.dtype), _array(jax.random.key_data(value), where))
    array = np.asarray(value)
    if array.dtype.hasobject:
        raise ValueError(
            f"{where}: expected an array of numbers or texts, got one of objects, which has no stable description."
        )
    return _hash(
        "array",
        str(array.dtype),
        str(array.shape),
        hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest(),
    )


def _is_made(key: str, item: Any) -> bool:
    """Whether Python, dataclasses or flax made a member of a class, as opposed to one that is written there."""
    if key.startswith("_pytree__"):
        return True
    file = item.__code__.co_filename if isinstance(item, types.FunctionType) else "<string>"
    return key in _MADE and (file == "<string>" or _is_installed_file(file))


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not assigned yet
        return None


def _globals(fn: types.FunctionType) -> dict[str, Any]:
    """What the code of a function reads from its module, and what it may read from other modules of the user."""
    found = {}
    for name in _read(fn.__code__) & fn.__globals__.keys():
        found[name] = value = fn.__globals__[name]
        if isinstance(value, types.ModuleType) and not _known_module(value.__name__):
            found |= {
                f"{name}.{inner}": vars(value)[inner]
                for inner in _named(fn.__code__) & vars(value).keys()
            }
    return found


def _read(code: types.CodeType) -> set[str]:
    """The global names that code reads, that of functions inside it included."""
    own = {
        step.argval
        for step in dis.get_instructions(code)
        if step.opname in ("LOAD_GLOBAL", "LOAD_NAME")
    }
    return own.union(
        *(_read(const) for const in code.co_consts if isinstance(const, types.CodeType))
    )


def _named(code: types.CodeType) -> set[str]:
    return set(code.co_names).union(
        *(_named(const) for const in code.co_consts if isinstance(const, types.CodeType))
    )


def _is_found_by_name(value: Any) -> bool:
    """Whether a function without Python code is found again under its name."""
    return callable(value) and hasattr(value, "__qualname__") and _is_installed(value)


def _is_ours(value: Any) -> bool:
    return str(value.__module__).partition(".")[0] in _OURS


def _is_installed(value: Any) -> bool:
    return _known_module(getattr(value, "__module__", None) or "")


@functools.cache
def _known_module(name: str) -> bool:
    """Whether a module is of Python, of an installed package, or of this one: not the user's own code."""
    top = name.partition(".")[0]
    if top in _OURS or (top in sys.stdlib_module_names and top != "__main__"):
        return True
    file = getattr(sys.modules.get(name) or sys.modules.get(top), "__file__", None)
    return file is not None and _is_installed_file(file)


@functools.cache
def _is_installed_file(file: str) -> bool:
    installed = {
        Path(sysconfig.get_path(key)).resolve()
        for key in ("purelib", "platlib", "stdlib", "platstdlib")
    }
    return any(folder in Path(file).resolve().parents for folder in installed)


@functools.cache
def _is_known_file(file: str) -> bool:
    """Whether code is of an installed package or of this one."""
    return _is_installed_file(file) or any(
        _ROOT / name in Path(file).resolve().parents for name in _OURS
    )


@functools.cache
def _source(module: str) -> str:
    """A digest of the text of one of this package's modules."""
    try:
        return hashlib.sha256(inspect.getsource(sys.modules[module]).encode()).hexdigest()
    except (OSError, TypeError, KeyError):
        return ""
