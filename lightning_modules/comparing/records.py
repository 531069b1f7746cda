"""Records of a comparison, read from its folders: its plan, and each run as done, diverged, failed or missing."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lightning_modules.metrics import ERROR, MEASURES, Measure
from lightning_modules.storage.atomic_files import read_json, read_rows, safe_name
from lightning_modules.storage.run_files import COMPARISON, FAILURE, METRICS, RESULT, STEP_TIMES
from lightning_modules.text import printable
from schemes.errors import SchemenetError

STATUSES = ("done", "diverged", "failed", "missing")

LONGEST_REASON = 4096


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
    """One network of a comparison. ``matched`` arms meet the budget; controls have the baseline's widths."""

    name: str
    word: str = ""
    architecture: str = ""
    scheme: str = ""
    control: bool = False
    matched: bool = False
    sizes: Mapping[str, Any] = field(default_factory=dict)
    step_time: StepTime | None = None


@dataclass(frozen=True)
class Budget:
    """The cost in which the arms were matched, its target, and the option that meets it."""

    kind: str
    target: float
    by: str = "width"
    tolerance: float = 0.01


@dataclass(frozen=True)
class Run:
    """One arm trained with one seed; ``reason`` says why a run is not done.

    ``value`` is the comparison's measure on the test set, ``other_measures`` the other measures there, by name.
    """

    arm: str
    seed: int
    status: str
    reason: str = ""
    epochs: int | None = None
    samples_per_step: float | None = None
    value: float | None = None
    other_measures: Mapping[str, float] = field(default_factory=dict)
    train_loss: float | None = None
    ledger: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, Any] = field(default_factory=dict)
    layout: Mapping[str, Any] = field(default_factory=dict)
    folder: Path = Path()

    def has_result_of(self, run: Run) -> bool:
        """Whether both runs have a result, and it is the same: then one is a copy of the other."""
        mine, its = ((r.status, r.epochs, r.value, r.other_measures, r.train_loss) for r in (self, run))
        return self.epochs is not None and mine == its


@dataclass(frozen=True)
class Comparison:
    """The content of a report; ``runs`` has one entry for each arm and seed.

    ``kind`` says where the arms come from: the networks of a "comparison", the grid of a "sweep", or existing "runs".
    ``folder`` is the report's; ``remarks`` are notes on the reading of the runs.
    """

    folder: Path
    command: str
    budget: Budget | None
    baseline: str
    seeds: tuple[int, ...]
    data: str
    epochs: int | None
    recipe: Mapping[str, Any]
    versions: Mapping[str, Any]
    machine: str
    arms: tuple[Arm, ...]
    runs: tuple[Run, ...]
    kind: str = "comparison"
    recipe_hash: str = ""
    tuning: Mapping[str, Any] | None = None
    measure: Measure = ERROR
    remarks: tuple[str, ...] = ()

    def __repr__(self) -> str:
        names = ", ".join(arm.name for arm in self.arms)
        return f"Comparison({str(self.folder)!r}: {names} on {self.data}, {len(self.runs)} runs)"

    def of(self, arm: str) -> tuple[Run, ...]:
        """The planned runs of one arm, in the order of the seeds."""
        return tuple(run for run in self.runs if run.arm == arm)


def read_comparison(folder: str | Path) -> Comparison:
    """Read FOLDER/comparison.json and every run folder it plans; broken runs come back as failed, and do not raise."""
    folder = Path(folder)
    path = folder / COMPARISON
    if not path.is_file():
        raise SchemenetError(f"{folder} is no comparison: it holds no {COMPARISON}")
    plan = read_json(path)
    try:
        seeds = tuple(int(seed) for seed in plan["seeds"])
        entries = plan["arms"]
        arms = tuple(_read_arm(folder, entry) for entry in entries)
        recipes = {arm.name: entry.get("recipe") for arm, entry in zip(arms, entries, strict=True)}
        budget = _read_budget(plan.get("budget"))
        measure = MEASURES[plan.get("measure") or ERROR.key]
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise SchemenetError(f"{path} cannot be read as a comparison: {_reason(error)}") from error
    return Comparison(
        folder=folder,
        command=str(plan.get("command") or ""),
        budget=budget,
        baseline=str(plan.get("baseline") or ""),
        seeds=seeds,
        data=str(plan.get("data") or ""),
        epochs=plan.get("epochs"),
        recipe=plan.get("recipe") or {},
        versions=plan.get("versions") or {},
        machine=str(plan.get("machine") or ""),
        arms=arms,
        runs=tuple(_read_run(folder, arm.name, seed, measure, recipes[arm.name]) for arm in arms for seed in seeds),
        kind=str(plan.get("kind") or "comparison"),
        recipe_hash=str(plan.get("recipe_hash") or ""),
        tuning=plan.get("tuning") or None,
        measure=measure,
    )


def read_metrics(run: Run, column: str, against: str = "step") -> dict[int, float]:
    """One column of a run's sparse metrics.csv.

    Args:
        run: whose folder has the file.
        column: such as ``test/error``.
        against: the column of the keys, ``step`` or ``epoch``.

    Returns:
        {step or epoch: value}, of two values the last one; empty where the file cannot be read.
    """
    try:
        rows = read_rows(run.folder / METRICS)
    except SchemenetError:
        return {}  # a report without this curve; the results are in result.json
    pairs = [(finite(row.get(against)), finite(row.get(column))) for row in rows]
    return {int(x): y for x, y in pairs if x is not None and y is not None}


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
        sizes=dict(entry.get("sizes") or {}),
        step_time=_read_step_time(folder / name / STEP_TIMES),
    )


def _read_step_time(path: Path) -> StepTime | None:
    try:
        times = read_json(path)
    except SchemenetError:
        return None
    median = finite(times.get("median_s"))
    if median is None or median <= 0:
        return None
    return StepTime(
        median_s=median,
        quartile_1_s=finite(times.get("quartile_1_s")),
        quartile_3_s=finite(times.get("quartile_3_s")),
        steps=times.get("steps"),
        threads=times.get("threads"),
        device=times.get("device"),
        batch_size=times.get("batch_size"),
    )


def _read_budget(entry: Any) -> Budget | None:
    """A number, in older comparisons, is one of parameters."""
    if entry is None:
        return None
    if isinstance(entry, int | float):
        return Budget("parameters", entry)
    known = {key: entry[key] for key in ("by", "tolerance") if entry.get(key) is not None}
    return Budget(str(entry["kind"]), float(entry["target"]), **known)


def _read_run(folder: Path, arm: str, seed: int, measure: Measure, recipe: str | None = None) -> Run:
    """A planned run; a result of another arm, seed or recipe that lies in its place is reported, and not counted."""
    expected = {"arm": arm, "seed": seed, "recipe": recipe}
    return read_run(folder / arm / f"seed{seed}", arm, seed, measure, expected)


def read_run(place: Path, arm: str, seed: int, measure: Measure, expected: Mapping[str, Any]) -> Run:
    """The run in a folder, with the content of its result.json, if it has one.

    Args:
        place: the run folder.
        arm: the name of the arm that it counts for.
        seed: the seed that it counts for.
        measure: by what the runs of the comparison are judged.
        expected: entries that its result must not contradict; where it does, the run counts as failed.
    """
    if not (place / RESULT).is_file():
        return _without_result(place, arm, seed)
    try:
        result = read_json(place / RESULT)
    except SchemenetError as error:
        return Run(arm, seed, "failed", printable(str(error)), folder=place)
    other = [f"{k} {result[k]}, not {v}" for k, v in expected.items() if v is not None and result.get(k, v) != v]
    if other:
        reason = f"NOT COUNTED: {RESULT} is of another run ({printable('; '.join(other))})"
        return Run(arm, seed, "failed", reason, folder=place)
    value = finite(result.get(f"test_{measure.key}"))
    status, reason = str(result.get("status")), str(result.get("reason") or "")
    if status == "done" and value is None:
        status, reason = "diverged", f"the test {measure.words} is not a finite number"
    elif status == "diverged":
        outcome = (
            f"no finite test {measure.words}" if value is None else f"test {measure.words} {measure.format(value)}"
        )
        reason = reason or outcome
    elif status != "done":
        status, reason = "failed", reason or f"its status is {status!r}"
    return Run(
        arm,
        seed,
        status,
        printable(reason),
        epochs=result.get("epochs") if isinstance(result.get("epochs"), int) else None,
        samples_per_step=finite(result.get("samples_per_step", _mapping(result.get("ledger")).get("batch_size"))),
        value=value,
        other_measures=_other_measures(result, measure),
        train_loss=finite(result.get("train_loss")),
        ledger=_scalars(result.get("ledger")),
        versions=_scalars(result.get("versions")),
        layout=_mapping(result.get("layout")),
        folder=place,
    )


def _other_measures(result: Mapping[str, Any], measure: Measure) -> dict[str, float]:
    """The measures on the test set besides the one by which networks are judged."""
    values = {printable(key[5:]): finite(value) for key, value in result.items() if key.startswith("test_")}
    return {key: value for key, value in values.items() if value is not None and key != measure.key}


def _without_result(place: Path, arm: str, seed: int) -> Run:
    error = place / FAILURE
    if not error.is_file():
        return Run(arm, seed, "missing", "no result yet", folder=place)
    with error.open("rb") as file:
        file.seek(max(0, error.stat().st_size - LONGEST_REASON))
        lines = file.read().decode(errors="replace").strip().splitlines()
    return Run(arm, seed, "failed", printable(lines[-1].strip()) if lines else "no reason was written", folder=place)


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _scalars(section: Any) -> dict[str, Any]:
    """The entries of a mapping that are plain values."""
    return {
        printable(key): printable(value) if isinstance(value, str) else value
        for key, value in _mapping(section).items()
        if isinstance(value, int | float | str)
    }


def finite(value: Any) -> float | None:
    """A finite number, or None for what is absent, empty, NaN or infinite."""
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _reason(error: Exception) -> str:
    return f"no {error.args[0]!r} in it" if isinstance(error, KeyError) else str(error)
