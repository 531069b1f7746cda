"""The registries filled from the source, without importing it.

A config is checked against them before torch is imported, in a fraction of a second. Defaults and facts of entries are
therefore literals, or names of literals in the same module.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from dataclasses import replace
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from architectures.registry import ARCHITECTURES, FIELDS
from lightning_modules.config.registries import CALLBACKS, DATA, LAUNCHERS, LOGGERS, OPTIMIZERS, TASKS, TRAINERS
from schemes.plugins import load_installed
from schemes.registry import (
    CONTROL_METHODS,
    CONTROL_PROBLEMS,
    GRADIENTS,
    GRIDS,
    NOISES,
    SCHEMES,
    SHARINGS,
    Registry,
)
from schemes.schema import REQUIRED, Parameter, meanings_in

ROOT = Path(__file__).resolve().parents[2]

REGISTRIES: Mapping[str, tuple[str, Registry]] = {
    "scheme": ("SCHEMES", SCHEMES),
    "field": ("FIELDS", FIELDS),
    "sharing": ("SHARINGS", SHARINGS),
    "grid": ("GRIDS", GRIDS),
    "gradient": ("GRADIENTS", GRADIENTS),
    "noise": ("NOISES", NOISES),
    "architecture": ("ARCHITECTURES", ARCHITECTURES),
    "data": ("DATA", DATA),
    "trainer": ("TRAINERS", TRAINERS),
    "optimizer": ("OPTIMIZERS", OPTIMIZERS),
    "logger": ("LOGGERS", LOGGERS),
    "launcher": ("LAUNCHERS", LAUNCHERS),
}
"""Config group to the registry that its choices are from, and the variable that holds it."""

NO_GROUPS: Mapping[str, tuple[str, Registry]] = {
    "task": ("TASKS", TASKS),
    "callback": ("CALLBACKS", CALLBACKS),
    "problem": ("CONTROL_PROBLEMS", CONTROL_PROBLEMS),
    "method": ("CONTROL_METHODS", CONTROL_METHODS),
}
"""Registries that are no config group: the data decides the task, of callbacks there are any number, and control
problems are no part of a training."""

Definition = ast.FunctionDef | ast.ClassDef


def static_registry(group: str) -> Registry:
    """The registry of a config group, or one of ``NO_GROUPS``, without imports of its home.

    The entries of this package are read from its source, and cannot be built; those from outside, whose modules are
    imported, are the same as in the registry itself.
    """
    load_installed()
    return _with_outside(group, tuple(entry.target for entry in _live(group)[1].outside))


def _live(group: str) -> tuple[str, Registry]:
    return NO_GROUPS[group] if group in NO_GROUPS else REGISTRIES[group]


@lru_cache(maxsize=64)
def _with_outside(group: str, targets: tuple[Any, ...]) -> Registry:
    """The registry as it is read, and what was registered from outside: with other ``targets`` it is another one."""
    variable, registry = _live(group)
    read = Registry(registry.kind, registry.home, registry.context, registry.skip, fill=SourceReader(variable))
    read.take_over(registry)
    return read


class SourceReader:
    """Fills a registry from the decorators ``VARIABLE.register(...)`` in the modules of its home."""

    def __init__(self, variable: str) -> None:
        self.decorator = f"{variable}.register"
        self._modules: list[Path] = []

    def __call__(self, registry: Registry) -> None:
        home = ROOT.joinpath(*registry.home.split("."))
        self._modules = sorted(home.rglob("*.py")) if home.is_dir() else [home.with_suffix(".py")]
        for path in self._modules:
            if f"@{self.decorator}(" in _text(path):
                for node in _module(path).body:
                    if isinstance(node, ast.FunctionDef | ast.ClassDef):
                        self._add(registry, node, path)

    def _add(self, registry: Registry, node: Definition, path: Path) -> None:
        for decorator in node.decorator_list:
            if isinstance(decorator, ast.Call) and ast.unparse(decorator.func) == self.decorator:
                names = [ast.literal_eval(argument) for argument in decorator.args]
                given = {k.arg: _value(k.value, path) for k in decorator.keywords if k.arg is not None}
                settings = {key: given.pop(key) for key in ("extends", "without", "sizes") if key in given}
                doc = ast.get_docstring(node) or ""
                registry.add(*names, parameters=self._signature(node), doc=doc, facts=given, **settings)

    def _signature(self, node: Definition) -> dict[str, Parameter]:
        """The parameters of a function or a class, those of its bases included where it passes them on."""
        meanings = meanings_in(ast.get_docstring(node) or "")
        if isinstance(node, ast.FunctionDef):
            return _arguments(node, meanings)
        inits = [item for item in node.body if isinstance(item, ast.FunctionDef) and item.name == "__init__"]
        parameters = _arguments(inits[0], meanings) if inits else {}
        if inits and inits[0].args.kwarg is None:
            return parameters
        bases = (self._class(ast.unparse(base)) for base in node.bases)
        inherited = {k: p for base in bases if base is not None for k, p in self._signature(base).items()}
        described = {k: replace(p, meaning=meanings.get(k, p.meaning)) for k, p in inherited.items()}
        return parameters | {k: p for k, p in described.items() if k not in parameters}

    def _class(self, name: str) -> ast.ClassDef | None:
        """The class of this name in any module of the home."""
        defined = re.compile(rf"^class {re.escape(name)}\b", re.MULTILINE)
        definition = None
        for path in self._modules:
            if defined.search(_text(path)):
                definition = next(n for n in _module(path).body if isinstance(n, ast.ClassDef) and n.name == name)
        return definition


@cache
def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


@cache
def _module(path: Path) -> ast.Module:
    return ast.parse(_text(path))


def _value(node: ast.expr, path: Path) -> Any:
    """The value of an argument: a literal, or the name of one that the same module assigns."""
    if isinstance(node, ast.Name):
        for statement in _module(path).body:
            if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == node.id:
                return ast.literal_eval(statement.value)
    return ast.literal_eval(node)


def _arguments(function: ast.FunctionDef, meanings: Mapping[str, str]) -> dict[str, Parameter]:
    arguments = function.args
    pairs: list[tuple[ast.arg, ast.expr | None]] = []
    positional = [*arguments.posonlyargs, *arguments.args]
    defaults = [None] * (len(positional) - len(arguments.defaults)) + list(arguments.defaults)
    pairs += zip(positional, defaults, strict=True)
    pairs += zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
    return {
        a.arg: Parameter(
            a.arg,
            ast.unparse(a.annotation) if a.annotation is not None else "Any",
            REQUIRED if default is None else ast.literal_eval(default),
            meanings.get(a.arg, ""),
        )
        for a, default in pairs[len(function.args.posonlyargs) :]
        if a.arg != "self"
    }


def describe_data(section: Mapping[str, Any]) -> str:
    """A data set of a config in words, with the option that selects one of several sets: ``plane moons``."""
    options = static_registry("data").entry(section["name"]).facts.get("described_by", ())
    values = (section.get(option) for option in options)
    return " ".join([section["name"], *(str(value) for value in values if value is not None)])
