"""What a comparison will train: arms with matched sizes, known before anything is trained."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import torch

from architectures.budget import match_budget
from architectures.factory import create_model
from architectures.ledger import parameters
from architectures.network import Network
from architectures.registry import ARCHITECTURES
from lightning_modules.comparing.words import Choice, networks_of, parse_budget, parse_seeds
from lightning_modules.composing import AXES, COMPARE_KEYS, TRAIN_KEYS, Config, chosen
from lightning_modules.running import data_context, dry_build, recipe_hash
from lightning_modules.text import aligned
from schemes.errors import SchemenetError

OF_THE_BASELINE = ("widths", "width", "inner", "stem", "norm", "field", "transition")
"""What a control has from the baseline."""

OWN_KEYS = ("launcher", *(key for key in COMPARE_KEYS if key not in TRAIN_KEYS))


@dataclass(frozen=True)
class PlannedArm:
    """One network: how it stands in the tables, and the training config of its runs (but for the seed)."""

    name: str
    word: str
    control: bool
    matched: bool
    config: Config
    sizes: dict[str, Any]

    def entry(self) -> dict[str, Any]:
        """As it stands in comparison.json."""
        return {
            "name": self.name,
            "word": self.word,
            "architecture": self.config["architecture"]["name"],
            "scheme": self.sizes["scheme"],
            "control": self.control,
            "matched": self.matched,
            "sizes": self.sizes,
            "recipe": recipe_hash(self.config),
        }


@dataclass(frozen=True)
class Plan:
    arms: tuple[PlannedArm, ...]
    baseline: str
    seeds: tuple[int, ...]
    budget: int | None
    recipe: Config

    def sizes_table(self) -> str:
        """The arms' sizes, for the screen before training starts."""
        columns = ("scheme", "steps", "h", "widths", "inner", "stem", "norm", "parameters")
        rows = [
            [
                arm.name + (" (control)" if arm.control else ""),
                *(_cell(arm.sizes[column]) for column in columns),
            ]
            for arm in self.arms
        ]
        budget = "no budget" if self.budget is None else f"budget {self.budget:,} parameters"
        told = f"{len(self.arms)} networks, {len(self.seeds)} paired seeds, {budget}"
        return f"{told}\n\n{aligned([['arm', *columns], *rows])}"

    def hash(self) -> str:
        """Eight characters that tell comparisons apart by their arms' recipes."""
        recipes = " ".join(f"{arm.name}:{recipe_hash(arm.config)}" for arm in self.arms)
        return hashlib.sha256(recipes.encode()).hexdigest()[:8]

    def document(self, command: str, versions: dict[str, str], machine: str) -> dict[str, Any]:
        """The content of comparison.json."""
        return {
            "command": command,
            "budget": self.budget,
            "baseline": self.baseline,
            "seeds": list(self.seeds),
            "data": self.recipe["data"]["name"],
            "epochs": self.recipe["trainer"].get("max_epochs"),
            "recipe": self.recipe,
            "recipe_hash": self.hash(),
            "versions": versions,
            "machine": machine,
            "arms": [arm.entry() for arm in self.arms],
        }


def make_plan(config: Config) -> Plan:
    """Match sizes and try every arm on the meta device. Raises SchemenetError with every mistake found."""
    wrong: list[str] = []
    budget = parse_budget(config["budget"])
    seeds = parse_seeds(config["seeds"])
    recipe = {k: v for k, v in config.items() if k not in (*OWN_KEYS, *AXES, "architecture", "folder", "overwrite")}
    recipe |= {"sharing": None, "seed": seeds[0]}
    baseline = networks_of(config["baseline"])[0]
    named = [choice for word in config["words"] for choice in networks_of(word)]
    if baseline.arm not in {choice.arm for choice in named}:
        named = [baseline, *named]
    options = config["arms"] or {}

    data, _ = dry_build({**recipe, "architecture": {"name": baseline.architecture}})
    context = data_context(data)
    arms: list[PlannedArm] = []
    controls = [Choice(name, name) for name in config["controls"]]
    # Two words may mean one network; it is trained once.
    for choice in {choice.arm: choice for choice in [*named, *controls]}.values():
        control = choice in controls
        own = dict(options.get(choice.arm, {}))
        if choice.scheme is not None:
            own.setdefault("scheme", chosen("scheme", choice.scheme))
        try:
            if control:
                reference = next(arm for arm in arms if arm.name == baseline.arm)
                section = {**ARCHITECTURES.entry(baseline.architecture).preset, **reference.config["architecture"]}
                own = {key: section[key] for key in OF_THE_BASELINE if key in section} | own
            elif budget is not None:
                own |= match_budget(
                    choice.architecture, parameters=budget, tolerance=config["tolerance"], **context, **own
                )
            arm = _arm(choice, control, budget is not None and not control, own, recipe, context)
            dry_build(arm.config)
            arms.append(arm)
        except SchemenetError as error:
            wrong.append(f"{choice.arm}: {error}")
        except StopIteration:
            pass  # the baseline itself has failed, and says so
    if wrong:
        raise SchemenetError("\n".join(dict.fromkeys(wrong)))
    return Plan(tuple(arms), baseline.arm, seeds, budget, recipe)


def _arm(
    choice: Choice, control: bool, matched: bool, own: dict[str, Any], recipe: Config, context: dict[str, Any]
) -> PlannedArm:
    with torch.device("meta"):
        network = create_model(choice.architecture, **context, **own)
    axes = {key: own.pop(key) for key in (*AXES, "sharing") if key in own}
    axes = {k: {"name": v} if isinstance(v, str) and k != "sharing" else v for k, v in axes.items()}
    config = {**recipe, "architecture": {"name": choice.architecture, **own}, **axes}
    return PlannedArm(choice.arm, choice.word, control, matched, config, sizes_of(network))


def sizes_of(network: Network) -> dict[str, Any]:
    """What a table tells of a network before it is trained."""
    sizes = dict(network.layout)
    sizes["steps"] = "-".join(map(str, sizes["steps"])) or "none"
    sizes["h"] = sizes["h"][0] if len(sizes["h"]) == 1 else sizes["h"]
    return {**sizes, "parameters": parameters(network)}


def _cell(value: Any) -> str:
    if isinstance(value, int):
        return f"{value:,}"
    return " ".join(map(str, value)) if isinstance(value, list) else f"{value}"
