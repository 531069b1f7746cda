"""The options of registered entries as text, in the words of a config. Nothing here imports torch."""

from __future__ import annotations

import re
from typing import Any

from lightning_modules.config.static_registry import REGISTRIES
from lightning_modules.config.validate import AXES
from lightning_modules.text import aligned
from schemes.registry import Registry
from schemes.schema import REQUIRED, Parameter


def options_table(names: Registry, name: str, group: str, width: int | None = None) -> str:
    """The options of a registered entry as a table: key of the config, type, default and meaning.

    Args:
        names: the registry.
        name: of the entry.
        group: its config group; the axes of a network are groups of their own.
        width: of the terminal; None for any.
    """
    options, defaults = names.options(name), names.defaults(name)
    if not options:
        return f"{name} has no options"
    rows = [
        [
            f"{group}.{key}" if group in REGISTRIES and key not in AXES else key, type_in_words(p),
            written_default(defaults.get(key, REQUIRED)), _whole(key, p.meaning),
        ]
        for key, p in options.items()
    ]  # fmt: skip
    return aligned([["option", "type", "default", "what it is"], *rows], width)


def _whole(key: str, meaning: str) -> str:
    """A meaning that does without its key: ``of the flows`` of a scheme is ``scheme of the flows``."""
    return f"{key.replace('_', ' ')} {meaning}" if re.match("(of|on|for|in|mode)\\b", meaning) else meaning


def unmarked(text: str) -> str:
    """A text of a docstring without the marks of reStructuredText."""
    return re.sub(r":\w+:`~?(?:[\w.]*\.)?(\w+)`", r"\1", text).replace("``", "")


def description(doc: str) -> str:
    """What a docstring says of an entry, without its parameters, which a table shows; a paragraph is one line."""
    doc = re.sub(r"^(Args|Returns|Raises):\n.*?(\n\s*\n|\Z)", "", doc, flags=re.DOTALL | re.MULTILINE)
    paragraphs = unmarked(doc).strip().split("\n\n")
    return "\n\n".join(text if text.startswith(" ") else " ".join(text.split()) for text in paragraphs)


def type_in_words(parameter: Parameter) -> str:
    """An annotation in the words of a config."""

    def options(literal: re.Match[str]) -> str:
        return re.sub("['\"]", "", literal[1]).replace(", ", " | ")

    text = re.sub(r"Literal\[(.*?)\]", options, parameter.annotation)
    words = {
        "None": "null", "str": "text", "Spec": "name or {name: ...}", "float": "number", "int": "whole number",
        "bool": "true | false", "Mapping": "{...}",
    }  # fmt: skip
    for word, plain in words.items():
        text = re.sub(rf"\b{word}\b", plain, text)
    return re.sub(r"\bSequence\[(.*?)\]", r"[\1, ...]", text)


def written_default(value: Any) -> str:
    """A default as it is written in a config."""
    if value is REQUIRED:
        return "required"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(list(value)) if isinstance(value, tuple) else str(value)
