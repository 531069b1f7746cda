"""The folder of a run: its name, the recipe hash, and the run that it holds already."""

from __future__ import annotations

import contextlib
import platform
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from lightning_modules.config.resolved import ResolvedConfig
from lightning_modules.metrics import MEASURES
from lightning_modules.storage.atomic_files import read_json
from lightning_modules.storage.run_files import CHECKPOINT, CONFIG, METRICS, PREVIOUS_CHECKPOINT, PROGRESS, RESULT
from schemes.errors import SchemenetError

FAILED, DIVERGED, DONE = "failed", "diverged", "done"
"""What becomes of a run: one that has failed goes on by the same command, the others are finished."""

SETS = ("test", "validation")
"""What measures can be of; a result holds those of one set, and None for the other."""


@dataclass(frozen=True)
class ExistingRun:
    """The run in a folder: its recipe and seed, and whether it is finished or can resume from a checkpoint."""

    recipe: str
    seed: int
    finished: bool


def find_run(folder: Path) -> ExistingRun | None:
    """The run in a folder; None where there is nothing that could be lost or mixed up."""
    try:
        result = read_json(folder / RESULT)
        return ExistingRun(result["recipe"], result["seed"], finished=result["status"] != FAILED)
    except (SchemenetError, KeyError):
        pass
    if not any((folder / name).exists() for name in (CHECKPOINT, PREVIOUS_CHECKPOINT)):
        return None
    try:
        config = read_json(folder / CONFIG)
        return ExistingRun(ResolvedConfig(config).recipe_hash, config["seed"], finished=False)
    except (ValueError, KeyError, TypeError, AttributeError):  # whatever stands there, it is no config
        return ExistingRun("unknown", -1, finished=False)


def find_same_run(config: ResolvedConfig, folder: Path) -> ExistingRun | None:
    """The run of this config in a folder, if there is one; with overwrite=true nothing counts.

    Raises:
        SchemenetError: if the folder holds a run with another recipe or seed.
    """
    existing = None if config.get("overwrite") else find_run(folder)
    if existing is not None and (existing.recipe, existing.seed) != (config.recipe_hash, config["seed"]):
        raise SchemenetError(
            f"folder: {folder} holds a run with another recipe or seed; choose another, or overwrite=true"
        )
    return existing


def clear_run(folder: Path) -> None:
    """Remove what a run left in its folder, so that another begins there."""
    for name in (RESULT, PROGRESS, CHECKPOINT, PREVIOUS_CHECKPOINT, METRICS):
        with contextlib.suppress(IsADirectoryError, PermissionError):
            (folder / name).unlink(missing_ok=True)


def run_name(config: ResolvedConfig) -> str:
    """A name that no other recipe or seed has."""
    return f"{'-'.join(config.names)}-{config.recipe_hash}-s{config['seed']}"


def run_folder(config: ResolvedConfig) -> Path:
    """Where a run is written: ``folder``, or where that is null or ends with a slash, below it under the run's name."""
    named = config["folder"] or "runs/train/"
    return Path(named, run_name(config)) if named.endswith("/") else Path(named)


def versions() -> dict[str, str]:
    names = ("schemenet", "torch", "torchvision", "pytorch-lightning", "timm", "numpy")
    installed = {"python": platform.python_version()}
    for name in names:
        try:
            installed[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            installed[name] = "not installed"
    return installed


def describe_error(result: dict[str, Any]) -> str:
    """The error of a result as people read it, and of which set it is."""
    measure = MEASURES[result.get("measure", "error")]
    for measured in SETS:
        if (value := result.get(f"{measured}_{measure.key}")) is not None:
            return f"{measured} {measure.words} {measure.format(value)}"
    return f"{measure.words} no number"
