"""What keys of a config may be: each unknown name or key, wrong type and impossible pair is told, and none is raised.

The signatures of what the names stand for are the schema, read from the source: nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from architectures.registry import tasks_of
from lightning_modules.config.sections import SECTIONS, keys_of, section
from lightning_modules.config.static_registry import REGISTRIES, static_registry
from schemes.errors import SchemenetError, not_taken, unknown
from schemes.schema import Parameter, objection

Config = dict[str, Any]

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
    "networks": Parameter("networks", "Sequence[str]"),
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

ALIASES = {"words": "networks"}
"""Names that keys had before; both are read, and the new one is stored."""

LAUNCHING = ("compare", "sweep")
"""Commands that hand their runs to a launcher."""

FROM_NETWORKS = "compare takes its networks from networks=[...]; options of one of them are set as arms.NAME.KEY=VALUE"

AXES = ("scheme", "field", "grid", "gradient", "noise")
"""Groups that, where nothing is chosen, are the architecture's to say."""


def groups_of(command: str) -> list[str]:
    """The config groups of a command."""
    return [group for group in REGISTRIES if group != "launcher" or command in LAUNCHING]


def unknown_key(key: str, command: str) -> str:
    """The objection to a key that a command has not, with where it belongs or what is nearest."""
    if key == "launcher":
        return f"launcher: for runs of {' and '.join(LAUNCHING)}; `schemenet {command}` runs in this process"
    others = [other for other, keys in KEYS.items() if ALIASES.get(key, key) in keys]
    if others:
        return f"{key}: a key of `schemenet {others[0]}`, not of {command}"
    groups = groups_of(command)
    owners: dict[str, list[str]] = {group: _taking(key, group) for group in groups}
    owners |= {name: [key] * (key in keys_of(name)) for name in SECTIONS if name in KEYS[command]}
    if written := [f"{group}.{key}=..." for group, names in owners.items() if names]:
        return f"no key {key!r}; it is a parameter: {' or '.join(written)}"
    return unknown("key", key, [*groups, *KEYS[command]])


def check(config: Config, command: str, wrong: list[str]) -> None:
    """Fill in names and defaults; object to unknown names, unknown keys and wrong types."""
    for key, parameter in KEYS[command].items():
        if parameter.annotation == "Sequence[str]" and isinstance(config.get(key), str):
            config[key] = [config[key]]  # one word is a list of one
        if (problem := objection(config.get(key), parameter.annotation)) is not None:
            wrong.append(f"{key}: {problem}")
    for key in config:
        if key not in (*groups_of(command), *KEYS[command], *RECIPES):
            wrong.append(unknown_key(key, command))
    for recipe in RECIPES:
        config.pop(recipe, None)
    if command == "compare" and not any(objection(config.get(k), p.annotation) for k, p in COMPARE_KEYS.items()):
        _check_comparison(config, wrong)
    architecture = check_section(config, "architecture", None, wrong)
    for group in REGISTRIES:
        if group != "architecture":
            check_section(config, group, architecture, wrong)
    if command != "compare":
        wrong += _unfit(config, architecture)


def _unfit(config: Config, architecture: str | None) -> list[str]:
    """The objection to an architecture that is not for what the data is for, where there is one."""
    data = config.get("data")
    if architecture is None or not isinstance(data, dict) or data.get("name") not in static_registry("data"):
        return []
    networks, sets = static_registry("architecture"), static_registry("data")
    task = tasks_of(sets.entry(data["name"]).facts)[0]
    if task in (own := tasks_of(networks.entry(architecture).facts)):
        return []
    fit = [entry.name for entry in networks.families() if task in tasks_of(entry.facts)]
    suited = [entry.name for entry in sets.families() if tasks_of(entry.facts)[0] in own]
    return [
        f"architecture {architecture!r} is for {' and '.join(own)}, and data {data['name']!r} is for {task}; "
        f"architectures for {task}: {', '.join(fit)}; data for {' or '.join(own)}: {', '.join(suited)}"
    ]


def _check_comparison(config: Config, wrong: list[str]) -> None:
    """Networks, controls and the options of single arms."""
    from lightning_modules.config.network_names import controls, networks_of, parse_seeds

    def attempt(key: str, check: Callable[[Any], Any], value: Any) -> Any:
        try:
            return check(value)
        except SchemenetError as error:
            wrong.append(f"{key}: {error}")
        return None

    if not config["networks"]:
        example = "networks=[rk2,reversible]"
        wrong.append(f"networks: expected the networks to compare with the baseline, e.g. {example}, got []")
    for key in ("networks", "controls"):
        twice = [word for word in dict.fromkeys(config[key]) if list(config[key]).count(word) > 1]
        wrong += [f"{key}: {word!r} is given twice; leave one out" for word in twice]
    arms: dict[str, str] = {}
    for key in ("networks", "baseline"):
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
            wrong.append(f"{group}: {FROM_NETWORKS}")
    wrong += [told for architecture in dict.fromkeys(arms.values()) for told in _unfit(config, architecture)]
    for arm, options in (config["arms"] or {}).items():
        if arm not in arms:
            wrong.append(f"arms: {unknown('arm', arm, arms)}")
            continue
        known = static_registry("architecture").options(arms[arm])
        for key, value in (options or {}).items():
            if key not in known:
                wrong.append(not_taken(f"arms.{arm}: {arms[arm]!r}", key, known))
            elif (problem := objection(value, known[key].annotation)) is not None:
                wrong.append(f"arms.{arm}.{key}: {problem}")


def check_section(config: Config, group: str, architecture: str | None, wrong: list[str]) -> str | None:
    """Check one group's section and complete it; returns its canonical name where it has one."""
    section = config.get(group)
    if section is None:
        return None
    if not isinstance(section, dict):
        wrong.append(f"{group}: expected one name or a mapping with 'name', got {section!r}")
        return None
    names = static_registry(group)
    inherited: Any = None
    if "name" not in section and group in AXES and architecture is not None:
        # scheme.k=0.5 alone: the parameters are for the scheme that the architecture brings.
        inherited = static_registry("architecture").defaults(architecture).get(group)
        if inherited is not None:
            inherited = {"name": inherited} if isinstance(inherited, str) else dict(inherited)
            section = {**inherited, **section}
    name = section.get("name")
    if name not in names:
        wrong.append(unknown(names.kind, name, names.all_names()))
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
    if (
        group in AXES
        and architecture is not None
        and group not in static_registry("architecture").options(architecture)
    ):
        wrong.append(
            f"architecture {architecture!r} takes no {group} ({group}={name}); "
            f"ones that do: {', '.join(_taking(group, 'architecture'))}"
        )
    return name


def _taking(key: str, group: str) -> list[str]:
    """The names of a group that have this key among their options."""
    names = static_registry(group)
    return [entry.name for entry in names.families() if key in names.options(entry.name)]
