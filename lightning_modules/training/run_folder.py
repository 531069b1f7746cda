"""The folder of a run: its name, and the run that it contains already."""

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
from lightning_modules.storage.run_files import (
    BEST_CHECKPOINT,
    CHECKPOINT,
    CONFIG,
    METRICS,
    PREVIOUS_CHECKPOINT,
    PROGRESS,
    RESULT,
)
from schemes.errors import SchemenetError

FAILED, DIVERGED, DONE = "failed", "diverged", "done"
"""Status of a run; only ``failed`` runs are resumable."""

SETS = ("test", "validation")
"""The sets that measures can be of; a result has those of one set, and None for the other."""


@dataclass(frozen=True)
class ExistingRun:
    """The run in a folder.

    Attributes:
        recipe: its recipe hash.
        seed: its seed.
        finished: whether it is finished; else it can resume from a checkpoint.
    """

    recipe: str
    seed: int
    finished: bool


def find_run(folder: Path) -> ExistingRun | None:
    """The run in a folder; None where there is neither a result nor a checkpoint."""
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
    except (ValueError, KeyError, TypeError, AttributeError):  # the file is no config
        return ExistingRun("unknown", -1, finished=False)


def find_same_run(config: ResolvedConfig, folder: Path) -> ExistingRun | None:
    """The run of this config in a folder; None where there is none, or with overwrite=true.

    Args:
        config: of the run.
        folder: of the run.

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
    """Remove the files of a run from its folder, so that another begins there."""
    for name in (RESULT, PROGRESS, CHECKPOINT, PREVIOUS_CHECKPOINT, BEST_CHECKPOINT, METRICS):
        with contextlib.suppress(IsADirectoryError, PermissionError):
            (folder / name).unlink(missing_ok=True)


def run_name(config: ResolvedConfig) -> str:
    """A name that is unique to the recipe and the seed."""
    return f"{'-'.join(config.names)}-{config.recipe_hash}-s{config['seed']}"


def run_folder(config: ResolvedConfig) -> Path:
    """The run folder: ``folder``, or where that is null or ends with a slash, the run's name below it."""
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
    """The measure of a result in words, with the set that it is of: ``test error 2.80 %``."""
    measure = MEASURES[result.get("measure", "error")]
    for measured in SETS:
        if (value := result.get(f"{measured}_{measure.key}")) is not None:
            return f"{measured} {measure.words} {measure.format(value)}"
    return f"{measure.words} no number"
