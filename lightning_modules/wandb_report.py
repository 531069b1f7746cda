"""The report of a comparison or sweep, as one more run of its W&B group."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning_modules import wandb_runs

TABLES = ("results.csv", "summary.csv")
PAGE = "report.html"
FINISH = 60.0


def log_report(folder: Path, group: str, logger: Mapping[str, Any]) -> None:
    """Log the tables, plots and page that stand in a comparison's folder; nothing where the logger is not W&B.

    The run has job type ``report`` and one id for the folder, so that a report written again takes the old one's place.
    """
    if logger["name"] != "wandb":
        return
    held = (folder / wandb_runs.IDENTITY).exists()
    run = wandb_runs.begin(
        folder, mode=logger["mode"], id=wandb_runs.run_id(folder, "report", goes_on=True), goes_on=held,
        patience=FINISH, project=wandb_runs.project(logger["project"]), entity=logger["entity"], name=f"report {group}",
        group=group, job_type="report",
    )  # fmt: skip
    if run is None:
        return
    import wandb

    found: dict[str, Any] = {path.stem: _table(path) for name in TABLES if (path := folder / name).is_file()}
    found |= {f"plots/{path.stem}": wandb.Image(str(path)) for path in sorted(folder.glob("*.png"))}
    if (page := folder / PAGE).is_file():
        found["page"] = wandb.Html(page.read_text(encoding="utf-8"), inject=False)
    run.log(found)
    files = wandb.Artifact(re.sub(r"[^\w.-]", "-", f"report-{group}"), type="report")
    for pattern in ("report.*", "*.csv", "*.png"):
        for path in sorted(folder.glob(pattern)):
            files.add_file(str(path))
    run.log_artifact(files)
    wandb_runs.finish(run, folder, 0)


def _table(path: Path) -> Any:
    import wandb

    with path.open(newline="", encoding="utf-8") as file:
        head, *rows = csv.reader(file)
    return wandb.Table(columns=head, data=[[_value(cell) for cell in row] for row in rows], allow_mixed_types=True)


def _value(cell: str) -> float | str | None:
    try:
        return float(cell)
    except ValueError:
        return cell or None
