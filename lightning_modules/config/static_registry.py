"""The registries as they stand in the source, read without importing it.

A config is checked against them before torch is imported, in a fraction of a second. What is read is what the
registries hold: names, aliases, sizes and signatures, and a test compares the two entry by entry.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from architectures.registry import ARCHITECTURES, FIELDS
from lightning_modules.config.registries import DATA, LAUNCHERS, LOGGERS, OPTIMIZERS, TASKS, TRAINERS
from schemes.registry import GRADIENTS, GRIDS, NOISES, SCHEMES, Registry
from schemes.schema import REQUIRED, Parameter

ROOT = Path(__file__).resolve().parents[2]

REGISTRIES: Mapping[str, tuple[str, Registry]] = {
    "scheme": ("SCHEMES", SCHEMES),
    "field": ("FIELDS", FIELDS),
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

TASK = ("TASKS", TASKS)
"""What the data decides is no group of its own."""

Definition = ast.FunctionDef | ast.ClassDef


@dataclass(frozen=True)
class Listing:
    """One registered callable as its decorator and its signature say."""

    name: str
    aliases: tuple[str, ...]
    own: Mapping[str, Parameter]
    extends: str | None = None
    without: tuple[str, ...] = ()
    sizes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)


class Catalogue:
    """What one registry will hold, by reading the modules of its home."""

    def __init__(self, variable: str, registry: Registry) -> None:
        self.variable, self.kind, self.context = variable, registry.kind, registry.context
        home = ROOT.joinpath(*registry.home.split("."))
        paths = sorted(home.rglob("*.py")) if home.is_dir() else [home.with_suffix(".py")]
        self._definitions = [node for path in paths for node in _definitions(path)]
        self._classes = {node.name: node for node in self._definitions if isinstance(node, ast.ClassDef)}

    @cached_property
    def listings(self) -> dict[str, Listing]:
        found = (self._listing(node) for node in self._definitions)
        return {listing.name: listing for listing in found if listing is not None}

    @cached_property
    def aliases(self) -> dict[str, str]:
        """Every other name (alias or size) to the name that it belongs to."""
        by_listing = ((listing, (*listing.aliases, *listing.sizes)) for listing in self.listings.values())
        return {other: listing.name for listing, others in by_listing for other in others}

    @property
    def names(self) -> list[str]:
        return sorted([*self.listings, *self.aliases])

    def canonical(self, name: str) -> str:
        """An alias gives way to its name; a size keeps its own."""
        listing = self.listings.get(self.aliases.get(name, name))
        return listing.name if listing is not None and name in listing.aliases else name

    def preset(self, name: str) -> Mapping[str, Any]:
        return self.listings[self.aliases.get(name, name)].sizes.get(name, {})

    def facts(self, name: str) -> Mapping[str, Any]:
        return self.listings[self.aliases.get(name, name)].facts

    def parameters(self, name: str) -> dict[str, Parameter]:
        listing = self.listings[self.aliases.get(name, name)]
        inherited = self.parameters(listing.extends) if listing.extends is not None else {}
        return {k: p for k, p in inherited.items() if k not in listing.without} | dict(listing.own)

    def options(self, name: str) -> dict[str, Parameter]:
        """The parameters that are the user's to set."""
        return {key: p for key, p in self.parameters(name).items() if key not in self.context}

    def defaults(self, name: str) -> dict[str, Any]:
        own = {key: p.default for key, p in self.options(name).items() if p.default is not REQUIRED}
        return {**own, **self.preset(name)}

    def _listing(self, node: Definition) -> Listing | None:
        for decorator in node.decorator_list:
            if isinstance(decorator, ast.Call) and ast.unparse(decorator.func) == f"{self.variable}.register":
                name, *aliases = (ast.literal_eval(argument) for argument in decorator.args)
                known = {k.arg: ast.literal_eval(k.value) for k in decorator.keywords if _is_literal(k.value)}
                settings = {key: known.pop(key) for key in ("extends", "without", "sizes") if key in known}
                return Listing(name, tuple(aliases), self._signature(node), facts=known, **settings)
        return None

    def _signature(self, node: Definition) -> dict[str, Parameter]:
        if isinstance(node, ast.FunctionDef):
            return _arguments(node)
        inits = [item for item in node.body if isinstance(item, ast.FunctionDef) and item.name == "__init__"]
        own = _arguments(inits[0]) if inits else {}
        if inits and inits[0].args.kwarg is None:
            return own
        bases = (self._classes.get(ast.unparse(base)) for base in node.bases)
        inherited = {k: p for base in bases if base is not None for k, p in self._signature(base).items()}
        return own | {k: p for k, p in inherited.items() if k not in own}


def _definitions(path: Path) -> Iterator[Definition]:
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node


def _arguments(function: ast.FunctionDef) -> dict[str, Parameter]:
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
        )
        for a, default in pairs[len(function.args.posonlyargs) :]
        if a.arg != "self"
    }


def _is_literal(node: ast.expr) -> bool:
    try:
        ast.literal_eval(node)
    except ValueError:
        return False
    return True


@cache
def catalogue(group: str) -> Catalogue:
    """The catalogue of a config group, or of the tasks."""
    return Catalogue(*(TASK if group == "task" else REGISTRIES[group]))


def told_set(section: Mapping[str, Any]) -> str:
    """A data set of a config, with the options that make another one of it where it has such: ``plane moons``."""
    told = (section.get(option) for option in catalogue("data").facts(section["name"]).get("told", ()))
    return " ".join([section["name"], *(str(value) for value in told if value is not None)])
