"""Names of the files in a run folder, and reading them."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning_modules.storage.atomic_files import (
    read_json,
    read_rows,
)
from schemes.errors import SchemenetError

CONFIG, RESULT = "config.json", "result.json"
METRICS, LOG = "metrics.csv", "log.txt"
CHECKPOINT, PREVIOUS_CHECKPOINT = "last.ckpt", "previous.ckpt"
BEST_CHECKPOINT = "best.ckpt"  # of the best evaluation on the validation split, where that is requested
REFINED = "refined.json"  # what a refinement measured
PROGRESS = "progress.json"  # while the run trains
JOB, SLURM_JOB, FAILURE = "run.json", "job.json", "error.txt"  # of runs that a launcher begins
COMPARISON, STEP_TIMES = "comparison.json", "step_time.json"  # in the folder of a comparison
TUNING = "tuning"  # folder of an arm, with the runs by which its learning rate was chosen


def run_folder(name: str) -> Path:
    """The run folder of this name. Raises SchemenetError where there is none."""
    folder = Path(name)
    if not folder.is_dir():
        raise SchemenetError(f"no run folder {name!r}")
    if not (folder / CONFIG).is_file():
        raise SchemenetError(f"{name!r} is no run folder: it holds no {CONFIG}; one that `schemenet train` wrote does")
    return folder


def read_config(folder: Path) -> dict[str, Any]:
    """The resolved config of a run, as in its file, unchecked."""
    return read_json(folder / CONFIG)


def read_columns(folder: Path, pattern: re.Pattern[str]) -> list[tuple[int, dict[str, float]]]:
    """Rows of metrics.csv with a finite number in a column that matches.

    Args:
        folder: the run folder.
        pattern: of the whole names of columns.

    Returns:
        (training step, finite numbers by column) of each row.
    """
    path = folder / METRICS
    rows, columns = read_rows(path), []
    try:
        for row in rows:
            values = {name: float(value) for name, value in row.items() if value and pattern.fullmatch(name)}
            values = {name: value for name, value in values.items() if math.isfinite(value)}
            if values and row.get("step"):
                columns.append((int(row["step"]), values))
    except (ValueError, TypeError) as error:
        raise SchemenetError(f"{path} cannot be read: {error}") from error
    return columns


def labels(folders: Sequence[Path]) -> list[str]:
    """Short distinct names of run folders: their paths below the common parent, or the name of a single folder."""
    absolute = [folder.absolute() for folder in folders]
    if len(absolute) == 1:
        return [absolute[0].name]
    shared = Path(os.path.commonpath(absolute))
    return [str(folder.relative_to(shared)) for folder in absolute]
