"""Modules outside this package that register parts: installed plugins, and those that a user names."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import warnings
from collections.abc import Iterable, Sequence
from functools import cache
from importlib.machinery import PathFinder
from importlib.metadata import EntryPoint, entry_points
from types import ModuleType

from schemes.errors import Problems, SchemenetError, located

GROUP = "schemenet.plugins"
"""The entry points of installed packages that register parts; each names a module."""

FOLDER = "SCHEMENET_IMPORT_PATH"
"""The environment variable with the folder where a module that is not installed is looked for, and nothing else.

The command sets it where the user names a module, so that the processes of a run find the module too.
"""


@cache
def load_installed() -> None:
    """Import the plugins of installed packages, once. One that fails is left out with a warning."""
    for point in entry_points(group=GROUP):
        try:
            importlib.import_module(point.module)
        except Exception as error:
            warnings.warn(f"plugin {point.name!r} ({_owner(point)}) is left out: {located(error)}", stacklevel=2)


def is_installed(name: str) -> bool:
    """Whether a module is that of an installed plugin, or part of it, which is found without being named."""
    return any(f"{name}.".startswith(f"{point.module}.") for point in entry_points(group=GROUP))


def import_modules(names: Iterable[str]) -> None:
    """Import modules that register parts.

    Args:
        names: of modules or packages, such as ``my_parts``: installed, on PYTHONPATH, or in the folder that
            ``SCHEMENET_IMPORT_PATH`` names.

    Raises:
        SchemenetError: with every module that is missing or fails, and the line where it fails.
    """
    problems = Problems()
    for name in names:
        problems.attempt(lambda name=name: _import(name), f"import of {name!r}: ")
    problems.raise_if_any()


def not_imported(names: Sequence[str]) -> list[str]:
    """Those of some modules that are not imported, installed plugins being imported first."""
    load_installed()
    return [name for name in names if name not in sys.modules]


def _import(name: str) -> ModuleType:
    if not all(part.isidentifier() for part in name.split(".")):
        stem = os.path.basename(name).removesuffix(".py")
        hint = f"; {stem} is the module of that file" if stem.isidentifier() and stem != name else ""
        raise SchemenetError(f"expected the name of a module, such as my_parts{hint}")
    top = name.partition(".")[0]
    try:
        if top not in sys.modules and importlib.util.find_spec(top) is None:
            _import_from_folder(top)
        return importlib.import_module(name)
    except SchemenetError:
        raise
    except Exception as error:  # a module of the user's fails in any way
        raise SchemenetError(located(error)) from error


def _import_from_folder(name: str) -> None:
    """Import a top-level module from the user's folder, which stays off the path of imports."""
    folder = os.environ.get(FOLDER)
    spec = PathFinder.find_spec(name, [folder]) if folder else None
    if spec is None or spec.loader is None:
        raise SchemenetError(f"no such module is installed{f', or in {folder}' if folder else ''}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise


def _owner(point: EntryPoint) -> str:
    return f"package {point.dist.name}" if point.dist is not None else point.value
