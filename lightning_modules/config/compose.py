"""Composition of a config from words on the command line, with one error for all mistakes, before torch is imported.

Hydra composes the groups (with experiments, and the user's own ``--config-dir``); values are set here, against the
signatures of what the names stand for. A config is a nested dict of plain data.
"""

from __future__ import annotations

import copy
import re
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning_modules.config.imports import import_for_command, missing_imports, split_imports
from lightning_modules.config.overrides import quoted, sort_words
from lightning_modules.config.resolved import ResolvedConfig
from lightning_modules.config.sections import SHORT
from lightning_modules.config.static_registry import NO_GROUPS, REGISTRIES, ROOT, static_registry
from lightning_modules.config.validate import (
    ALIASES,
    AXES,
    FROM_NETWORKS,
    KEYS,
    LAUNCHING,
    RECIPES,
    TRAIN_KEYS,
    Config,
    check,
    check_sections,
    groups_of,
    unknown_key,
)
from lightning_modules.config.yaml_text import read_yaml
from schemes.errors import Problems, SchemenetError, unknown
from schemes.schema import objection

CONFIGS = ROOT / "configs"
REVISABLE = ("scheme", "grid", "data", "trainer")
"""Groups that an evaluation can change; the weights were trained for the others."""
FROM_COMMAND_LINE = ("folder", "overwrite", "launcher")
"""Keys that decide what is run and where is written: not for yaml files, which may be a stranger's.

Of the logger, a file sets the name alone.
"""
REFINABLE = ("architecture", "scheme", "sharing", "grid", "gradient")
"""Groups that a refinement can change; of the architecture its options."""
HYDRA = threading.Lock()
"""Taken while Hydra composes: it has one state for all threads of a process."""


def compose(command: str, overrides: Sequence[str], config_dir: str | None = None) -> ResolvedConfig:
    """The config of a command, checked, with the defaults of its sections.

    Args:
        command: ``train``, ``compare`` or ``sweep``.
        overrides: words such as ``scheme=rk4`` and ``trainer.max_epochs=2``.
        config_dir: a folder with yaml files of the user's own.

    Raises:
        SchemenetError: with every mistake found.
    """
    import_for_command(split_imports(overrides)[0])
    problems = Problems()
    groups, values = sort_words(overrides, problems)
    if command not in LAUNCHING and groups.pop("launcher", None) is not None:
        problems.add(unknown_key("launcher", command))
    chosen = {group: choice for group, choice in groups.items() if _is_known(group, choice, config_dir, problems)}
    config = _hydra(command, chosen, config_dir, problems)
    config = _with_new_keys(config, command, problems)
    if config_dir is not None:
        problems.add(*_said_by_files(config, command, chosen, config_dir))
    config = _without_other_kind(config, {key for key, _ in values})
    config = _without_other_axes(config, {*groups, *(key.split(".")[0] for key, _ in values)})
    for key, value in values:
        config = _with_value(config, key, value, command, problems)
    config = _without_other_arms(config, {key for key, _ in values})
    config = check(config, command, problems)
    problems.raise_if_any()
    return ResolvedConfig(config)


def override_for_eval(stored: Config, overrides: Sequence[str]) -> Config:
    """The config of a trained network with the overrides of an evaluation, and the keys of ``schemenet eval``.

    Args:
        stored: the config of the run.
        overrides: words of the command line.

    Raises:
        SchemenetError: with every mistake found, overrides of what the weights were trained for included.
    """
    return _overridden(stored, overrides, "eval", REVISABLE)


def override_for_refine(stored: Config, overrides: Sequence[str]) -> Config:
    """The config of a trained network with the overrides of ``schemenet refine``; arguments as of eval's."""
    return _overridden({**stored, "folder": None}, overrides, "refine", REFINABLE)


def _overridden(stored: Config, overrides: Sequence[str], command: str, changeable: Sequence[str]) -> Config:
    """The config of a trained network with words of a command that can change some groups, and the command's keys."""
    problems = Problems()
    groups, values = sort_words(overrides, problems)
    settings = KEYS[command]
    config = {**stored, **{key: parameter.default for key, parameter in settings.items()}}
    fixed = [group for group in (*REGISTRIES, *RECIPES) if group not in changeable]
    named = [*(group for group in groups if group in (*fixed, "architecture"))]
    for group in [*named, *(key.split(".")[0] for key, _ in values if key.split(".")[0] in fixed)]:
        problems.add(f"{group}: the weights were trained for it; {command} can change {', '.join(changeable)}")
    for group, choice in groups.items():
        if group not in (*fixed, "architecture") and _is_known(group, choice, None, problems):
            config[group] = {"name": static_registry(group).canonical(choice)}
    for key, value in values:
        if key.split(".")[0] not in fixed:
            config = _with_value(config, key, value, command, problems)
    for key, parameter in settings.items():
        if (problem := objection(config[key], parameter.annotation)) is not None:
            problems.add(f"{key}: {problem}")
        elif isinstance(config[key], int) and config[key] < 1:
            problems.add(f"{key}: expected at least 1, got {config[key]}")
    config |= check_sections(config, changeable, problems)
    problems.raise_if_any()
    return config


def validate_stored(config: Any, source: object) -> Config:
    """A config from a file, which may come from anywhere, with all names and types checked.

    A file does not decide to where data is downloaded: that key is left out.

    Args:
        config: the content of the file.
        source: the name of the file, for messages.

    Raises:
        SchemenetError: with every mistake found, each with the ``source``.
    """
    if not isinstance(config, dict):
        raise SchemenetError(f"{source}: expected the config of a run, got {type(config).__name__}")
    _require_imports(config, source)
    problems = Problems()
    config = copy.deepcopy(config)
    for group in ("architecture", "data", "trainer"):
        if not isinstance(config.get(group), dict):
            problems.add(f"{source}: {group}: expected a mapping with 'name', got {config.get(group)!r}")
    if isinstance(config.get("data"), dict):
        config["data"].pop("download", None)
    if (problem := objection(config.get("seed"), TRAIN_KEYS["seed"].annotation)) is not None:
        problems.add(f"{source}: seed: {problem}")
    in_sections = Problems()
    config |= check_sections(config, ("architecture", *AXES, "data", "trainer"), in_sections)
    problems.attempt(in_sections.raise_if_any, f"{source}: ")
    problems.raise_if_any()
    return config


def choices(group: str, config_dir: str | None = None, *, aliases: bool = True) -> list[str]:
    """The names that can be chosen for a group: those of its registry and of its yaml files.

    Args:
        group: a config group, such as ``scheme`` or ``experiment``.
        config_dir: a folder with yaml files of the user's own.
        aliases: with the registry's second names; without them every choice is there once.
    """
    folders = [CONFIGS / group, *([Path(config_dir) / group] if config_dir else [])]
    names = {path.stem for folder in folders for path in folder.glob("*.yaml")}
    if group in (*REGISTRIES, *NO_GROUPS):
        names |= set(static_registry(group).all_names() if aliases else static_registry(group))
    return sorted(names)


def _is_known(group: str, choice: str, config_dir: str | None, problems: Problems) -> bool:
    known = choices(group, config_dir)
    if choice not in known:
        problems.add(unknown(group, choice, known))
    return choice in known


def _hydra(command: str, groups: Mapping[str, str], config_dir: str | None, problems: Problems) -> Config:
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    from lightning_modules.config.registry_source import SEARCH_PATH

    search_path = [SEARCH_PATH]
    if config_dir:
        if not Path(config_dir).is_dir():
            raise SchemenetError(f"--config-dir: no folder {config_dir!r}")
        _check_files(Path(config_dir), groups)
        search_path.append(f"user://{Path(config_dir).resolve()}")
    overrides = [f"{group}={choice}" for group, choice in groups.items()]
    overrides.append(f"hydra.searchpath=[{','.join(map(quoted, search_path))}]")
    try:
        with HYDRA, initialize_config_dir(str(CONFIGS), version_base="1.3"):
            composed = hydra_compose(command, overrides)
        problems.add(*_resolvers(OmegaConf.to_container(composed, resolve=False)))
        config = OmegaConf.to_container(composed, resolve=True)
    except (HydraException, OmegaConfBaseException, YAMLError) as error:
        message = " ".join(str(error).split("\n\n")[0].split())
        if "Could not override 'architecture'" in message:
            message = (
                f"experiment {groups.get('experiment')!r} is for one network, by `schemenet train`; {FROM_NETWORKS}"
            )
        problems.add(message)
        raise problems.error() from error
    if not isinstance(config, dict):
        raise SchemenetError(f"configs/{command}.yaml is no mapping")
    return {str(key): value for key, value in config.items()}


def _said_by_files(config: Config, command: str, groups: Mapping[str, str], config_dir: str) -> list[str]:
    """Objections to keys that the user's yaml files set and must not set.

    Those of a launcher or logger named on the command line are allowed.
    """
    expected = _hydra(command, {}, None, Problems())
    named = {group: groups[group] for group in ("launcher", "logger") if group in groups}
    expected |= {group: _hydra(command, {group: named[group]}, config_dir, Problems()).get(group) for group in named}
    reserved = [key for key in FROM_COMMAND_LINE if config.get(key) != expected.get(key)]
    logger, default = (of["logger"] if isinstance(of.get("logger"), dict) else {} for of in (config, expected))
    reserved += [f"logger.{key}" for key in logger if key != "name" and logger[key] != default.get(key)]
    return [from_command_line(reserved)] if reserved else []


def for_command_line_only(key: str) -> bool:
    """Whether a key can be set on the command line alone, and in no file."""
    group, _, option = key.partition(".")
    return group in (*FROM_COMMAND_LINE, "imports") or (group == "logger" and option not in ("", "name"))


def from_command_line(keys: Sequence[str], place: str = "--config-dir") -> str:
    """The message for such keys in a file.

    Args:
        keys: that the file sets.
        place: the name of the file.
    """
    example = f"{keys[0]}={'NAME' if keys[0] == 'launcher' else '...'}"
    return (
        f"{place}: a yaml file does not say what is run, and where is written or logged to, so {', '.join(keys)} is "
        f"not read from it; say {example} on the command line"
    )


def _check_files(config_dir: Path, groups: Mapping[str, str]) -> None:
    """Raise SchemenetError for yaml files of the user that Hydra could not handle, or that need other modules.

    Args:
        config_dir: of whose files those are read that a choice names, or the defaults of such a file.
        groups: the choices.
    """
    paths = {path for group in (*REGISTRIES, *RECIPES) for path in (config_dir / group).glob("*.yaml")}
    chosen = {config_dir / group / f"{choice}.yaml" for group, choice in groups.items()}
    named = paths & chosen
    while named:
        path = min(named)
        paths.remove(path)
        try:
            content = read_yaml(path.read_text(encoding="utf-8"), path)
        except (OSError, UnicodeDecodeError) as error:
            raise SchemenetError(f"{path} cannot be read as yaml: {error}") from error
        defaults = str(content.get("defaults", "")) if isinstance(content, dict) else ""
        named = {other for other in paths if other in named or other.stem in defaults}
        if path in chosen and isinstance(content, dict):
            _require_imports(content, path)


def _require_imports(content: Config, source: object) -> None:
    """Raise SchemenetError where a file names modules that are not imported."""
    names = content.get("imports") or []
    if (problem := objection(names, TRAIN_KEYS["imports"].annotation)) is not None:
        raise SchemenetError(f"{source}: imports: {problem}")
    problems = Problems()
    problems.add(*missing_imports(names, source))
    problems.raise_if_any()


def _resolvers(value: Any, place: str = "") -> list[str]:
    """Objections to values that are computed: a stored config could reveal the environment and its secrets."""
    if isinstance(value, Mapping | list):
        items = value.items() if isinstance(value, Mapping) else enumerate(value)
        return [message for key, item in items for message in _resolvers(item, f"{place}.{key}" if place else str(key))]
    if isinstance(value, str) and re.search(r"\$\{.*:", value, re.DOTALL):
        return [f"{place}: {value!r} is not resolved; ${{...}} can name another key, and no variable or function"]
    return []


def _with_value(config: Config, key: str, value: Any, command: str, problems: Problems) -> Config:
    """The config with a value under a key such as ``trainer.max_epochs``."""
    first, *rest = key.split(".")
    if first not in (*groups_of(command), *KEYS[command]):
        problems.add(unknown_key(first, command))
        return config
    if rest and first in SHORT and not isinstance(config.get(first), dict | None):
        config = {**config, first: {SHORT[first]: config[first]}}
    try:
        return _updated(config, (first, *rest), value)
    except _NoKeysError as error:
        problems.add(f"{key}: {error}")
        return config


class _NoKeysError(ValueError):
    """A key leads into a value that has none."""


def _updated(section: Config, path: Sequence[str], value: Any) -> Config:
    """A copy of nested dicts with the value at the end of the path."""
    first, *rest = path
    if not rest:
        return {**section, first: value}
    inner = section.get(first)
    if not isinstance(inner, dict | None):
        raise _NoKeysError(f"{first} is {inner!r} and has no keys")
    return {**section, first: _updated(inner or {}, rest, value)}


def _with_new_keys(config: Config, command: str, problems: Problems) -> Config:
    """The config of the user's yaml files with the new name of every key that had another one before."""
    from yaml import safe_load

    old_names = {old: key for old, key in ALIASES.items() if key in KEYS[command] and old in config}
    for old, key in old_names.items():
        if config.get(key) != safe_load((CONFIGS / f"{command}.yaml").read_text(encoding="utf-8"))[key]:
            problems.add(f"{old} and {key} are one key; leave {old} out")
    renamed = {key: config[old] for old, key in old_names.items()}
    return {**{key: value for key, value in config.items() if key not in old_names}, **renamed}


def _without_other_kind(config: Config, keys: set[str]) -> Config:
    """The config without a file's target of a budget, where the user chose another kind of budget."""
    if "budget.kind" in keys and not keys & {"budget", "budget.target"}:
        return {**config, "budget": None}
    return config


def _without_other_axes(config: Config, requested: set[str]) -> Config:
    """The config without the axes of an experiment that belong to its network, if the user chose another network."""
    section = config.get("architecture")
    name = section.get("name") if isinstance(section, dict) else None
    if "architecture" not in requested or not isinstance(name, str) or name not in static_registry("architecture"):
        return config
    taken = static_registry("architecture").options(name)
    return {**config, **{axis: None for axis in AXES if axis not in taken and axis not in requested}}


def _without_other_arms(config: Config, keys: set[str]) -> Config:
    """The config without the options of arms in an experiment that are no arms of the user's choice of networks."""
    if "networks" not in keys or not isinstance(config.get("arms"), dict):
        return config
    from lightning_modules.config.network_names import networks_of

    typed = {key.split(".")[1] for key in keys if key.startswith("arms.")}
    words = config["networks"] if isinstance(config["networks"], list) else [config["networks"]]
    try:
        known = {choice.arm for word in (*words, config["baseline"]) for choice in networks_of(str(word))}
    except SchemenetError:  # reported where the words are checked
        return config
    return {**config, "arms": {arm: options for arm, options in config["arms"].items() if arm in known | typed}}
