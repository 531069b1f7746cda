"""The recipe of a comparison as a list of settings, with the defaults of each."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from typing import Any, NamedTuple

from lightning_modules.config.resolved import dotted
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
    """All keys of a recipe, nested or dotted, those that differ from their defaults first."""
    values = dict(dotted(recipe))
    named = [(group, str(values[f"{group}.name"])) for group in GROUPS if f"{group}.name" in values]
    defaults = {key: value for group, name in named for key, value in _defaults(group, name).items()}
    described = []
    for key, value in values.items():
        # Of a recipe that was read from runs, a value may stand as JSON writes it: true, null.
        words = {str(defaults[key]), json.dumps(defaults[key])} if key in defaults else set()
        default = str(value) if str(value) in words else str(defaults[key]) if key in defaults else None
        described.append(Setting(key, str(value), default))
    return sorted(described, key=lambda setting: not setting.differs)


@cache
def _defaults(group: str, name: str) -> dict[str, Any]:
    """A group's config under a name; empty where it needs a package that is not installed."""
    from lightning_modules.config.compose import compose

    try:
        section = compose("train", [f"{group}={name}"]).get(group)
    except SchemenetError:
        return {}
    return dict(dotted({group: section})) if isinstance(section, Mapping) else {}
