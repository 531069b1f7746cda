"""What two runs of the same recipe have in common: all but the time and the place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lightning_modules.storage.atomic_files import read_rows

TIME = "time/epoch"


def logged(folder: Path) -> list[dict[str, str]]:
    """The rows of metrics.csv in a run folder, without the seconds of an epoch."""
    return [{key: value for key, value in row.items() if key != TIME} for row in read_rows(folder / "metrics.csv")]


def measured(folder: Path) -> dict[str, Any]:
    """The content of result.json in a run folder, without date, host, device, command and commit."""
    result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    result.pop("provenance")
    return result
