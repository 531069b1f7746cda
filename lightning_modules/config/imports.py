"""The user's own modules that register parts: named by ``--import`` or the key ``imports``, recorded with each run."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from lightning_modules.config.static_registry import REGISTRIES, static_registry
from lightning_modules.text import printable
from schemes.errors import SchemenetError
from schemes.plugins import FOLDER, import_modules, is_available, is_module_name, not_imported
from schemes.registry import Entry

OPTION, KEY = "--import", "imports"


def split_imports(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """The modules that a command line names, and its other words.

    Args:
        words: with ``--import NAME``, ``--import=NAME`` or ``imports=[NAME,...]`` among them.

    Raises:
        SchemenetError: for ``--import`` without a name.
    """
    names: list[str] = []
    others: list[str] = []
    remaining = iter(words)
    for word in remaining:
        if word == OPTION:
            name = next(remaining, "")
            if not name or "=" in name or name.startswith("-"):
                raise SchemenetError(f"{OPTION}: expected the name of a module, such as {OPTION} my_parts")
            names.append(name)
        elif word.startswith(f"{OPTION}="):
            names.append(word.partition("=")[2])
        elif word.startswith(f"{KEY}="):
            names += [name.strip(" '\"") for name in word.partition("=")[2].strip("[] ").split(",") if name.strip()]
        else:
            others.append(word)
    return list(dict.fromkeys(names)), others


def import_for_command(names: Sequence[str]) -> list[str]:
    """Import modules that the user has named: installed ones, or files and packages in the current folder.

    The processes of a run find them in the same folder.

    Args:
        names: of the modules.

    Returns:
        The word of the command line that says so: ``imports=[NAME,...]``, or none.
    """
    if not names:
        return []
    os.environ.setdefault(FOLDER, os.getcwd())
    import_modules(names)
    return [f"{KEY}=[{','.join(names)}]"]


def missing_imports(names: Iterable[str], source: object) -> list[str]:
    """The objection to modules that a file needs and that are not imported: a file imports no code by itself.

    Args:
        names: of modules.
        source: the name of the file.
    """
    names = list(names)
    if wrong := [name for name in names if not is_module_name(name)]:
        return [f"{source}: imports: expected names of modules, such as my_parts, got {printable(repr(wrong))}"]
    missing = not_imported(names)
    if not missing:
        return []
    if absent := [name for name in missing if not is_available(name)]:
        gone = f"{' and '.join(absent)}, which {'is' if len(absent) == 1 else 'are'} not installed"
        return [f"{source}: needs {gone}, and not in this folder; install it, or set PYTHONPATH to its folder"]
    options = " ".join(f"{OPTION} {name}" for name in missing)
    return [
        f"{source}: needs {', '.join(missing)}, and a file imports no code by itself; if you trust it, add {options}, "
        f"or in Python import {', '.join(missing)} before"
    ]


def recorded_imports(config: Mapping[str, Any], architectures: Iterable[str]) -> list[str]:
    """The modules that a config needs: those that it names, and those of the parts from outside that it uses.

    Args:
        config: with its sections checked.
        architectures: the names of the networks of a comparison.
    """
    names: list[str] = list(config.get(KEY) or ())
    for entry in _entries(config, architectures):
        module = entry.target.__module__
        if entry.outside and module != "__main__" and not any(f"{module}.".startswith(f"{name}.") for name in names):
            names.append(module)
    return names


def _entries(config: Mapping[str, Any], architectures: Iterable[str]) -> Iterable[Entry]:
    for sections in (config, *(config.get("arms") or {}).values()):
        for group in REGISTRIES:
            section = (sections or {}).get(group)
            name = section.get("name") if isinstance(section, Mapping) else section
            if isinstance(name, str) and name in static_registry(group):
                yield static_registry(group).entry(name)
    for choice in config.get("callbacks") or ():
        yield static_registry("callback").entry(choice["name"])
    for name in architectures:
        yield static_registry("architecture").entry(name)
