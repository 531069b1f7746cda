"""Reading the run folders of a comparison: what was planned, what finished, and what did not and why.

Nothing is computed here and nothing is left out: every planned run comes back, as done, diverged, failed or
missing.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lightning_modules.files import read_rows, safe_name
from schemes.errors import SchemenetError

STATUSES = ("done", "diverged", "failed", "missing")


@dataclass(frozen=True)
class StepTime:
    """Seconds of one training step, measured alone: median and quartiles, and on what."""

    median_s: float
    quartile_1_s: float | None = None
    quartile_3_s: float | None = None
    steps: int | None = None
    threads: int | None = None
    device: str | None = None
    batch_size: int | None = None


@dataclass(frozen=True)
class Arm:
    """One network of a comparison. ``matched`` arms meet the budget; controls keep the baseline's widths."""

    name: str
    word: str = ""
    architecture: str = ""
    scheme: str = ""
    control: bool = False
    matched: bool = False
    sizes: Mapping[str, Any] = field(default_factory=dict)
    step_time: StepTime | None = None


@dataclass(frozen=True)
class Run:
    """One arm trained with one seed. Errors are fractions; ``reason`` says why a run is not done."""

    arm: str
    seed: int
    status: str
    reason: str = ""
    epochs: int | None = None
    test_error: float | None = None
    test_loss: float | None = None
    train_loss: float | None = None
    ledger: Mapping[str, Any] = field(default_factory=dict)
    folder: Path = Path()


@dataclass(frozen=True)
class Comparison:
    """A comparison folder as it stands now; ``runs`` holds one entry for each planned arm and seed."""

    folder: Path
    command: str
    budget: int | None
    baseline: str
    seeds: tuple[int, ...]
    data: str
    epochs: int | None
    recipe: Mapping[str, Any]
    versions: Mapping[str, Any]
    machine: str
    arms: tuple[Arm, ...]
    runs: tuple[Run, ...]

    def of(self, arm: str) -> tuple[Run, ...]:
        """The planned runs of one arm, in the order of the seeds."""
        return tuple(run for run in self.runs if run.arm == arm)


def read_comparison(folder: str | Path) -> Comparison:
    """Read FOLDER/comparison.json and every run folder it plans; broken runs are told, not raised."""
    folder = Path(folder)
    path = folder / "comparison.json"
    if not path.is_file():
        raise SchemenetError(f"{folder} is no comparison: it holds no comparison.json")
    try:
        plan = json.loads(path.read_text(encoding="utf-8"))
        seeds = tuple(int(seed) for seed in plan["seeds"])
        arms = tuple(_read_arm(folder, entry) for entry in plan["arms"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise SchemenetError(f"{path} cannot be read as a comparison: {_told(error)}") from error
    return Comparison(
        folder=folder,
        command=str(plan.get("command") or ""),
        budget=plan.get("budget"),
        baseline=str(plan.get("baseline") or ""),
        seeds=seeds,
        data=str(plan.get("data") or ""),
        epochs=plan.get("epochs"),
        recipe=plan.get("recipe") or {},
        versions=plan.get("versions") or {},
        machine=str(plan.get("machine") or ""),
        arms=arms,
        runs=tuple(_read_run(folder, arm.name, seed) for arm in arms for seed in seeds),
    )


def read_metrics(run: Run, column: str, against: str = "step") -> dict[int, float]:
    """One column of a run's sparse metrics.csv as {step or epoch: value}; of two values the last counts."""
    rows = [(_number(row.get(against)), _number(row.get(column))) for row in read_rows(run.folder / "metrics.csv")]
    return {int(x): y for x, y in rows if x is not None and y is not None}


def _read_arm(folder: Path, entry: Mapping[str, Any]) -> Arm:
    if safe_name(name := str(entry["name"])) != name:
        raise ValueError(f"{name!r} is no name of a folder")
    return Arm(
        name=name,
        word=str(entry.get("word") or ""),
        architecture=str(entry.get("architecture") or ""),
        scheme=str(entry.get("scheme") or ""),
        control=bool(entry.get("control")),
        matched=bool(entry.get("matched")),
        sizes=entry.get("sizes") or {},
        step_time=_read_step_time(folder / name / "step_time.json"),
    )


def _read_step_time(path: Path) -> StepTime | None:
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        median = _number(told["median_s"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if median is None or median <= 0:
        return None
    return StepTime(
        median_s=median,
        quartile_1_s=_number(told.get("quartile_1_s")),
        quartile_3_s=_number(told.get("quartile_3_s")),
        steps=told.get("steps"),
        threads=told.get("threads"),
        device=told.get("device"),
        batch_size=told.get("batch_size"),
    )


def _read_run(folder: Path, arm: str, seed: int) -> Run:
    place = folder / arm / f"seed{seed}"
    result = place / "result.json"
    if not result.is_file():
        error = place / "error.txt"
        if not error.is_file():
            return Run(arm, seed, "missing", "no result yet", folder=place)
        lines = error.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return Run(arm, seed, "failed", lines[-1].strip() if lines else "no reason was written", folder=place)
    try:
        told = json.loads(result.read_text(encoding="utf-8"))
        owner, of_seed = told.get("arm", arm), told.get("seed", seed)
    except (ValueError, AttributeError) as error:
        return Run(arm, seed, "failed", f"result.json cannot be read: {_told(error)}", folder=place)
    if (owner, of_seed) != (arm, seed):
        return Run(arm, seed, "failed", f"result.json is of {owner} seed {of_seed}", folder=place)
    error = _number(told.get("test_error"))
    status, reason = str(told.get("status")), str(told.get("reason") or "")
    if status == "done" and error is None:
        status, reason = "diverged", "the test error is not a finite number"
    elif status == "diverged":
        reason = reason or ("no finite test error" if error is None else f"test error {100 * error:.2f}%")
    elif status != "done":
        status, reason = "failed", reason or f"its status is {status!r}"
    return Run(
        arm,
        seed,
        status,
        reason,
        epochs=told.get("epochs"),
        test_error=error,
        test_loss=_number(told.get("test_loss")),
        train_loss=_number(told.get("train_loss")),
        ledger=told.get("ledger") or {},
        folder=place,
    )


def _number(value: Any) -> float | None:
    """A finite number, or None for what is absent, empty, NaN or infinite."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def _told(error: Exception) -> str:
    return f"no {error.args[0]!r} in it" if isinstance(error, KeyError) else str(error)
