"""Decides whether code belongs to a library or to the user.

Libraries are Python, installed packages and the three packages of this project. Keys of compiled
programs and fingerprints of stored results assume that the code of libraries does not change.
"""

import functools
import os
import sys
import sysconfig
from pathlib import Path

OUR_PACKAGES = ("jaxasr", "interventions", "experiments")
_ROOT = Path(__file__).resolve().parents[1]  # the folder that contains these packages
_OUR_FOLDERS = {_ROOT / package for package in OUR_PACKAGES}
_INSTALLED_FOLDERS = {
    Path(sysconfig.get_path(name)).resolve()
    for name in ("stdlib", "platstdlib", "purelib", "platlib")
}
# Matched by name too, because such a folder can be in a user's home or on PYTHONPATH.
_INSTALLED_FOLDER_NAMES = {"site-packages", "dist-packages"}


@functools.cache
def is_installed_file(file: str) -> bool:
    """Returns whether a file is part of Python or an installed package.

    Args:
        file: the file of a module or of a code object, such as "<string>" for generated code.

    Example:
        >>> import json
        >>> is_installed_file(json.__file__)
        True
        >>> is_installed_file("<string>")
        False
    """
    if file.startswith("<frozen "):  # modules that Python contains, such as os
        return True
    if not os.path.isabs(file):  # generated code, or a cell of a notebook
        return False
    path = Path(file)
    folders = path.resolve().parents
    return not (
        _INSTALLED_FOLDERS.isdisjoint(folders) and _INSTALLED_FOLDER_NAMES.isdisjoint(path.parts)
    )


@functools.cache
def is_library_file(file: str) -> bool:
    """Returns whether a file is part of Python, an installed package or one of ours.

    Args:
        file: as in `is_installed_file`.

    Example:
        >>> import jaxasr
        >>> is_library_file(jaxasr.__file__)
        True
    """
    if is_installed_file(file):
        return True
    return os.path.isabs(file) and not _OUR_FOLDERS.isdisjoint(Path(file).resolve().parents)


@functools.cache
def is_library_module(name: str) -> bool:
    """Returns whether a module is part of Python, an installed package or one of ours.

    `__main__` never is, because it holds the script or notebook of the user.

    Args:
        name: the full name of the module. A module that is not imported counts as its package.

    Example:
        >>> is_library_module("json.decoder"), is_library_module("__main__")
        (True, False)
    """
    package = name.partition(".")[0]
    if package == "__main__":
        return False
    module = sys.modules.get(name) or sys.modules.get(package)
    if file := getattr(module, "__file__", None):
        return is_library_file(file)
    # Modules that are compiled into Python have no file.
    return package in sys.stdlib_module_names
