"""The plan of a comparison: its arms with matched sizes, built before anything is trained."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch

from architectures.costs.budget import STEP_TIME, Budget
from architectures.costs.ledger import STATIC_COSTS, has_data_dependent_cost, static_ledger
from architectures.factory import create_model
from architectures.model import Model
from architectures.registry import ARCHITECTURES
from lightning_modules.comparing.match_budget import Matching
from lightning_modules.comparing.report.formatting import human
from lightning_modules.config.network_names import Choice, networks_of, parse_seeds
from lightning_modules.config.resolved import ResolvedConfig, hash_of
from lightning_modules.config.sections import Tuning, section
from lightning_modules.config.validate import AXES, COMPARE_KEYS, TRAIN_KEYS, Config
from lightning_modules.data.datamodule import SplitData
from lightning_modules.metrics import measure_of
from lightning_modules.text import aligned, plural, terminal_width, waiting
from lightning_modules.training.dry_run import dry_build
from schemes.errors import Problems, SchemenetError

OF_THE_BASELINE = ("widths", "width", "inner", "stem", "norm", "field", "transition")
"""Options of a control that are the baseline's."""

COMPARISON_KEYS = ("launcher", *(key for key in COMPARE_KEYS if key not in TRAIN_KEYS))


COSTS = {
    "parameters": "parameters",
    "flow_parameters": "in flows",
    "macs": "MACs",
    "train_flops": "train FLOPs",
    "bytes_kept": "bytes kept",
}
"""Costs that are known before training, with their heads in a table."""


@dataclass(frozen=True)
class PlannedArm:
    """One network of a comparison, with the training config of its runs.

    Args:
        name: in tables and folders.
        word: the word of the command line that named it.
        control: whether it is a control.
        matched: whether it meets the budget.
        config: of its runs, but for the seed.
        sizes: its layout and its costs, see :func:`planned_arm`.
        knobs: the options that the budget set.
        untuned: the hash of the config before its learning rate was tuned; None without tuning.
        ledger: the costs of its runs, where they are known before training; None: each run counts its own.
    """

    name: str
    word: str
    control: bool
    matched: bool
    config: ResolvedConfig
    sizes: dict[str, Any]
    knobs: Mapping[str, Any] = field(default_factory=dict)
    untuned: str | None = None
    ledger: Mapping[str, int] | None = None

    def entry(self) -> dict[str, Any]:
        """Its entry in comparison.json."""
        return {
            "name": self.name,
            "word": self.word,
            "architecture": self.config["architecture"]["name"],
            "scheme": self.sizes["scheme"],
            "control": self.control,
            "matched": self.matched,
            "sizes": self.sizes,
            "knobs": dict(self.knobs),
            "recipe": self.config.recipe_hash,
            "untuned": self.untuned or self.config.recipe_hash,
        }


@dataclass(frozen=True)
class Plan:
    """Arms, seeds and recipe of a comparison.

    Args:
        arms: the networks, the baseline first.
        baseline: the name of one of them.
        seeds: each arm is trained with each of them.
        budget: its target is a number here; None without a budget.
        recipe: the training config that the arms share.
        tuning: of the learning rates; None without.
    """

    arms: tuple[PlannedArm, ...]
    baseline: str
    seeds: tuple[int, ...]
    budget: Budget | None
    recipe: Config
    tuning: Tuning | None = None

    def sizes_table(self) -> str:
        """The arms' sizes and costs as a table for the terminal."""
        budget = "no budget" if self.budget is None else f"budget {self.budget}"
        title = f"{plural(len(self.arms), 'network')}, {plural(len(self.seeds), 'seed')}, {budget}"
        grouped = any(arm.sizes.get("norm_groups") for arm in self.arms)
        columns = ("scheme", "steps", "h", "widths", "inner", "stem", "norm", *(["norm_groups"] if grouped else []))
        head = ["arm", *(column.replace("_", " ") for column in columns)]
        sizes = [[_labelled(arm), *(_cell(arm.sizes.get(column, "-")) for column in columns)] for arm in self.arms]
        return f"{title}\n\n{aligned([head, *sizes], terminal_width())}\n\n{self._costs_table()}"

    def _costs_table(self) -> str:
        base = next(arm.sizes for arm in self.arms if arm.name == self.baseline)
        kind = None if self.budget is None else self.budget.kind
        head = ["arm", *(f"{label}{' *' if name == kind else ''}" for name, label in COSTS.items())]
        rows = [
            [
                _labelled(arm),
                *(_with_ratio(arm.sizes[name], base[name], arm.matched and name == kind) for name in COSTS),
            ]
            for arm in self.arms
        ]
        batch = " or ".join(dict.fromkeys(str(arm.config["data"]["batch_size"]) for arm in self.arms))
        notes = [f"In brackets: times {self.baseline}'s. MACs and FLOPs of one sample, bytes of a batch of {batch}."]
        if kind is not None:
            notes.append("Matched in step time, measured." if kind == STEP_TIME else "*: matched to the budget.")
        if any(arm.sizes["macs"] is None for arm in self.arms):
            notes.append("-: depends on the steps that the solver will take.")
        return aligned([head, *rows], terminal_width()) + "\n\n" + " ".join(notes)

    def hash(self) -> str:
        """Eight characters of a hash of the arms' names and recipes."""
        recipes = " ".join(f"{arm.name}:{arm.config.recipe_hash}" for arm in self.arms)
        return hashlib.sha256(recipes.encode()).hexdigest()[:8]

    def shared(self) -> Config:
        """The recipe of all runs, without the seed and without a learning rate that is tuned for each arm."""
        shared = {key: value for key, value in self.recipe.items() if key != "seed"}
        if self.tuning is not None:
            shared["optimizer"] = {key: value for key, value in shared["optimizer"].items() if key != "lr"}
        return shared

    def recipe_hash(self) -> str:
        """Eight characters of a hash of :meth:`shared`."""
        return hash_of(self.shared())

    def document(self, command: str, versions: dict[str, str], machine: str) -> dict[str, Any]:
        """The content of comparison.json.

        Args:
            command: the command line, for the report.
            versions: of the packages, by name.
            machine: a line about the machine.
        """
        return {
            "kind": "comparison",
            "command": command,
            "budget": None if self.budget is None else asdict(self.budget),
            "baseline": self.baseline,
            "seeds": list(self.seeds),
            "data": self.recipe["data"]["name"],
            "measure": measure_of(self.recipe["data"]["name"]).key,
            "epochs": self.recipe["trainer"].get("max_epochs"),
            "recipe": self.shared(),
            "recipe_hash": self.recipe_hash(),
            "tuning": None if self.tuning is None else asdict(self.tuning),
            "versions": versions,
            "machine": machine,
            "arms": [arm.entry() for arm in self.arms],
        }


@waiting("counting costs")
def describe_network(config: ResolvedConfig) -> str:
    """Sizes and costs of the network of one run, as text; nothing is trained."""
    data, network = dry_build(config)
    name = config["architecture"]["name"]
    arm = planned_arm(name, config, network, data)
    return Plan((arm,), name, (config["seed"],), None, config.complete).sizes_table()


@waiting("matching sizes and counting costs")
def make_plan(config: ResolvedConfig, existing: Mapping[str, Any] | None = None) -> Plan:
    """Match sizes, and build every arm on the meta device.

    Args:
        config: the config of the command ``compare``.
        existing: the comparison.json that was written for this plan before, if any: measured targets are taken from
            it, so that a comparison resumes with the networks that it began with.

    Returns:
        The plan, its baseline first.

    Raises:
        SchemenetError: with the mistakes of all arms.
    """
    problems = Problems()
    seeds = parse_seeds(config["seeds"])
    recipe = {
        k: v for k, v in config.items() if k not in (*COMPARISON_KEYS, *AXES, "architecture", "folder", "overwrite")
    }
    recipe |= {"sharing": None, "seed": seeds[0]}
    if (tuning := section("tune", config["tune"])) is not None:
        last = recipe["trainer"]["max_epochs"]
        tuning = tuning.settled(seeds, last)
        recipe["trainer"] = {**recipe["trainer"], "check_test_every_n_epoch": last}  # the test set is read once
    baseline = networks_of(config["baseline"])[0]
    named = [choice for word in config["networks"] for choice in networks_of(word)]
    if baseline.arm not in {choice.arm for choice in named}:
        named = [baseline, *named]
    named.sort(key=lambda choice: choice.arm != baseline.arm)  # the others may be matched to it

    data, _ = dry_build(ResolvedConfig({**recipe, "architecture": {"name": baseline.architecture}}))
    matching = Matching(section("budget", config["budget"]), data, device_of(recipe), existing)
    arms: list[PlannedArm] = []
    controls = [Choice(name, name) for name in config["controls"]]
    # Two words may mean one network; it is trained once.
    for choice in {choice.arm: choice for choice in [*named, *controls]}.values():
        control = choice in controls
        options, knobs = _options(choice, config), {}
        failed = not any(arm.name == baseline.arm for arm in arms) and choice.arm != baseline.arm
        if failed and (control or matching.waits):
            continue  # the baseline's own mistake is reported
        try:
            if control:
                settings = {**ARCHITECTURES.entry(baseline.architecture).preset, **arms[0].config["architecture"]}
                options = {key: settings[key] for key in OF_THE_BASELINE if key in settings} | options
            else:
                knobs = matching.knobs(choice.arm, choice.architecture, options)
            arm = _arm(choice, control, matching.budget is not None and not control, options, knobs, recipe, data)
            dry_build(arm.config)
            arms.append(arm)
        except SchemenetError as error:
            problems.add(f"{choice.arm}: {error}")
    problems.raise_if_any()
    return Plan(tuple(arms), baseline.arm, seeds, matching.budget, recipe, tuning)


def device_of(recipe: Config) -> str:
    """The device on which step times of a recipe's networks are measured."""
    return "cuda" if torch.cuda.is_available() and recipe["trainer"]["accelerator"] != "cpu" else "cpu"


def _options(choice: Choice, config: ResolvedConfig) -> dict[str, Any]:
    """The options that the user sets for one network."""
    options = dict((config["arms"] or {}).get(choice.arm, {}))
    if choice.scheme is not None:
        options.setdefault("scheme", {"name": choice.scheme})
    return options


def _arm(
    choice: Choice,
    control: bool,
    matched: bool,
    options: dict[str, Any],
    knobs: Mapping[str, Any],
    recipe: Config,
    data: SplitData,
) -> PlannedArm:
    options = {**options, **knobs}
    with torch.device("meta"):
        network = create_model(choice.architecture, **data.context, **options)
    axes = {key: options.pop(key) for key in AXES if key in options}
    axes = {k: {"name": v} if isinstance(v, str) else v for k, v in axes.items()}
    config = ResolvedConfig({**recipe, "architecture": {"name": choice.architecture, **options}, **axes})
    arm = planned_arm(choice.arm, config, network, data)
    return replace(arm, word=choice.word, control=control, matched=matched, knobs=knobs)


def planned_arm(name: str, config: ResolvedConfig, network: Model, data: SplitData) -> PlannedArm:
    """The arm of a network, with its layout and its costs that are known before training.

    Runs in another precision than the network has here take other amounts of memory, and count their costs themselves.
    """
    counted = static_ledger(network, tuple(data.shape), data.batch_size)
    sizes = {**network.layout, **{name: counted.get(name) for name in STATIC_COSTS}}
    sizes["steps"] = "-".join(map(str, sizes["steps"])) or "none"
    sizes["h"] = sizes["h"][0] if len(sizes["h"]) == 1 else sizes["h"]
    whole = not has_data_dependent_cost(network) and config["trainer"]["precision"] == "32-true"
    return PlannedArm(name, "", False, False, config, sizes, ledger=counted if whole else None)


def _labelled(arm: PlannedArm) -> str:
    return arm.name + (" (control)" if arm.control else "")


def _cell(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else f"{value}"


def _with_ratio(cost: float | None, base: float | None, matched: bool) -> str:
    """A cost and how many times the baseline's it is."""
    if not cost or not base:
        return human(cost)
    return f"{human(cost)} ({cost / base:.2f}){' *' if matched else ''}"
