"""Equal tuning: every arm's learning rate is chosen on a validation split, from one grid, by as many runs.

The tuning runs have other seeds than the comparison, and train on the training set without the validation split. None
of them reads the test set; the runs of the comparison read it once, after their last epoch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from lightning_modules.comparing.plan import Plan, PlannedArm
from lightning_modules.config.resolved import ResolvedConfig
from lightning_modules.config.sections import Tuning
from lightning_modules.launching.job import Job
from lightning_modules.metrics import ERROR
from lightning_modules.storage.atomic_files import read_json
from lightning_modules.storage.run_files import RESULT, TUNING
from lightning_modules.training.run_folder import DIVERGED

Tried = Mapping[float, Sequence[float | None]]
"""Validation errors of an arm by learning rate, one for each seed; None for a run that diverged."""


def jobs(plan: Plan, tuning: Tuning, folder: Path) -> list[Job]:
    """The tuning runs: every arm with every learning rate and seed.

    Args:
        plan: of the comparison.
        tuning: with a list of seeds.
        folder: of the comparison; a run's is FOLDER/ARM/tuning/lr0.1-seed1000.
    """
    return [_job(folder, arm, tuning, lr, seed) for seed in _seeds(tuning) for lr in tuning.lr for arm in plan.arms]


def tried(plan: Plan, tuning: Tuning, folder: Path) -> dict[str, Tried]:
    """The validation errors by arm, for the arms all of whose tuning runs are done; arguments as for :func:`jobs`."""
    runs = {
        arm.name: {lr: [_job(folder, arm, tuning, lr, seed) for seed in _seeds(tuning)] for lr in tuning.lr}
        for arm in plan.arms
    }
    return {
        name: {lr: [_error(job.folder) for job in of_lr] for lr, of_lr in by_lr.items()}
        for name, by_lr in runs.items()
        if all(job.done for of_lr in by_lr.values() for job in of_lr)
    }


def choose(by_arm: Mapping[str, Tried], worst: float) -> dict[str, float]:
    """The learning rate of each arm with the lowest mean error, of equally good ones the smallest.

    A diverged run counts as ``worst``.
    """
    return {arm: min(errors, key=lambda lr: (_mean(errors[lr], worst), lr)) for arm, errors in by_arm.items()}


def notes(by_arm: Mapping[str, Tried], chosen: Mapping[str, float], worst: float) -> list[str]:
    """Remarks on the chosen learning rates: where all runs diverged, for ties, and at an end of the grid.

    Args:
        by_arm: the validation errors.
        chosen: the learning rate of each arm, see :func:`choose`.
        worst: counts for a diverged run.
    """
    remarks = []
    for arm, errors in by_arm.items():
        lr = chosen[arm]
        ties = [other for other in errors if other != lr and _mean(errors[other], worst) == _mean(errors[lr], worst)]
        if all(error is None for of_lr in errors.values() for error in of_lr):
            remarks.append(f"{arm}: every tuning run diverged; lr={lr:g} is the smallest of the grid, and nothing more")
            continue
        if ties:
            remarks.append(
                f"{arm}: as good as lr={lr:g} was {' and '.join(f'{o:g}' for o in ties)}; the smallest is taken"
            )
        if len(errors) > 1 and lr in (min(errors), max(errors)):
            end = "smallest" if lr == min(errors) else "largest"
            remarks.append(f"{arm}: the best learning rate, {lr:g}, is the {end} of the grid; widen the grid")
    return remarks


def tuned(plan: Plan, chosen: Mapping[str, float]) -> Plan:
    """The plan with the chosen learning rates, of the arms that have one."""
    return replace(
        plan,
        arms=tuple(
            replace(arm, config=_with_lr(arm.config, chosen[arm.name]), untuned=arm.config.recipe_hash)
            for arm in plan.arms
            if arm.name in chosen
        ),
    )


def entry(tuning: Tuning, by_arm: Mapping[str, Tried], chosen: Mapping[str, float], worst: float) -> dict[str, Any]:
    """The section ``tuning`` of comparison.json: settings, chosen rates, errors and remarks."""
    return {
        **asdict(tuning),
        "chosen": dict(chosen),
        "errors": {arm: {str(lr): list(errors) for lr, errors in by_lr.items()} for arm, by_lr in by_arm.items()},
        "notes": notes(by_arm, chosen, worst),
    }


def _job(folder: Path, arm: PlannedArm, tuning: Tuning, lr: float, seed: int) -> Job:
    trainer = {"max_epochs": tuning.max_epochs, "check_test_every_n_epoch": tuning.max_epochs}
    config = _with_lr(arm.config, lr).replace(
        seed=seed,
        data={**arm.config["data"], "validation": tuning.validation},
        trainer={**arm.config["trainer"], **trainer},
    )
    place = folder / arm.name / TUNING / f"lr{lr:g}-seed{seed}"
    return Job(place, config, f"{arm.name} lr={lr:g}", f"{folder.name}-{TUNING}", arm.ledger)


def _with_lr(config: ResolvedConfig, lr: float) -> ResolvedConfig:
    return config.replace(optimizer={**config["optimizer"], "lr": lr})


def _seeds(tuning: Tuning) -> Sequence[int]:
    if isinstance(tuning.seeds, int):
        raise TypeError("the seeds of a plan's tuning are settled")
    return tuning.seeds


def _error(folder: Path) -> float | None:
    """The validation error; None where the run diverged, whose weights are NaN and classify by chance."""
    result = read_json(folder / RESULT)
    return None if result["status"] == DIVERGED else result[f"validation_{result.get('measure', ERROR.key)}"]


def _mean(errors: Sequence[float | None], worst: float) -> float:
    return sum(worst if error is None else error for error in errors) / len(errors)
