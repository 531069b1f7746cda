"""Sources of Hydra's configs: the registries, where a registered name is ``name: NAME``, and the user's own files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hydra.core.object_type import ObjectType
from hydra.core.plugins import Plugins
from hydra.plugins.config_source import ConfigResult, ConfigSource
from omegaconf import OmegaConf

from lightning_modules.config.static_registry import REGISTRIES, static_registry
from lightning_modules.config.validate import RECIPES
from lightning_modules.config.yaml_text import read_yaml
from schemes.errors import SchemenetError

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


class UserSource(ConfigSource):
    """The yaml files of ``--config-dir``.

    Those of experiments and of ``debug`` set keys of the whole config, with or without Hydra's ``# @package _global_``,
    and a plain name such as ``scheme: rk4`` is the choice of a group.
    """

    @staticmethod
    def scheme() -> str:
        return "user"

    def available(self) -> bool:
        return self.is_group("")

    def load_config(self, config_path: str) -> ConfigResult:
        file = self._file(config_path)
        text = file.read_text(encoding="utf-8")
        content, header = read_yaml(text, file) or {}, self._get_header_dict(text)
        if not isinstance(content, dict):
            raise SchemenetError(f"{file}: expected keys with values, such as 'seed: 1', got {content!r:.80}")
        if Path(config_path).parent.as_posix() in RECIPES:
            header["package"] = "_global_"
            names = {key: value for key, value in content.items() if key in REGISTRIES and isinstance(value, str)}
            content |= {group: {"name": name} for group, name in names.items()}
        return ConfigResult(self.provider, self.full_path(), OmegaConf.create(content), header)

    def is_group(self, config_path: str) -> bool:
        return (Path(self.path) / config_path).is_dir()

    def is_config(self, config_path: str) -> bool:
        return self._file(config_path).is_file()

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[Any]:
        paths = sorted((Path(self.path) / config_path).iterdir())
        groups = [path.name for path in paths if path.is_dir()]
        files = [path.stem for path in paths if path.suffix == ".yaml"]
        return {None: groups + files, ObjectType.GROUP: groups, ObjectType.CONFIG: files}[results_filter]

    def _file(self, config_path: str) -> Path:
        return Path(self.path) / f"{config_path.removesuffix('.yaml')}.yaml"


Plugins.instance().register(RegistrySource)
Plugins.instance().register(UserSource)
