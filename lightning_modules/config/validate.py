"""The check of a config: unknown names and keys, wrong types and impossible pairs are collected.

The signatures of the registered entries are the schema, read from the source: nothing here imports torch.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from typing import Any

from architectures.registry import tasks_of
from lightning_modules.config.imports import recorded_imports
from lightning_modules.config.sections import SECTIONS, keys_of, section
from lightning_modules.config.static_registry import REGISTRIES, static_registry
from schemes.errors import Problems, not_taken, unknown
from schemes.schema import Parameter, objection

Config = dict[str, Any]

RECIPES = ("experiment", "debug")
"""Groups that override others instead of naming an entry of a registry."""

TRAIN_KEYS = {
    "seed": Parameter("seed", "int"),
    "folder": Parameter("folder", "str | None"),
    "overwrite": Parameter("overwrite", "bool"),
    "start_from": Parameter("start_from", "str | None"),
    "imports": Parameter("imports", "Sequence[str]"),
    "callbacks": Parameter("callbacks", "Sequence[str | Mapping]"),
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
REFINE_KEYS = {"folder": Parameter("folder", "str | None", None)}
KEYS = {
    "train": TRAIN_KEYS, "compare": COMPARE_KEYS, "sweep": SWEEP_KEYS, "eval": EVAL_KEYS, "refine": REFINE_KEYS
}  # fmt: skip

ALIASES = {"words": "networks"}
"""Earlier names of keys; both are read, and the new one is stored."""

LAUNCHING = ("compare", "sweep")
"""Commands whose runs a launcher starts."""

FROM_NETWORKS = "compare takes its networks from networks=[...]; options of one of them are set as arms.NAME.KEY=VALUE"

ABSENT_WHEN_EMPTY = ("imports", "callbacks")
"""Keys that a config without any does not have, as the configs from before these keys."""

AXES = ("scheme", "field", "sharing", "grid", "gradient", "noise")
"""Groups whose defaults are the architecture's."""

OF_ONE_NETWORK = ("architecture", *AXES)
"""Keys of a single network, which a comparison does not have."""


def groups_of(command: str) -> list[str]:
    """The config groups of a command."""
    return [group for group in REGISTRIES if group != "launcher" or command in LAUNCHING]


def unknown_key(key: str, command: str) -> str:
    """The objection to a key that a command does not have, with where it belongs or what is nearest.

    Args:
        key: of the config.
        command: ``train``, ``compare``, ``sweep`` or ``eval``.
    """
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


def check(config: Config, command: str, problems: Problems) -> Config:
    """The config of a command with canonical names and the defaults of its sections.

    Args:
        config: as composed; it is not changed.
        command: ``train``, ``compare`` or ``sweep``.
        problems: gets unknown names, unknown keys, wrong types and impossible pairs.
    """
    config = dict(config)
    for key, parameter in KEYS[command].items():
        if parameter.annotation.startswith("Sequence[str") and isinstance(config.get(key), str | Mapping):
            config[key] = [config[key]]  # one word is a list of one
        if (problem := objection(config.get(key), parameter.annotation)) is not None:
            problems.add(f"{key}: {problem}")
    problems.add(
        *(unknown_key(key, command) for key in config if key not in (*groups_of(command), *KEYS[command], *RECIPES))
    )
    config = {key: value for key, value in config.items() if key not in RECIPES}
    compared: list[str] = []
    if command == "compare" and not any(objection(config.get(k), p.annotation) for k, p in COMPARE_KEYS.items()):
        compared = _check_comparison(config, problems)
        config = {key: value for key, value in config.items() if key not in OF_ONE_NETWORK}
    checked = check_sections(config, tuple(REGISTRIES), problems)
    config |= checked
    if command != "compare":
        problems.add(*_unfit(config, _name(checked, "architecture")))
    config["callbacks"] = _checked_callbacks(config, command, problems)
    config["imports"] = recorded_imports(config, compared)
    return {key: value for key, value in config.items() if value or key not in ABSENT_WHEN_EMPTY}


def check_sections(config: Config, groups: Sequence[str], problems: Problems) -> Config:
    """The sections of some groups, each checked and completed; those that are absent or wrong are left out.

    Args:
        config: as composed.
        groups: of the config.
        problems: gets the mistakes.
    """
    checked = {}
    for group in sorted(groups, key=lambda group: group != "architecture"):  # which the others are checked against
        architecture = _name(checked if "architecture" in groups else config, "architecture")
        if (section := _check_section(config.get(group), group, architecture, problems)) is not None:
            checked[group] = section
    return checked


def _name(config: Config, group: str) -> str | None:
    return config[group]["name"] if isinstance(config.get(group), dict) else None


def _unfit(config: Config, architecture: str | None) -> list[str]:
    """The objection to an architecture that is for another task than the data, if it is."""
    data = config.get("data")
    if architecture is None or not isinstance(data, dict) or data.get("name") not in static_registry("data"):
        return []
    networks, sets = static_registry("architecture"), static_registry("data")
    task = tasks_of(sets.entry(data["name"]).facts)[0]
    if task in (tasks := tasks_of(networks.entry(architecture).facts)):
        return []
    fit = [entry.name for entry in networks.families() if task in tasks_of(entry.facts)]
    suited = [entry.name for entry in sets.families() if tasks_of(entry.facts)[0] in tasks]
    return [
        f"architecture {architecture!r} is for {' and '.join(tasks)}, and data {data['name']!r} is for {task}; "
        f"architectures for {task}: {', '.join(fit)}; data for {' or '.join(tasks)}: {', '.join(suited)}"
    ]


def _check_comparison(config: Config, problems: Problems) -> list[str]:
    """Check networks, controls and the options of single arms; returns the architectures that are compared."""
    from lightning_modules.config.network_names import controls, networks_of, parse_seeds

    if not config["networks"]:
        example = "networks=[rk2,reversible]"
        problems.add(f"networks: expected the networks to compare with the baseline, e.g. {example}, got []")
    for key in ("networks", "controls"):
        twice = [word for word in dict.fromkeys(config[key]) if list(config[key]).count(word) > 1]
        problems.add(*(f"{key}: {word!r} is given twice; leave one out" for word in twice))
    arms: dict[str, str] = {}
    for key in ("networks", "baseline"):
        for word in [config[key]] if key == "baseline" else config[key]:
            choices = problems.attempt(lambda word=word: networks_of(str(word)), f"{key}: ") or ()
            arms |= {choice.arm: choice.architecture for choice in choices}
    for name in config["controls"]:
        if name in controls():
            arms[name] = name
        else:
            problems.add(f"controls: {unknown('control', name, controls())}")
    seeds = problems.attempt(lambda: parse_seeds(config["seeds"]), "seeds: ")
    requested = {key: problems.attempt(lambda key=key: section(key, config[key])) for key in SECTIONS}
    if (tuning := requested["tune"]) is not None and seeds:
        problems.attempt(lambda: tuning.disjoint_seeds(seeds))
    if (config.get("data") or {}).get("validation") is not None:
        problems.add("data.validation: compare reports test errors; tuning holds out its own share, tune.validation")
    problems.add(*(f"{group}: {FROM_NETWORKS}" for group in OF_ONE_NETWORK if config.get(group) is not None))
    for architecture in dict.fromkeys(arms.values()):
        problems.add(*_unfit(config, architecture))
    for arm, options in (config["arms"] or {}).items():
        if arm not in arms:
            problems.add(f"arms: {unknown('arm', arm, arms)}")
            continue
        known = static_registry("architecture").options(arms[arm])
        for key, value in (options or {}).items():
            if key not in known:
                problems.add(not_taken(f"arms.{arm}: {arms[arm]!r}", key, known))
            elif (problem := objection(value, known[key].annotation)) is not None:
                problems.add(f"arms.{arm}.{key}: {problem}")
    return list(dict.fromkeys(arms.values()))


def _checked_callbacks(config: Config, command: str, problems: Problems) -> list[Config]:
    """The callbacks of a config, each a mapping with its name and all options."""
    if objection(choices := config.get("callbacks", []), KEYS[command]["callbacks"].annotation) is not None:
        return []
    names = static_registry("callback")
    checked: list[Config] = []
    for choice in choices:
        if (spec := problems.attempt(lambda choice=choice: names.check_spec(choice), "callbacks: ")) is None:
            continue
        name = names.canonical(spec[0])
        if any(name == other["name"] for other in checked):
            problems.add(f"callbacks: {name!r} is given twice; leave one out")
        if names.entry(name).facts.get("selects") and (reason := _no_selection(config, command)) is not None:
            problems.add(f"callbacks: {name} {reason}")
        checked.append({"name": name, **names.defaults(name), **spec[1]})
    return checked


def _no_selection(config: Config, command: str) -> str | None:
    """Why no epoch can be selected; None where there is a validation split for it."""
    if command == "compare":
        return (
            "selects an epoch by a validation split, and compare reports the test errors of networks that were trained "
            "to the end, all equally long; leave it out"
        )
    if (config.get("data") or {}).get("validation") is None:
        return (
            "selects an epoch by the validation split, never by the test set; hold one out, such as data.validation=0.1"
        )
    return None


def _check_section(section: Any, group: str, architecture: str | None, problems: Problems) -> Config | None:
    """One group's section with its canonical name and defaults; None where it is absent or names nothing."""
    if section is None:
        return None
    if isinstance(section, str):
        section = {"name": section}
    if not isinstance(section, dict):
        problems.add(f"{group}: expected one name or a mapping with 'name', got {section!r}")
        return None
    names = static_registry(group)
    if "name" not in section and group in AXES and architecture is not None:
        # scheme.k=0.5 alone: the parameters are for the scheme that the architecture brings.
        inherited = static_registry("architecture").defaults(architecture).get(group)
        if inherited is not None:
            section = {**({"name": inherited} if isinstance(inherited, str) else inherited), **section}
    name = section.get("name")
    if not isinstance(name, str) or name not in names:
        problems.add(unknown(names.kind, name, names.all_names()))
        return None
    name = names.canonical(name)
    problems.add(*_missing_packages(group, name))
    top_level_keys = AXES if group == "architecture" else ()
    options = {key: p for key, p in names.options(name).items() if key not in top_level_keys}
    for key, value in section.items():
        if key == "name":
            continue
        if key in top_level_keys:
            problems.add(f"architecture.{key}: this is a key of its own; write {key}=...")
        elif key not in options:
            problems.add(not_taken(f"{names.kind} {name!r}", key, options))
        elif (problem := objection(value, options[key].annotation)) is not None:
            problems.add(f"{group}.{key}: {problem}")
    if (
        group in AXES
        and architecture is not None
        and group not in static_registry("architecture").options(architecture)
    ):
        taking = ", ".join(_taking(group, "architecture"))
        problems.add(f"architecture {architecture!r} takes no {group} ({group}={name}); ones that do: {taking}")
    # What an axis or an architecture has by default is the network's to say: see ResolvedConfig.complete.
    defaults = {} if group in (*AXES, "architecture") else names.defaults(name)
    return {**defaults, **section, "name": name}


def _missing_packages(group: str, name: str) -> list[str]:
    """The objection to a part whose packages are not installed."""
    required = static_registry(group).entry(name).facts.get("requires", ())
    missing = [package for package in required if importlib.util.find_spec(package) is None]
    return [f"{group}={name} needs {' and '.join(missing)}: pip install {' '.join(missing)}"] if missing else []


def _taking(key: str, group: str) -> list[str]:
    """The names of a group that have this key among their options."""
    names = static_registry(group)
    return [entry.name for entry in names.families() if key in names.options(entry.name)]
