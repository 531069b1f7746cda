"""The recipe of a comparison: first where it differs from the defaults of its groups, then the rest."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, NamedTuple

from schemes.errors import SchemenetError

GROUPS = ("data", "optimizer", "trainer")


class Setting(NamedTuple):
    """A key of a recipe, its value, and its default: None where no default is known."""

    key: str
    value: str
    default: str | None

    @property
    def differs(self) -> bool:
        return self.default is not None and self.value != self.default


def settings(recipe: Mapping[str, Any]) -> list[Setting]:
    """All keys of a recipe as a config or as runs hold it, those that differ from their defaults first."""
    values = dict(_flat(recipe))
    named = [(group, str(values[f"{group}.name"])) for group in GROUPS if f"{group}.name" in values]
    defaults = {key: value for group, name in named for key, value in _defaults(group, name).items()}
    found = []
    for key, value in values.items():
        # Of a recipe that was read from runs, a value may stand as JSON writes it: true, null.
        words = {str(defaults[key]), json.dumps(defaults[key])} if key in defaults else set()
        default = str(value) if str(value) in words else str(defaults[key]) if key in defaults else None
        found.append(Setting(key, str(value), default))
    return sorted(found, key=lambda setting: not setting.differs)


def _flat(section: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in section.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


@cache
def _defaults(group: str, name: str) -> dict[str, Any]:
    """What a group holds under a name; nothing where that is of a package that is not at hand."""
    from lightning_modules.config.compose import compose

    try:
        section = compose("train", [f"{group}={name}"]).get(group)
    except SchemenetError:
        return {}
    return dict(_flat({group: section})) if isinstance(section, Mapping) else {}
