"""The registries as text, for ``schemenet schemes`` and ``schemenet models``."""

from __future__ import annotations

import inspect
import re

from architectures.factory import list_models, networks_for_scheme
from architectures.registry import ARCHITECTURES, tasks_of
from lightning_modules.config.options_table import description, options_table
from lightning_modules.text import aligned, terminal_width
from schemes.analysis.stability import stability_intervals
from schemes.registry import SCHEMES, Registry, single_step


def schemes(name: str | None = None) -> str:
    """All schemes as a table, or one with its equation and parameters."""
    return scheme_table() if name is None else _one(SCHEMES, name, "scheme", _facts(name))


def models(pattern: str | None = None) -> str:
    """The networks' names, those that match a pattern, or one network with its options."""
    if pattern is not None and not set(pattern) & set("*?["):
        return _one(ARCHITECTURES, pattern, "architecture", {})
    rows = []
    for name in list_models(pattern or "*"):
        first = inspect.getdoc(ARCHITECTURES[name]) or ""
        preset = ", ".join(f"{k}={v}" for k, v in ARCHITECTURES.entry(name).preset.items())
        tasks = ", ".join(tasks_of(ARCHITECTURES.entry(name).facts))
        rows.append([name, tasks, preset or first.splitlines()[0]])
    return aligned([["network", "task", "what it is"], *rows], terminal_width())


def scheme_table() -> str:
    """All schemes with their properties, one in a row."""
    header = [
        "scheme",
        "order",
        "stages",
        "history",
        "parts",
        "reversible",
        "real",
        "imag",
        "known as",
        "reference",
    ]
    return aligned([header, *([name, *_facts(name).values()] for name in SCHEMES)], terminal_width())


def _facts(name: str) -> dict[str, str]:
    scheme = SCHEMES.build(single_step(name))
    real, imaginary = stability_intervals(scheme)
    problem = "" if scheme.problem == "general" else f" ({scheme.problem})"
    others = SCHEMES.aliases(name)
    networks = ", ".join(networks_for_scheme(name)) or "-"
    return {
        "order": "-" if scheme.order is None else f"{scheme.order}{problem}",
        "stages": str(scheme.stages),
        "history": str(scheme.history),
        "components": str(scheme.components),
        "reversible": "yes" if scheme.reversible else "no",
        "real interval": _length(real),
        "imaginary interval": _length(imaginary),
        "known as": networks + (f" (alias {', '.join(others)})" if others else ""),
        "reference": _reference(SCHEMES[name]),
    }


def _length(interval: float | None) -> str:
    return "-" if interval is None else f"{interval:.3g}" if interval != float("inf") else "inf"


def _reference(target: object) -> str:
    """Authors and year of a docstring's reference."""
    match = re.search(r"Reference: (.*)", inspect.getdoc(target) or "", re.DOTALL)
    text = " ".join(match[1].split()) if match else ""
    authors = text.split(', "')[0]
    year = re.search(r"\b(1[89]|20)\d\d\b", text)
    first, *others = authors.split(", ")
    return f"{first}{' et al.' if len(others) > 1 else f', {others[0]}' if others else ''} {year[0] if year else ''}"


def _one(registry: Registry, name: str, group: str, facts: dict[str, str]) -> str:
    entry = registry.entry(name)
    lines = "\n".join(f"{key}: {value}" for key, value in facts.items() if key != "reference")
    text = description(inspect.getdoc(entry.target) or "")
    return "\n\n".join(filter(None, [entry.name, text, lines, options_table(registry, name, group, terminal_width())]))
