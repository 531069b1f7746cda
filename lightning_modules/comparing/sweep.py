"""A sweep: a comparison whose arms are the points of a grid of config values."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning_modules.comparing import wandb_sweep
from lightning_modules.comparing.plan import Plan, PlannedArm, planned_arm
from lightning_modules.comparing.run import carry_out, machine
from lightning_modules.config.network_names import parse_seeds
from lightning_modules.config.resolved import ResolvedConfig
from lightning_modules.config.sweep_grid import SEED, Grid
from lightning_modules.config.validate import SWEEP_KEYS, TRAIN_KEYS
from lightning_modules.metrics import measure_of
from lightning_modules.text import waiting
from lightning_modules.training.dry_run import dry_build
from lightning_modules.training.run_folder import versions
from schemes.errors import Problems, SchemenetError, unknown

NOT_OF_A_RUN = ("launcher", "folder", "overwrite", *(key for key in SWEEP_KEYS if key not in TRAIN_KEYS))


def sweep(grid: Grid, configs: dict[str, ResolvedConfig], command: Sequence[str]) -> int:
    """The command ``sweep``: train every arm of a grid with every seed, and report.

    Args:
        grid: the keys with several values.
        configs: the config of each arm by its name.
        command: the command line, for the report.

    Returns:
        The exit status: 1 if a run failed, else 0.
    """
    config, plan = next(iter(configs.values())), planned(grid, configs)
    document = plan.document(shlex.join(command), versions(), machine()) | {"kind": "sweep"}
    return carry_out(plan, document, _folder(plan, config), config)


def hand_to_wandb(grid: Grid, configs: dict[str, ResolvedConfig], config_dir: str | None = None) -> int:
    """The command ``sweep --wandb``: register the grid as a W&B sweep, whose agents train it, after the same checks.

    Args:
        grid: the keys with several values.
        configs: the config of each arm by its name.
        config_dir: the user's folder of configs, which the agents read too.

    Returns:
        The exit status.
    """
    config, plan = next(iter(configs.values())), planned(grid, configs)
    logger, metric = config["logger"], f"test/{measure_of(config['data']['name']).key}"
    return wandb_sweep.begin(
        grid, _folder(plan, config), metric,
        project=logger.get("project"), entity=logger.get("entity"), config_dir=config_dir,
    )  # fmt: skip


@waiting("counting costs")
def planned(grid: Grid, configs: dict[str, ResolvedConfig]) -> Plan:
    """The plan of a sweep; arguments as of :func:`sweep`."""
    return plan_sweep(configs, _seeds(grid, next(iter(configs.values()))))


def _folder(plan: Plan, config: ResolvedConfig) -> Path:
    """A folder below runs/, named by the arms, so that more seeds go into the same folder."""
    return Path(config["folder"] or Path("runs", "sweep", f"{config['data']['name']}-{plan.hash()}"))


def plan_sweep(configs: dict[str, ResolvedConfig], seeds: tuple[int, ...]) -> Plan:
    """The plan of a sweep, each of its arms built on the meta device; equal arms are trained once.

    Args:
        configs: the config of each arm by its name.
        seeds: of all arms.

    Raises:
        SchemenetError: with the mistakes of all arms.
    """
    problems = Problems()
    arms: dict[str, PlannedArm] = {}
    baseline = next(iter(configs.values()))["baseline"] or next(iter(configs))
    if baseline not in configs:
        raise SchemenetError(f"baseline: {unknown('arm', baseline, configs)}")
    for name, config in configs.items():
        recipe = ResolvedConfig({k: v for k, v in config.items() if k not in NOT_OF_A_RUN} | {"seed": seeds[0]})
        if recipe["data"]["validation"] is not None:
            problems.add("data.validation: a sweep reports test errors, and runs that hold out a share have none")
            continue
        built = problems.attempt(lambda recipe=recipe: dry_build(recipe), f"{name}: ")
        if built is None:
            continue
        data, network = built
        if (same := arms.get(hashed := recipe.recipe_hash)) is not None:
            print(f"{name} is the same network and recipe as {same.name}; it is trained once")
            baseline = same.name if baseline == name else baseline
            continue
        arms[hashed] = planned_arm(name, recipe, network, data)
    problems.raise_if_any()
    shared = _shared([arm.config.complete for arm in arms.values()])
    del shared["seed"]
    return Plan(tuple(arms.values()), baseline, seeds, None, shared)


def _seeds(grid: Grid, config: ResolvedConfig) -> tuple[int, ...]:
    if SEED not in grid.axes:
        return parse_seeds([config["seed"]])
    try:
        return parse_seeds([int(seed) for seed in grid.axes[SEED]])
    except ValueError as error:
        raise SchemenetError(f"seed: {error}") from error


def _shared(configs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The keys and values that all configs have in common."""
    first, *others = configs
    shared: dict[str, Any] = {}
    for key, value in first.items():
        values = [other.get(key) for other in others]
        if all(value == other for other in values):
            shared[key] = value
        else:
            sections = [other for other in (value, *values) if isinstance(other, dict)]
            if len(sections) == len(configs) and (inner := _shared(sections)):
                shared[key] = inner
    return shared
