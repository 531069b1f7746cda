"""The registries as a source of Hydra's configs: the config of a registered name is ``name: NAME``."""

from __future__ import annotations

from typing import Any

from hydra.core.object_type import ObjectType
from hydra.core.plugins import Plugins
from hydra.plugins.config_source import ConfigResult, ConfigSource
from omegaconf import OmegaConf

from lightning_modules.config.static_registry import REGISTRIES, static_registry

SEARCH_PATH = "registry://names"


class RegistrySource(ConfigSource):
    """A config for each name of each registry, so that a scheme or a network needs no yaml file.

    In the search path it comes after this package's yaml files and before the user's ``--config-dir``.
    """

    @staticmethod
    def scheme() -> str:
        return "registry"

    def available(self) -> bool:
        return True

    def load_config(self, config_path: str) -> ConfigResult:
        name = config_path.removesuffix(".yaml").rpartition("/")[2]
        header: dict[str, str | None] = {"package": None}  # the group's own
        return ConfigResult(self.provider, SEARCH_PATH, OmegaConf.create({"name": name}), header)

    def is_group(self, config_path: str) -> bool:
        return config_path.strip("/") in ("", *REGISTRIES)

    def is_config(self, config_path: str) -> bool:
        group, _, name = config_path.removesuffix(".yaml").strip("/").rpartition("/")
        if name == "None":  # Hydra's name for a group without a choice, whose source need not be read for it
            return False
        return group in REGISTRIES and name in static_registry(group)

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[Any]:
        group = config_path.strip("/")
        if group == "":
            return sorted(REGISTRIES) if results_filter is not ObjectType.CONFIG else []
        if group not in REGISTRIES or results_filter is ObjectType.GROUP:
            return []
        return static_registry(group).all_names()


Plugins.instance().register(RegistrySource)
