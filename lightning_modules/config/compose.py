"""From words on the command line to one plain config, every mistake told at once and before torch is imported.

Hydra composes the groups (with experiments, and the user's own ``--config-dir``); values are set here, against the
signatures of what the names stand for. A config is a nested dict of plain data.
"""

from __future__ import annotations

import contextlib
import copy
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning_modules.config.overrides import quoted, sort_words
from lightning_modules.config.sections import SHORT
from lightning_modules.config.static_registry import REGISTRIES, ROOT, static_registry
from lightning_modules.config.validate import (
    ALIASES,
    AXES,
    EVAL_KEYS,
    FROM_NETWORKS,
    KEYS,
    LAUNCHING,
    RECIPES,
    TRAIN_KEYS,
    Config,
    check,
    check_section,
    groups_of,
    unknown_key,
)
from lightning_modules.config.yaml_text import read_yaml
from schemes.errors import SchemenetError, unknown
from schemes.schema import objection

CONFIGS = ROOT / "configs"
REVISABLE = ("scheme", "grid", "data", "trainer")
"""Groups that can be changed after training; everything else is what the weights were trained as."""
FROM_COMMAND_LINE = ("folder", "overwrite", "launcher")
"""What is run and where is written: a yaml file, which may be a stranger's, does not say.

Nor does it say where is logged to, but for the logger's name.
"""
FIXED = tuple(group for group in (*REGISTRIES, *RECIPES) if group not in REVISABLE)


def compose(command: str, overrides: Sequence[str], config_dir: str | None = None) -> Config:
    """The config of a command, with all defaults filled in. Raises SchemenetError with every mistake in it."""
    wrong: list[str] = []
    groups, values = sort_words(overrides, wrong)
    if command not in LAUNCHING and groups.pop("launcher", None) is not None:
        wrong.append(unknown_key("launcher", command))
    chosen = {group: choice for group, choice in groups.items() if _exists(group, choice, config_dir, wrong)}
    config = _hydra(command, chosen, config_dir, wrong)
    _rename_old_keys(config, command, wrong)
    if config_dir is not None:
        wrong += _said_by_files(config, command, chosen, config_dir)
    _forget_other_kind(config, {key for key, _ in values})
    _forget_other_axes(config, {*groups, *(key.split(".")[0] for key, _ in values)})
    for key, value in values:
        _set(config, key, value, command, wrong)
    _forget_other_arms(config, {key for key, _ in values})
    check(config, command, wrong)
    if wrong:
        raise SchemenetError("\n".join(dict.fromkeys(wrong)))
    return config


def revised(config: Config, overrides: Sequence[str]) -> Config:
    """The config of a trained network with what is changed for an evaluation, and the keys of `schemenet eval`."""
    wrong: list[str] = []
    groups, values = sort_words(overrides, wrong)
    config = copy.deepcopy(config) | {key: parameter.default for key, parameter in EVAL_KEYS.items()}
    for group in [group for group in (*groups, *(key.split(".")[0] for key, _ in values)) if group in FIXED]:
        wrong.append(f"{group}: the weights were trained for it; eval can change {', '.join(REVISABLE)}")
    for group, choice in groups.items():
        if group in REVISABLE and _exists(group, choice, None, wrong):
            config[group] = {"name": static_registry(group).canonical(choice)}
    for key, value in values:
        if key.split(".")[0] not in FIXED:
            _set(config, key, value, "eval", wrong)
    for key, parameter in EVAL_KEYS.items():
        if (problem := objection(config[key], parameter.annotation)) is not None:
            wrong.append(f"{key}: {problem}")
        elif config[key] < 1:
            wrong.append(f"{key}: expected at least 1, got {config[key]}")
    for group in REVISABLE:
        check_section(config, group, config["architecture"]["name"], wrong)
    if wrong:
        raise SchemenetError("\n".join(dict.fromkeys(wrong)))
    return config


def believed(config: Any, source: object) -> Config:
    """A config as a file holds it, which may come from anywhere: what can be used of it, all names and types checked.

    Where data is downloaded to is never a file's to say. Raises SchemenetError that names the ``source``.
    """
    if not isinstance(config, dict):
        raise SchemenetError(f"{source}: expected the config of a run, got {type(config).__name__}")
    wrong: list[str] = []
    config = copy.deepcopy(config)
    for group in ("architecture", "data", "trainer"):
        if not isinstance(config.get(group), dict):
            wrong.append(f"{group}: expected a mapping with 'name', got {config.get(group)!r}")
    if isinstance(config.get("data"), dict):
        config["data"].pop("download", None)
    for key in ("seed", "sharing"):
        if (problem := objection(config.get(key), TRAIN_KEYS[key].annotation)) is not None:
            wrong.append(f"{key}: {problem}")
    architecture = check_section(config, "architecture", None, wrong)
    for group in (*AXES, "data", "trainer"):
        check_section(config, group, architecture, wrong)
    if wrong:
        raise SchemenetError("\n".join(f"{source}: {told}" for told in wrong))
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
    if group in REGISTRIES:
        names |= set(static_registry(group).all_names() if aliases else static_registry(group))
    return sorted(names)


def _exists(group: str, choice: str, config_dir: str | None, wrong: list[str]) -> bool:
    known = choices(group, config_dir)
    if choice not in known:
        wrong.append(unknown(group, choice, known))
    return choice in known


def _hydra(command: str, groups: Mapping[str, str], config_dir: str | None, wrong: list[str]) -> Config:
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
        _check_files(Path(config_dir))
        search_path.append(f"file://{Path(config_dir).resolve()}")
    overrides = [f"{group}={choice}" for group, choice in groups.items()]
    overrides.append(f"hydra.searchpath=[{','.join(map(quoted, search_path))}]")
    try:
        with initialize_config_dir(str(CONFIGS), version_base="1.3"):
            composed = hydra_compose(command, overrides)
        wrong += _resolvers(OmegaConf.to_container(composed, resolve=False))
        config = OmegaConf.to_container(composed, resolve=True)
    except (HydraException, OmegaConfBaseException, YAMLError) as error:
        told = " ".join(str(error).split("\n\n")[0].split())
        if "Could not override 'architecture'" in told:
            told = f"experiment {groups.get('experiment')!r} is for one network, by `schemenet train`; {FROM_NETWORKS}"
        raise SchemenetError("\n".join([*wrong, told])) from error
    if not isinstance(config, dict):
        raise SchemenetError(f"configs/{command}.yaml is no mapping")
    return {str(key): value for key, value in config.items()}


def _said_by_files(config: Config, command: str, groups: Mapping[str, str], config_dir: str) -> list[str]:
    """Objections to what the user's yaml files say, and should not.

    Those of a launcher or logger named by command line may.
    """
    expected = _hydra(command, {}, None, [])
    named = {group: groups[group] for group in ("launcher", "logger") if group in groups}
    expected |= {group: _hydra(command, {group: named[group]}, config_dir, []).get(group) for group in named}
    said = [key for key in FROM_COMMAND_LINE if config.get(key) != expected.get(key)]
    logger, default = (of.get("logger") if isinstance(of.get("logger"), dict) else {} for of in (config, expected))
    said += [f"logger.{key}" for key in logger if key != "name" and logger[key] != default.get(key)]
    return [from_command_line(said)] if said else []


def for_command_line_only(key: str) -> bool:
    """Whether a key of the command line is none that a file sets."""
    group, _, option = key.partition(".")
    return group in FROM_COMMAND_LINE or (group == "logger" and option not in ("", "name"))


def from_command_line(keys: Sequence[str], place: str = "--config-dir") -> str:
    """The refusal of such keys where a file sets them."""
    example = f"{keys[0]}={'NAME' if keys[0] == 'launcher' else '...'}"
    return (
        f"{place}: a yaml file does not say what is run, and where is written or logged to, so {', '.join(keys)} is "
        f"not read from it; say {example} on the command line"
    )


def _check_files(config_dir: Path) -> None:
    """Refuse yaml files of the user's that Hydra would read, and what reads them would not survive."""
    for group in (*REGISTRIES, *RECIPES):
        for path in sorted((config_dir / group).glob("*.yaml")):
            try:
                read_yaml(path.read_text(encoding="utf-8"), path)
            except (OSError, UnicodeDecodeError) as error:
                raise SchemenetError(f"{path} cannot be read as yaml: {error}") from error


def _resolvers(value: Any, place: str = "") -> list[str]:
    """Objections to values that compute something: a stored config would tell of the machine, its secrets included."""
    if isinstance(value, Mapping | list):
        items = value.items() if isinstance(value, Mapping) else enumerate(value)
        return [told for key, item in items for told in _resolvers(item, f"{place}.{key}" if place else str(key))]
    if isinstance(value, str) and re.search(r"\$\{.*:", value, re.DOTALL):
        return [f"{place}: {value!r} is not resolved; ${{...}} can name another key, and no variable or function"]
    return []


def _set(config: Config, key: str, value: Any, command: str, wrong: list[str]) -> None:
    *path, last = key.split(".")
    if (path or [last])[0] not in (*groups_of(command), *KEYS[command]):
        wrong.append(unknown_key((path or [last])[0], command))
        return
    place = config
    for part in path:
        if place is config and part in SHORT and not isinstance(place.get(part), dict | None):
            place[part] = {SHORT[part]: place[part]}
        if place.get(part) is None:
            place[part] = {}
        place = place[part]
        if not isinstance(place, dict):
            wrong.append(f"{key}: {part} is {place!r} and has no keys")
            return
    place[last] = value


def _rename_old_keys(config: Config, command: str, wrong: list[str]) -> None:
    """Take keys of the user's yaml files by the names that they had before."""
    from yaml import safe_load

    for old, key in ALIASES.items():
        if key in KEYS[command] and old in config:
            if config.get(key) != safe_load((CONFIGS / f"{command}.yaml").read_text(encoding="utf-8"))[key]:
                wrong.append(f"{old} and {key} are one key; leave {old} out")
            config[key] = config.pop(old)


def _forget_other_kind(config: Config, keys: set[str]) -> None:
    """A budget of another kind needs a target of its own: the one that stands in a file is none of it."""
    if "budget.kind" in keys and not keys & {"budget", "budget.target"}:
        config["budget"] = None


def _forget_other_axes(config: Config, asked: set[str]) -> None:
    """The axes of an experiment are its own network's; another one, which the user chose, has those that it takes."""
    section = config.get("architecture")
    name = section.get("name") if isinstance(section, dict) else None
    if "architecture" in asked and name in static_registry("architecture"):
        taken = static_registry("architecture").options(name)
        config.update({axis: None for axis in AXES if axis not in taken and axis not in asked})


def _forget_other_arms(config: Config, asked: set[str]) -> None:
    """What an experiment says of single arms is for its own networks; the user's may leave some of them out."""
    if "networks" not in asked or not isinstance(config.get("arms"), dict):
        return
    from lightning_modules.config.network_names import networks_of

    typed = {key.split(".")[1] for key in asked if key.startswith("arms.")}
    words = config["networks"] if isinstance(config["networks"], list) else [config["networks"]]
    with contextlib.suppress(SchemenetError):  # which is reported when the networks are checked
        known = {choice.arm for word in (*words, config["baseline"]) for choice in networks_of(str(word))}
        config["arms"] = {arm: own for arm, own in config["arms"].items() if arm in known | typed}


def described(config: Config) -> Config:
    """The config with every default of its network filled in, as it is stored with a run."""
    names = static_registry("architecture")
    architecture = dict(config["architecture"])
    defaults = names.defaults(architecture["name"])
    complete = {
        **config,
        "architecture": {
            **{k: v for k, v in defaults.items() if k not in (*AXES, "sharing")},
            **architecture,
        },
    }
    for group in AXES:
        section = config.get(group) or defaults.get(group)
        if section is not None:
            section = {"name": section} if isinstance(section, str) else dict(section)
            complete[group] = {**static_registry(group).defaults(section["name"]), **section}
    complete["sharing"] = config.get("sharing") or defaults.get("sharing")
    return complete


def network_options(config: Config) -> dict[str, Any]:
    """The arguments of ``create_model`` beside its name and the data's shape."""
    options = {key: value for key, value in config["architecture"].items() if key != "name"}
    options |= {group: config[group] for group in AXES if config.get(group) is not None}
    if config.get("sharing") is not None:
        options["sharing"] = config["sharing"]
    return options
