"""Finds where code comes from and which global values it reads."""

import dis
import functools
import hashlib
import inspect
import sys
import sysconfig
import types
from pathlib import Path
from typing import Any

_OUR_PACKAGES = ("jaxasr", "interventions", "experiments")  # the packages of this project
_ROOT = Path(__file__).resolve().parents[2]  # the folder that contains these packages
# Members that Python, dataclasses or flax add to a class.
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
    """Returns whether Python, dataclasses or flax added `member` to a class."""
    if name.startswith("_pytree__"):
        return True
    # Methods that dataclasses generate have the file name "<string>". A member that is not a
    # function has no file, so its name alone decides.
    file = member.__code__.co_filename if isinstance(member, types.FunctionType) else "<string>"
    return name in _GENERATED and (file == "<string>" or is_installed_file(file))


def closure_values(fn: types.FunctionType) -> dict[str, Any]:
    """Returns the values of a function's closure by name, with None for unassigned variables.

    Example:
        >>> def make(scale):
        ...     return lambda x: scale * x
        >>> closure_values(make(2))
        {'scale': 2}
    """
    cells = fn.__closure__ or ()
    return dict(zip(fn.__code__.co_freevars, map(_cell_value, cells)))


def _cell_value(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # the variable is not assigned yet
        return None


def read_globals(fn: types.FunctionType) -> dict[str, Any]:
    """Returns the global values that a function reads, by name.

    If a global is a module of the user, also returns the attributes of that module that the
    function may read.

    Example:
        >>> size = 3
        >>> read_globals(lambda: size + 1)
        {'size': 3}
    """
    values = {}
    for name in _global_names(fn.__code__) & fn.__globals__.keys():
        values[name] = value = fn.__globals__[name]
        if isinstance(value, types.ModuleType) and not _is_known_module(value.__name__):
            values |= {
                f"{name}.{inner}": vars(value)[inner]
                for inner in _all_names(fn.__code__) & vars(value).keys()
            }
    return values


def _global_names(code: types.CodeType) -> set[str]:
    """Returns the names of the globals that `code` and its nested functions read."""
    names = {
        instruction.argval
        for instruction in dis.get_instructions(code)
        if instruction.opname in ("LOAD_GLOBAL", "LOAD_NAME")
    }
    return names.union(*map(_global_names, _nested_code(code)))


def _all_names(code: types.CodeType) -> set[str]:
    """Returns the names of all globals and attributes in `code` and its nested functions."""
    return set(code.co_names).union(*map(_all_names, _nested_code(code)))


def _nested_code(code: types.CodeType) -> list[types.CodeType]:
    return [const for const in code.co_consts if isinstance(const, types.CodeType)]


def is_found_by_name(value: Any) -> bool:
    """Returns whether `value` is a callable of a known module, so that its name identifies it.

    Known modules are those of Python, of installed packages and of our three packages.

    Example:
        >>> is_found_by_name(len)
        True
    """
    return callable(value) and hasattr(value, "__qualname__") and is_from_known_module(value)


def is_ours(value: Any) -> bool:
    """Returns whether a class or function is from one of our three packages.

    Example:
        >>> is_ours(Path)
        False
    """
    return str(value.__module__).partition(".")[0] in _OUR_PACKAGES


def is_from_known_module(value: Any) -> bool:
    """Returns whether a class or function is from a known module (see `_is_known_module`)."""
    return _is_known_module(getattr(value, "__module__", None) or "")


@functools.cache
def _is_known_module(name: str) -> bool:
    """Returns whether a module is part of Python, an installed package or one of ours.

    Other modules are code of the user.
    """
    top = name.partition(".")[0]
    if top in _OUR_PACKAGES or (top in sys.stdlib_module_names and top != "__main__"):
        return True
    file = getattr(sys.modules.get(name) or sys.modules.get(top), "__file__", None)
    return file is not None and is_installed_file(file)


@functools.cache
def is_installed_file(file: str) -> bool:
    """Returns whether a file is part of Python or an installed package."""
    installed = {
        Path(sysconfig.get_path(key)).resolve()
        for key in ("purelib", "platlib", "stdlib", "platstdlib")
    }
    return any(folder in Path(file).resolve().parents for folder in installed)


@functools.cache
def is_known_file(file: str) -> bool:
    """Returns whether a file is part of Python, an installed package or one of ours."""
    return is_installed_file(file) or any(
        _ROOT / name in Path(file).resolve().parents for name in _OUR_PACKAGES
    )


@functools.cache
def source_digest(module: str) -> str:
    """Returns the SHA-256 of the source text of one of our modules, or "" if there is none."""
    try:
        return hashlib.sha256(inspect.getsource(sys.modules[module]).encode()).hexdigest()
    except (OSError, TypeError, KeyError):
        return ""
