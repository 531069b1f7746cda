"""Carries out what is planned: every run that is not done yet, then step times, then the report."""

from __future__ import annotations

import platform
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning_modules.comparing import report, screen
from lightning_modules.comparing.plan import Plan, make_plan
from lightning_modules.comparing.runs import read_comparison
from lightning_modules.composing import Config, writable
from lightning_modules.files import read_json, write_json
from lightning_modules.launching.local import cores
from lightning_modules.launching.order import Order
from lightning_modules.launching.watch import Watch
from lightning_modules.registries import LAUNCHERS
from lightning_modules.running import forget, versions
from lightning_modules.wandb_report import log_report
from lightning_modules.wandb_runs import settled
from schemes.errors import SchemenetError

COMPARISON, STEP_TIME = "comparison.json", "step_time.json"


def compare(config: Config, command: Sequence[str]) -> int:
    """Train the networks that words name under one budget, and report. Exit status 1 if a run failed."""
    plan = make_plan(config)
    document = plan.document(shlex.join(command), versions(), machine())
    return carry_out(plan, document, Path(config["folder"] or _default_folder(plan, document)), config)


def carry_out(plan: Plan, document: dict[str, Any], folder: Path, config: Config) -> int:
    """Train what is planned and not done yet, measure step times, write the report. Exit status 1 if a run failed."""
    writable(folder)
    _claim(folder, document, config["overwrite"])
    print(plan.sizes_table(), end="\n\n", flush=True)
    logger = settled(config["logger"], folder)
    orders = [
        Order(folder / arm.name / f"seed{seed}", {**arm.config, "seed": seed, "logger": logger}, arm.name, folder.name)
        for seed in plan.seeds
        for arm in plan.arms
    ]
    launch(orders, config["launcher"])
    _measure(plan, folder)
    path = report.write(folder)
    log_report(folder, folder.name, logger)
    print(screen.screen_table(read_comparison(folder)))
    print(f"\nreport: {path}")
    return 0 if all(order.done for order in orders) else 1


def launch(orders: Sequence[Order], launcher: Config) -> None:
    """Do all runs that are not done."""
    with Watch(orders) as watch:
        LAUNCHERS.build(launcher, orders=[order for order in orders if not order.done], watch=watch)


def _measure(plan: Plan, folder: Path) -> None:
    """Step times of all arms, taking turns in this process when all training is done."""
    import torch

    from architectures.factory import create_model
    from architectures.ledger import step_times
    from lightning_modules.composing import network_options
    from lightning_modules.running import data_context, dry_build

    if all((folder / arm.name / STEP_TIME).exists() for arm in plan.arms):
        return
    print("measuring step times, all networks in turn", flush=True)
    device = "cuda" if torch.cuda.is_available() and plan.recipe["trainer"]["accelerator"] != "cpu" else "cpu"
    data, _ = dry_build(plan.arms[0].config)
    networks = {
        arm.name: create_model(
            arm.config["architecture"]["name"], **data_context(data), **network_options(arm.config)
        ).to(device)
        for arm in plan.arms
    }
    for name, told in step_times(networks, tuple(data.shape), data.batch_size).items():
        writable(folder / name)
        write_json(folder / name / STEP_TIME, told)


def _claim(folder: Path, document: dict[str, Any], overwrite: bool) -> None:
    """Write the plan; a folder that holds another one is refused, so that recipes are never mixed."""
    path = folder / COMPARISON
    if path.exists() and not overwrite:
        held = read_json(path)
        arms = {arm["name"]: arm.get("recipe") for arm in held.get("arms", ())}
        different = [key for key in ("budget", "data", "epochs") if held.get(key) != document[key]]
        different += [arm["name"] for arm in document["arms"] if arms.get(arm["name"], arm["recipe"]) != arm["recipe"]]
        if different:
            raise SchemenetError(
                f"{folder} holds a comparison with another recipe (different: {', '.join(different)}); "
                "choose another folder=..., or overwrite=true to begin anew"
            )
    if overwrite:
        for old in folder.glob("*/seed*"):
            forget(old)
        for old in folder.glob(f"*/{STEP_TIME}"):
            old.unlink()
    write_json(path, document)


def _default_folder(plan: Plan, document: dict[str, Any]) -> Path:
    size = "as-published" if plan.budget is None else f"{plan.budget}"
    return Path("runs", "compare", f"{document['data']}-{size}-{document['recipe_hash']}")


def machine() -> str:
    """What the runs are trained on, or at least started from."""
    return f"{platform.system()} {platform.machine()}, {cores()} cores"
