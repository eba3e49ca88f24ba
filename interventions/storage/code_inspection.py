"""Finds where code comes from and which global values it reads."""

import dis
import functools
import hashlib
import inspect
import sys
import types
from typing import Any

from jaxasr.installed_code import OUR_PACKAGES, is_installed_file, is_library_module

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
    # The methods that dataclasses generate have the file name "<string>".
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
    except ValueError:  # not assigned yet
        return None


def read_globals(fn: types.FunctionType) -> dict[str, Any]:
    """Returns the globals that a function reads.

    A global may be a module of the user. Also returns the attributes of such modules that the
    function may read, such as `package.module.VALUE`.

    Example:
        >>> size = 3
        >>> read_globals(lambda: size + 1)
        {'size': 3}
    """
    global_names = _global_names(fn.__code__) & fn.__globals__.keys()
    values = {name: fn.__globals__[name] for name in global_names}
    names, attributes = _all_names(fn.__code__), {}
    # `fingerprints` describes a module in the closure only by its name, so the attributes that the
    # function reads from the module are added here.
    for name, value in (values | closure_values(fn)).items():
        attributes |= _module_attributes(name, value, names)
    return values | attributes


def _module_attributes(
    path: str, value: Any, names: set[str], outer: tuple[Any, ...] = ()
) -> dict[str, Any]:
    """Returns attributes of a user's module and of modules in it, by dotted path.

    Only attributes whose name is in `names` are returned. `outer` are the modules around `value`.
    """
    is_module = isinstance(value, types.ModuleType)
    # Modules may refer to each other, so those in `outer` are not entered again.
    if not is_module or is_library_module(value.__name__) or value in outer:
        return {}
    attributes = {}
    for name in names & vars(value).keys():
        inner_path, inner = f"{path}.{name}", vars(value)[name]
        attributes[inner_path] = inner
        attributes |= _module_attributes(inner_path, inner, names, (*outer, value))
    return attributes


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
    """
    return callable(value) and hasattr(value, "__qualname__") and is_from_known_module(value)


def is_ours(value: Any) -> bool:
    """Returns whether a class or function is from one of our three packages.

    Example:
        >>> is_ours(dict)
        False
    """
    return str(value.__module__).partition(".")[0] in OUR_PACKAGES


def is_from_known_module(value: Any) -> bool:
    """Returns whether a class or function is from a library (see `jaxasr.installed_code`)."""
    return is_library_module(getattr(value, "__module__", None) or "")


@functools.cache
def source_digest(module: str) -> str:
    """Returns a digest of the source text of one of our modules; empty if there is no source."""
    try:
        return hashlib.sha256(inspect.getsource(sys.modules[module]).encode()).hexdigest()
    except (OSError, TypeError, KeyError):
        return ""
