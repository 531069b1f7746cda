"""The config of one run: the chosen values, completed with the defaults, and hashed."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any

from lightning_modules.config.static_registry import static_registry
from lightning_modules.config.validate import AXES, Config

NOT_RECIPE = (
    "folder", "overwrite", "logger", "seed", "imports", "data.root", "data.download", "data.decode", "data.workers",
    "trainer.progress_bar", "trainer.oversubscribe", "trainer.keep_pages", "trainer.checkpoint_every_n_steps",
    "grid.max_steps", "grid.seconds",
)  # fmt: skip
"""Keys that do not change what is computed, only how far it gets; and the seed, which is kept apart from the recipe."""


class ResolvedConfig(Mapping[str, Any]):
    """A checked config, which does not change; as a mapping it has the chosen values.

    Sections are returned as copies. What follows from the config is computed once, when it is first used.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        self._chosen = copy.deepcopy(dict(config))

    def __getitem__(self, key: str) -> Any:
        return copy.deepcopy(self._chosen[key])

    def __iter__(self) -> Iterator[str]:
        return iter(self._chosen)

    def __len__(self) -> int:
        return len(self._chosen)

    def replace(self, **sections: Any) -> ResolvedConfig:
        """The config with other values of these keys."""
        return ResolvedConfig({**self._chosen, **sections})

    @property
    def complete(self) -> Config:
        """The config with every default of its network, as it is stored with a run."""
        return copy.deepcopy(self._complete)

    @cached_property
    def recipe_hash(self) -> str:
        """Eight characters of a hash of the recipe; the seed, and where files are, do not count."""
        return hash_of(self._complete)

    @property
    def network_options(self) -> dict[str, Any]:
        """The arguments of ``create_model`` with all defaults, but for the name and the shape of the data."""
        config = self.complete
        options = {key: value for key, value in config["architecture"].items() if key != "name"}
        return options | {key: config[key] for key in AXES if config.get(key) is not None}

    @cached_property
    def names(self) -> list[str]:
        """The names of the architecture, of its scheme, if it takes one, and of the data set."""
        groups = ("architecture", "scheme", "data")
        return [self._complete[group]["name"] for group in groups if self._complete.get(group) is not None]

    @cached_property
    def _complete(self) -> Config:
        architecture = self._chosen["architecture"]
        defaults = static_registry("architecture").defaults(architecture["name"])
        options = {key: value for key, value in defaults.items() if key not in AXES}
        complete = {**self._chosen, "architecture": {**options, **architecture}}
        for group in AXES:
            section = self._chosen.get(group) or defaults.get(group)
            if section is not None:
                section = {"name": section} if isinstance(section, str) else dict(section)
                complete[group] = {**static_registry(group).defaults(section["name"]), **section}
        complete["sharing"] = _in_a_word(complete.get("sharing"))
        return complete


def _in_a_word(section: Config | None) -> Config | str | None:
    """A section that has a name alone as that name: so sharings were recorded before one of them had options."""
    return section["name"] if section is not None and list(section) == ["name"] else section


def hash_of(recipe: Mapping[str, Any]) -> str:
    """Eight characters of a hash of a complete recipe, or of the part of it that several runs share."""
    kept = {
        key: {k: v for k, v in value.items() if f"{key}.{k}" not in NOT_RECIPE} if isinstance(value, dict) else value
        for key, value in recipe.items()
        if key not in NOT_RECIPE
    }
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:8]


def dotted(section: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The values of a nested mapping with their keys as ``trainer.max_epochs``; an empty mapping is a value."""
    for key, value in section.items():
        if isinstance(value, Mapping) and value:
            yield from dotted(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
