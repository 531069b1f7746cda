"""From words on the command line to one plain config, every mistake told at once and before torch is imported.

Hydra composes the groups (with experiments, and the user's own ``--config-dir``); values are set here, against the
signatures of what the names stand for. A config is a nested dict of plain data.
"""

from __future__ import annotations

import contextlib
import copy
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from architectures.registry import tasks_of
from lightning_modules.catalogue import REGISTRIES, ROOT, catalogue
from lightning_modules.comparing.asked import SECTIONS, SHORT, keys_of, section
from schemes.errors import SchemenetError, not_taken, unknown
from schemes.signature import Parameter, objection

Config = dict[str, Any]

CONFIGS = ROOT / "configs"
RECIPES = ("experiment", "debug")
"""Groups that override others instead of naming an entry of a registry."""

TRAIN_KEYS = {
    "seed": Parameter("seed", "int"),
    "sharing": Parameter("sharing", "Literal['per_step', 'shared', 'per_stage'] | None"),
    "folder": Parameter("folder", "str | None"),
    "overwrite": Parameter("overwrite", "bool"),
    "start_from": Parameter("start_from", "str | None"),
}
COMPARE_KEYS = TRAIN_KEYS | {
    "words": Parameter("words", "Sequence[str]"),
    "controls": Parameter("controls", "Sequence[str]"),
    "baseline": Parameter("baseline", "str"),
    "budget": Parameter("budget", "str | float | Mapping | None"),
    "tune": Parameter("tune", "Mapping | None"),
    "seeds": Parameter("seeds", "int | Sequence[int]"),
    "arms": Parameter("arms", "Mapping | None"),
}
SWEEP_KEYS = TRAIN_KEYS | {"baseline": Parameter("baseline", "str | None")}
EVAL_KEYS = {"statistics_batches": Parameter("statistics_batches", "int", 100)}
KEYS = {"train": TRAIN_KEYS, "compare": COMPARE_KEYS, "sweep": SWEEP_KEYS, "eval": EVAL_KEYS}

LAUNCHING = ("compare", "sweep")
"""Commands that hand their runs to a launcher."""

FROM_WORDS = "compare takes its networks from words=[...]; options of one of them are set as arms.NAME.KEY=VALUE"

AXES = ("scheme", "field", "grid", "gradient", "noise")
"""Groups that, where nothing is chosen, are the architecture's to say."""

REVISABLE = ("scheme", "grid", "data", "trainer")
"""Groups that can be changed after training; everything else is what the weights were trained as."""
FIXED = tuple(group for group in (*REGISTRIES, *RECIPES) if group not in REVISABLE)


def compose(command: str, overrides: Sequence[str], config_dir: str | None = None) -> Config:
    """The config of a command, with all defaults filled in. Raises SchemenetError with every mistake in it."""
    wrong: list[str] = []
    groups, values = _sort(overrides, wrong)
    if command not in LAUNCHING and groups.pop("launcher", None) is not None:
        wrong.append(_unknown_key("launcher", command))
    chosen = {group: choice for group, choice in groups.items() if _exists(group, choice, config_dir, wrong)}
    config = _hydra(command, chosen, config_dir, wrong)
    _forget_other_kind(config, {key for key, _ in values})
    _forget_other_axes(config, {*groups, *(key.split(".")[0] for key, _ in values)})
    for key, value in values:
        _set(config, key, value, command, wrong)
    _forget_other_arms(config, {key for key, _ in values})
    _check(config, command, wrong)
    if wrong:
        raise SchemenetError("\n".join(dict.fromkeys(wrong)))
    return config


def revised(config: Config, overrides: Sequence[str]) -> Config:
    """The config of a trained network with what is changed for an evaluation, and the keys of `schemenet eval`."""
    wrong: list[str] = []
    groups, values = _sort(overrides, wrong)
    config = copy.deepcopy(config) | {key: parameter.default for key, parameter in EVAL_KEYS.items()}
    for group in [group for group in (*groups, *(key.split(".")[0] for key, _ in values)) if group in FIXED]:
        wrong.append(f"{group}: the weights were trained for it; eval can change {', '.join(REVISABLE)}")
    for group, choice in groups.items():
        if group in REVISABLE and _exists(group, choice, None, wrong):
            config[group] = chosen(group, catalogue(group).canonical(choice))
    for key, value in values:
        if key.split(".")[0] not in FIXED:
            _set(config, key, value, "eval", wrong)
    for key, parameter in EVAL_KEYS.items():
        if (problem := objection(config[key], parameter.annotation)) is not None:
            wrong.append(f"{key}: {problem}")
        elif config[key] < 1:
            wrong.append(f"{key}: expected at least 1, got {config[key]}")
    for group in REVISABLE:
        _section(config, group, config["architecture"]["name"], wrong)
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
    architecture = _section(config, "architecture", None, wrong)
    for group in (*AXES, "data", "trainer"):
        _section(config, group, architecture, wrong)
    if wrong:
        raise SchemenetError("\n".join(f"{source}: {told}" for told in wrong))
    return config


def choices(group: str, config_dir: str | None = None) -> list[str]:
    """What can be chosen for a group: its yaml files, and the names of its registry."""
    return sorted({*files_of(group, config_dir), *(catalogue(group).names if group in REGISTRIES else ())})


def files_of(group: str, config_dir: str | None = None) -> list[str]:
    """The yaml files of a group: every choice once, under the name that is its own."""
    folders = [CONFIGS / group, *([Path(config_dir) / group] if config_dir else [])]
    return sorted({path.stem for folder in folders for path in folder.glob("*.yaml")})


def chosen(group: str, name: str) -> Config:
    """What a choice of a group stands for: the content of its yaml file."""
    from yaml import safe_load

    return safe_load((CONFIGS / group / f"{name}.yaml").read_text(encoding="utf-8"))


def _sort(overrides: Sequence[str], wrong: list[str]) -> tuple[dict[str, str], list[tuple[str, Any]]]:
    """Choices of groups, and single values; Hydra's own grammar reads them."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.core.override_parser.types import QuotedString
    from hydra.errors import HydraException

    def plain(value: Any) -> Any:
        if isinstance(value, QuotedString):
            return value.text
        if isinstance(value, list):
            return [plain(item) for item in value]
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items()}
        return value

    groups: dict[str, str] = {}
    values: list[tuple[str, Any]] = []
    parser = OverridesParser.create()
    for text in overrides:
        try:
            override = parser.parse_override(text)
        except HydraException:
            wrong.append(f"cannot read {text!r}; expected key=value, e.g. scheme=rk4 or trainer.max_epochs=2")
            continue
        key, value = override.key_or_group, plain(override.value())
        if override.is_delete() or override.is_sweep_override():
            wrong.append(f"{text!r}: only key=value is understood here; several values are for `schemenet sweep`")
        elif key in (*REGISTRIES, *RECIPES):
            if isinstance(value, str):
                groups[key] = value
            else:
                wrong.append(
                    f"{key}: expected one name, got {value!r}; parameters are set one by one, e.g. {key}.name=..."
                )
        else:
            values.append((key, value))
    return groups, values


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

    def has_file(group: str, choice: str) -> bool:
        folders = [CONFIGS, *([Path(config_dir)] if config_dir else [])]
        return any((folder / group / f"{choice}.yaml").is_file() for folder in folders)

    overrides = [f"{group}={choice}" for group, choice in groups.items() if has_file(group, choice)]
    if config_dir:
        if not Path(config_dir).is_dir():
            raise SchemenetError(f"--config-dir: no folder {config_dir!r}")
        overrides.append(f"hydra.searchpath=[{_quoted(f'file://{Path(config_dir).resolve()}')}]")
    try:
        with initialize_config_dir(str(CONFIGS), version_base="1.3"):
            composed = hydra_compose(command, overrides)
        wrong += _resolvers(OmegaConf.to_container(composed, resolve=False))
        config = OmegaConf.to_container(composed, resolve=True)
    except (HydraException, OmegaConfBaseException, YAMLError) as error:
        told = " ".join(str(error).split("\n\n")[0].split())
        if "Could not override 'architecture'" in told:
            told = f"experiment {groups.get('experiment')!r} is for one network, by `schemenet train`; {FROM_WORDS}"
        raise SchemenetError("\n".join([*wrong, told])) from error
    if not isinstance(config, dict):
        raise SchemenetError(f"configs/{command}.yaml is no mapping")
    for group, choice in groups.items():
        if not has_file(group, choice):
            config[group] = {"name": choice}  # registered, without a yaml of its own (an alias, a size)
    return {str(key): value for key, value in config.items()}


def _quoted(text: str) -> str:
    """A word for Hydra, whatever characters it has."""
    return "'" + re.sub(r"(\\*)'", r"\1\1\\'", text) + "'"


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
    if (path or [last])[0] not in (*_groups(command), *KEYS[command]):
        wrong.append(_unknown_key((path or [last])[0], command))
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


def _forget_other_kind(config: Config, keys: set[str]) -> None:
    """A budget of another kind needs a target of its own: the one that stands in a file is none of it."""
    if "budget.kind" in keys and not keys & {"budget", "budget.target"}:
        config["budget"] = None


def _forget_other_axes(config: Config, asked: set[str]) -> None:
    """The axes of an experiment are its own network's; another one, which the user chose, has those that it takes."""
    section = config.get("architecture")
    name = section.get("name") if isinstance(section, dict) else None
    if "architecture" in asked and name in catalogue("architecture").names:
        taken = catalogue("architecture").options(name)
        config.update({axis: None for axis in AXES if axis not in taken and axis not in asked})


def _forget_other_arms(config: Config, asked: set[str]) -> None:
    """What an experiment says of single arms is for its own words; the user's may leave some of them out."""
    if "words" not in asked or not isinstance(config.get("arms"), dict):
        return
    from lightning_modules.comparing.words import networks_of

    typed = {key.split(".")[1] for key in asked if key.startswith("arms.")}
    words = config["words"] if isinstance(config["words"], list) else [config["words"]]
    with contextlib.suppress(SchemenetError):  # which is told when the words are checked
        known = {choice.arm for word in (*words, config["baseline"]) for choice in networks_of(str(word))}
        config["arms"] = {arm: own for arm, own in config["arms"].items() if arm in known | typed}


def _groups(command: str) -> list[str]:
    """The config groups of a command."""
    return [group for group in REGISTRIES if group != "launcher" or command in LAUNCHING]


def _unknown_key(key: str, command: str) -> str:
    if key == "launcher":
        return f"launcher: for runs of {' and '.join(LAUNCHING)}; `schemenet {command}` runs in this process"
    others = [other for other, keys in KEYS.items() if key in keys]
    if others:
        return f"{key}: a key of `schemenet {others[0]}`, not of {command}"
    groups = _groups(command)
    owners = {g: [n for n in catalogue(g).listings if key in catalogue(g).options(n)] for g in groups}
    owners |= {name: [key] * (key in keys_of(name)) for name in SECTIONS if name in KEYS[command]}
    if written := [f"{group}.{key}=..." for group, names in owners.items() if names]:
        return f"no key {key!r}; it is a parameter: {' or '.join(written)}"
    return unknown("key", key, [*groups, *KEYS[command]])


def _check(config: Config, command: str, wrong: list[str]) -> None:
    """Fill in names and defaults; object to unknown names, unknown keys and wrong types."""
    for key, parameter in KEYS[command].items():
        if parameter.annotation == "Sequence[str]" and isinstance(config.get(key), str):
            config[key] = [config[key]]  # one word is a list of one
        if (problem := objection(config.get(key), parameter.annotation)) is not None:
            wrong.append(f"{key}: {problem}")
    for key in config:
        if key not in (*_groups(command), *KEYS[command], *RECIPES):
            wrong.append(_unknown_key(key, command))
    for recipe in RECIPES:
        config.pop(recipe, None)
    if command == "compare" and not any(objection(config.get(k), p.annotation) for k, p in COMPARE_KEYS.items()):
        _check_comparison(config, wrong)
    architecture = _section(config, "architecture", None, wrong)
    for group in REGISTRIES:
        if group != "architecture":
            _section(config, group, architecture, wrong)
    if command != "compare":
        wrong += _unfit(config, architecture)


def _unfit(config: Config, architecture: str | None) -> list[str]:
    """The objection to an architecture that is not for what the data is for, where there is one."""
    data = config.get("data")
    if architecture is None or not isinstance(data, dict) or data.get("name") not in catalogue("data").names:
        return []
    task = tasks_of(catalogue("data").facts(data["name"]))[0]
    names = catalogue("architecture")
    if task in (own := tasks_of(names.facts(architecture))):
        return []
    fit = [name for name, listing in names.listings.items() if task in tasks_of(listing.facts)]
    sets = catalogue("data").listings
    suited = [name for name, listing in sets.items() if tasks_of(listing.facts)[0] in own]
    return [
        f"architecture {architecture!r} is for {' and '.join(own)}, and data {data['name']!r} is for {task}; "
        f"architectures for {task}: {', '.join(fit)}; data for {' or '.join(own)}: {', '.join(suited)}"
    ]


def _check_comparison(config: Config, wrong: list[str]) -> None:
    """Words, controls and the options of single arms."""
    from lightning_modules.comparing.words import controls, networks_of, parse_seeds

    def attempt(key: str, check: Callable[[Any], Any], value: Any) -> Any:
        try:
            return check(value)
        except SchemenetError as error:
            wrong.append(f"{key}: {error}")
        return None

    arms: dict[str, str] = {}
    for key in ("words", "baseline"):
        for word in [config[key]] if key == "baseline" else config[key]:
            arms |= {choice.arm: choice.architecture for choice in attempt(key, networks_of, str(word)) or ()}
    for name in config["controls"]:
        if name in controls():
            arms[name] = name
        else:
            wrong.append(f"controls: {unknown('control', name, controls())}")
    seeds = attempt("seeds", parse_seeds, config["seeds"])
    for key in SECTIONS:
        try:
            asked = section(key, config[key])
            if key == "tune" and asked is not None and seeds:
                asked.seeds_beside(seeds)
        except SchemenetError as error:
            wrong += str(error).splitlines()
    if (config.get("data") or {}).get("validation") is not None:
        wrong.append("data.validation: compare reports test errors; tuning holds out its own share, tune.validation")
    for group in ("architecture", *AXES, "sharing"):
        if config.pop(group, None) is not None:
            wrong.append(f"{group}: {FROM_WORDS}")
    wrong += [told for architecture in dict.fromkeys(arms.values()) for told in _unfit(config, architecture)]
    for arm, options in (config["arms"] or {}).items():
        if arm not in arms:
            wrong.append(f"arms: {unknown('arm', arm, arms)}")
            continue
        known = catalogue("architecture").options(arms[arm])
        for key, value in (options or {}).items():
            if key not in known:
                wrong.append(not_taken(f"arms.{arm}: {arms[arm]!r}", key, known))
            elif (problem := objection(value, known[key].annotation)) is not None:
                wrong.append(f"arms.{arm}.{key}: {problem}")


def _section(config: Config, group: str, architecture: str | None, wrong: list[str]) -> str | None:
    """Check one group's section and complete it; returns its canonical name where it has one."""
    section = config.get(group)
    if section is None:
        return None
    if not isinstance(section, dict):
        wrong.append(f"{group}: expected one name or a mapping with 'name', got {section!r}")
        return None
    names = catalogue(group)
    inherited: Any = None
    if "name" not in section and group in AXES and architecture is not None:
        # scheme.k=0.5 alone: the parameters are for the scheme that the architecture brings.
        inherited = catalogue("architecture").defaults(architecture).get(group)
        if inherited is not None:
            inherited = {"name": inherited} if isinstance(inherited, str) else dict(inherited)
            section = {**inherited, **section}
    name = section.get("name")
    if name not in names.names:
        wrong.append(unknown(names.kind, name, names.names))
        return None
    name = names.canonical(name)
    options = names.options(name)
    # A network's axes are groups of their own on the command line.
    open_to_user = {k: p for k, p in options.items() if not (group == "architecture" and k in (*AXES, "sharing"))}
    for key, value in section.items():
        if key == "name":
            continue
        if key not in open_to_user:
            if group == "architecture" and key in (*AXES, "sharing"):
                wrong.append(f"architecture.{key}: this is a key of its own; write {key}=...")
                continue
            wrong.append(not_taken(f"{names.kind} {name!r}", key, open_to_user))
        elif (problem := objection(value, open_to_user[key].annotation)) is not None:
            wrong.append(f"{group}.{key}: {problem}")
    if group in (*AXES, "architecture"):
        config[group] = {**section, "name": name}
    else:
        config[group] = {**names.defaults(name), **section, "name": name}
    if group in AXES and architecture is not None and group not in catalogue("architecture").options(architecture):
        wrong.append(
            f"architecture {architecture!r} takes no {group} ({group}={name}); "
            f"ones that do: {', '.join(_taking(group))}"
        )
    return name


def _taking(group: str) -> list[str]:
    names = catalogue("architecture")
    return [name for name in names.listings if group in names.options(name)]


def described(config: Config) -> Config:
    """The config with every default of its network filled in, as it is stored with a run."""
    names = catalogue("architecture")
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
            complete[group] = {**catalogue(group).defaults(section["name"]), **section}
    complete["sharing"] = config.get("sharing") or defaults.get("sharing")
    return complete


def network_options(config: Config) -> dict[str, Any]:
    """The arguments of ``create_model`` beside its name and the data's shape."""
    options = {key: value for key, value in config["architecture"].items() if key != "name"}
    options |= {group: config[group] for group in AXES if config.get(group) is not None}
    if config.get("sharing") is not None:
        options["sharing"] = config["sharing"]
    return options
