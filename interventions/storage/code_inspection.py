"""Finds where code comes from and which global values it reads, for fingerprints of code."""

import dis
import functools
import hashlib
import inspect
import sys
import sysconfig
import types
from pathlib import Path
from typing import Any

_OURS = ("jaxasr", "interventions", "experiments")
_ROOT = Path(__file__).resolve().parents[2]
# Members that Python, dataclasses and flax add to a class, and caches.
_GENERATED = {
    "__module__", "__qualname__", "__doc__", "__dict__", "__weakref__", "__annotations__",
    "__annotate__", "__annotate_func__", "__annotations_cache__", "__firstlineno__",
    "__static_attributes__", "__type_params__", "__orig_bases__", "__parameters__",
    "__dataclass_params__", "__dataclass_fields__", "__match_args__", "__slots__",
    "__abstractmethods__", "_abc_impl", "__hash__", "__init__", "__eq__", "__repr__",
    "__setattr__", "__delattr__", "__replace__", "_flax_dataclass", "replace", "__getstate__",
    "__setstate__", "__classdictcell__", "__conditional_annotations__",
}  # fmt: skip


def is_generated(name: str, member: Any) -> bool:
    """Whether Python, dataclasses or flax added a member to a class."""
    if name.startswith("_pytree__"):
        return True
    file = member.__code__.co_filename if isinstance(member, types.FunctionType) else "<string>"
    return name in _GENERATED and (file == "<string>" or is_installed_file(file))


def closure(fn: types.FunctionType) -> dict[str, Any]:
    """The values that a function's closure holds, by name; None for those not assigned yet."""
    cells = fn.__closure__ or ()
    return dict(zip(fn.__code__.co_freevars, map(_content, cells)))


def _content(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not assigned yet
        return None


def read_globals(fn: types.FunctionType) -> dict[str, Any]:
    """The globals that a function reads, and what it may read from other modules of the user."""
    values = {}
    for name in _global_names(fn.__code__) & fn.__globals__.keys():
        values[name] = value = fn.__globals__[name]
        if isinstance(value, types.ModuleType) and not _is_known_module(value.__name__):
            values |= {
                f"{name}.{inner}": vars(value)[inner]
                for inner in _names(fn.__code__) & vars(value).keys()
            }
    return values


def _global_names(code: types.CodeType) -> set[str]:
    """The global names that code reads, including code of functions inside it."""
    names = {
        step.argval
        for step in dis.get_instructions(code)
        if step.opname in ("LOAD_GLOBAL", "LOAD_NAME")
    }
    return names.union(*map(_global_names, _inner_code(code)))


def _names(code: types.CodeType) -> set[str]:
    """All names in code, attributes included."""
    return set(code.co_names).union(*map(_names, _inner_code(code)))


def _inner_code(code: types.CodeType) -> list[types.CodeType]:
    return [const for const in code.co_consts if isinstance(const, types.CodeType)]


def is_found_by_name(value: Any) -> bool:
    """Whether a function without Python code can be found again under its name."""
    return callable(value) and hasattr(value, "__qualname__") and is_installed(value)


def is_ours(value: Any) -> bool:
    """Whether a class or function is of this package."""
    return str(value.__module__).partition(".")[0] in _OURS


def is_installed(value: Any) -> bool:
    """Whether a class or function is of Python, an installed package or this one."""
    return _is_known_module(getattr(value, "__module__", None) or "")


@functools.cache
def _is_known_module(name: str) -> bool:
    """Whether a module is of Python, an installed package or this one: not the user's own code."""
    top = name.partition(".")[0]
    if top in _OURS or (top in sys.stdlib_module_names and top != "__main__"):
        return True
    file = getattr(sys.modules.get(name) or sys.modules.get(top), "__file__", None)
    return file is not None and is_installed_file(file)


@functools.cache
def is_installed_file(file: str) -> bool:
    """Whether a file is of Python or an installed package."""
    installed = {
        Path(sysconfig.get_path(key)).resolve()
        for key in ("purelib", "platlib", "stdlib", "platstdlib")
    }
    return any(folder in Path(file).resolve().parents for folder in installed)


@functools.cache
def is_known_file(file: str) -> bool:
    """Whether a file is of Python, an installed package or this one."""
    return is_installed_file(file) or any(
        _ROOT / name in Path(file).resolve().parents for name in _OURS
    )


@functools.cache
def source_digest(module: str) -> str:
    """A digest of the text of one of this package's modules."""
    try:
        return hashlib.sha256(inspect.getsource(sys.modules[module]).encode()).hexdigest()
    except (OSError, TypeError, KeyError):
        return ""
