"""Modules outside this package that register parts: installed plugins, and those that a user names."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import warnings
from collections.abc import Iterable, Sequence
from functools import cache
from importlib.machinery import ModuleSpec, PathFinder
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
        except (Exception, SystemExit) as error:
            warnings.warn(f"plugin {point.name!r} ({_owner(point)}) is left out: {located(error)}", stacklevel=2)


def is_installed(name: str) -> bool:
    """Whether a module is that of an installed plugin, or part of it, which is found without being named."""
    return any(f"{name}.".startswith(f"{point.module}.") for point in entry_points(group=GROUP))


def is_module_name(name: object) -> bool:
    """Whether it is a dotted name such as ``mine.schemes``; that of a file, ``my_parts.py``, is none."""
    return isinstance(name, str) and all(map(str.isidentifier, name.split("."))) and not name.endswith(".py")


def import_modules(names: str | Iterable[str]) -> None:
    """Import modules that register parts.

    Args:
        names: of modules or packages, such as ``my_parts``: installed, on PYTHONPATH, or in the folder that
            ``SCHEMENET_IMPORT_PATH`` names. One may stand alone.

    Raises:
        SchemenetError: with every module that is missing or fails, and the line where it fails.
    """
    if isinstance(names, str) or not isinstance(names, Iterable):
        names = [names]
    problems = Problems()
    for name in names:
        problems.attempt(lambda name=name: _import(name), f"import of {name!r}: ")
    problems.raise_if_any()


def not_imported(names: Sequence[str]) -> list[str]:
    """Those of some modules that are not imported, installed plugins being imported first."""
    load_installed()
    return [name for name in names if name not in sys.modules]


def is_available(name: str) -> bool:
    """Whether the top-level module of a name is installed or in the user's folder; nothing is imported."""
    top, folder = name.partition(".")[0], os.environ.get(FOLDER, os.getcwd())
    specs = (find(top) for find in (importlib.util.find_spec, lambda top: PathFinder.find_spec(top, [folder])))
    return top in sys.modules or any(spec is not None for spec in specs)


def _import(name: str) -> ModuleType:
    if not is_module_name(name):
        raise SchemenetError(f"expected the name of a module, such as my_parts{_module_of_file(name)}")
    top = name.partition(".")[0]
    try:
        other, local = importlib.util.find_spec(top), _in_folder(top)
        if other is None:
            _import_from_folder(top)
        elif local is not None and local.origin and not is_installed(name) and not _same(local, other):
            raise SchemenetError(f"{local.origin} is hidden by {other.origin}, of the same name; rename it")
        return importlib.import_module(name)
    except SchemenetError:
        raise
    except (Exception, SystemExit) as error:  # a module of the user's fails in any way
        neighbour = (error.name or "").partition(".")[0] if isinstance(error, ModuleNotFoundError) else ""
        hint = (
            f"; of its folder only modules that are named are imported: name {neighbour} before {name}, or make both a "
            "package"
        )
        known = neighbour not in ("", top) and _in_folder(neighbour) is not None
        raise SchemenetError(located(error) + (hint if known else "")) from error


def _module_of_file(name: object) -> str:
    """The hint for the name of a file where that of its module is expected."""
    if not isinstance(name, str) or not name:
        return ""
    place = os.path.relpath(name).removesuffix(".py")
    module, stem = place.replace(os.sep, "."), os.path.basename(place)
    if is_module_name(module):
        return f"; {module} is the module of that file"
    return f"; {stem} is the module of that file, in its folder" if is_module_name(stem) else ""


def _in_folder(name: str) -> ModuleSpec | None:
    """The top-level module of this name in the user's folder; None where there is none."""
    folder = os.environ.get(FOLDER)
    return PathFinder.find_spec(name, [folder]) if folder else None


def _same(one: ModuleSpec, other: ModuleSpec) -> bool:
    return os.path.realpath(str(one.origin)) == os.path.realpath(str(other.origin))


def _import_from_folder(name: str) -> None:
    """Import a top-level module from the user's folder, which stays off the path of imports."""
    spec = _in_folder(name)
    if spec is None or spec.loader is None:
        folder = os.environ.get(FOLDER)
        file = "" if spec is None else f"; the folder {name} is no package without an __init__.py"
        raise SchemenetError(f"no such module is installed{f', or in {folder}' if folder else ''}{file}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise


def _owner(point: EntryPoint) -> str:
    return f"package {point.dist.name}" if point.dist is not None else point.value
