"""Names of arms: each network's architecture, and the keys by which it differs from the others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from lightning_modules.comparing.stored_runs import FlatConfig, shown

SIZES = ("architecture.width", "architecture.widths", "architecture.inner")
"""Keys that a budget sets: the last ones to be taken into a name."""


def arm_names(configs: Sequence[FlatConfig], trained_as: Sequence[set[str | None]]) -> list[str]:
    """A name for each arm, no two alike: "resnet-rk4", "resnet-rk4 depth=32".

    Args:
        configs: the part of the config in which the arms differ, one for each arm.
        trained_as: the names that each arm's runs had in the comparison that trained them. Where it is one name, and
            no other arm's, the arm keeps it.
    """
    names = _descriptions(configs)
    known = [next(iter(arms)) if len(arms) == 1 else None for arms in trained_as]
    uses = Counter([*filter(None, known), *names])
    return [
        arm if arm is not None and uses[arm] == 1 + (arm == name) else name
        for arm, name in zip(known, names, strict=True)
    ]


def differing_keys(configs: Sequence[FlatConfig]) -> list[str]:
    """The keys that have more than one value, in alphabetical order."""
    keys = {key for config in configs for key in config}
    return sorted(key for key in keys if len({config.get(key) for config in configs}) > 1)


def _descriptions(configs: Sequence[FlatConfig]) -> list[str]:
    schemes: dict[str, set[str | None]] = {}
    for config in configs:
        schemes.setdefault(config["architecture.name"], set()).add(config.get("scheme.name"))
    heads = []
    for config in configs:
        architecture, scheme = config["architecture.name"], config.get("scheme.name")
        suffix = f"-{shown(scheme)}" if scheme and len(schemes[architecture]) > 1 else ""
        heads.append(f"{shown(architecture)}{suffix}")
    names = []
    for config, head in zip(configs, heads, strict=True):
        alike = [other for other, its_head in zip(configs, heads, strict=True) if its_head == head]
        names.append(" ".join([head, *(_setting(key, config[key]) for key in _fewest_keys(alike) if key in config)]))
    repeated: Counter[str] = Counter()
    for i, name in enumerate(names):  # values that differ only beyond what is shown of them
        repeated[name] += 1
        names[i] = name if repeated[name] == 1 else f"{name} #{repeated[name]}"
    return names


def _fewest_keys(configs: Sequence[FlatConfig]) -> list[str]:
    """The fewest keys, taken in order, whose values are another combination in each arm."""
    keys = {key for config in configs for key in config}
    chosen: list[str] = []
    kinds = 1
    for key in sorted(keys, key=lambda key: (key in SIZES, not key.endswith(".name"), key)):
        finer = len({tuple(config.get(k) for k in (*chosen, key)) for config in configs})
        if finer > kinds:
            chosen, kinds = [*chosen, key], finer
    return chosen


def _setting(key: str, value: str) -> str:
    return f"{key.removeprefix('architecture.').removesuffix('.name')}={shown(value)}"
