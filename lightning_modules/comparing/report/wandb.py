"""The report of a comparison or sweep, as one more run of its W&B group."""

from __future__ import annotations

import csv
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning_modules.launching.subprocesses import module_command
from lightning_modules.loggers import wandb as wandb_runs

TABLES = ("results.csv", "summary.csv")
PAGE = "report.html"
FILES = ("report.*", "*.csv", "*.png", "*.svg", "*.pdf")

PATIENCE = 60.0
"""Seconds within which a report must be sent."""


def log_report(folder: Path, group: str, logger: Mapping[str, Any]) -> None:
    """Log tables, plots and page of a comparison's folder to W&B; nothing for another logger.

    The run has job type ``report`` and one id for the folder, so that a report that is written again follows the old
    one. It is written offline and then sent: while tables and files are logged online, W&B waits for the server.

    Args:
        folder: of the comparison.
        group: W&B's group of its runs.
        logger: the config of the runs' logger.
    """
    if logger["name"] != "wandb":
        return
    mode, why = wandb_runs.settled_mode(logger["mode"])
    run = None if mode == "disabled" else _offline_run(folder, group, logger)
    if run is None:
        return
    run.log(_content(folder))
    run.log_artifact(_files(folder, group))
    run.finish()
    wandb_runs.release()
    sending = f"`wandb sync {folder / 'wandb'}` sends it"
    if why is not None:
        print(f"W&B {why}: the report is logged offline; {sending}", flush=True)
    elif mode == "online":
        print("W&B: the report is sent" if _sent(folder) else f"W&B has not got the report; {sending}", flush=True)


def _offline_run(folder: Path, group: str, logger: Mapping[str, Any]) -> Any | None:
    resumes = (folder / wandb_runs.IDENTITY).exists()
    return wandb_runs.begin(
        folder, mode="offline", id=wandb_runs.run_id(folder, "report", resumes), resumes=resumes,
        project=wandb_runs.project(logger["project"]), entity=logger["entity"], name=f"report {group}",
        group=logger.get("group") or group, job_type="report",
    )  # fmt: skip


def _content(folder: Path) -> dict[str, Any]:
    import wandb

    media: dict[str, Any] = {path.stem: _table(path) for name in TABLES if (path := folder / name).is_file()}
    media |= {f"plots/{path.stem}": wandb.Image(str(path)) for path in sorted(folder.glob("*.png"))}
    if (page := folder / PAGE).is_file():
        media["page"] = wandb.Html(page.read_text(encoding="utf-8"), inject=False)
    return media


def _table(path: Path) -> Any:
    import wandb

    with path.open(newline="", encoding="utf-8") as file:
        head, *rows = csv.reader(file)
    return wandb.Table(
        columns=list(head), data=[[_value(cell) for cell in row] for row in rows], allow_mixed_types=True
    )


def _value(cell: str) -> float | str | None:
    try:
        return float(cell)
    except ValueError:
        return cell or None


def _files(folder: Path, group: str) -> Any:
    """All files of the report, to be fetched together."""
    import wandb

    files = wandb.Artifact(re.sub(r"[^\w.-]", "-", f"report-{group}"), type="report")
    for path in sorted(path for pattern in FILES for path in folder.glob(pattern)):
        files.add_file(str(path))
    return files


def _sent(folder: Path) -> bool:
    """Whether all that is logged offline in a folder could be sent."""
    command = module_command("wandb", "sync", str(folder.resolve() / "wandb"))
    try:
        with wandb_runs.elsewhere():
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PATIENCE, check=True
            )
    except subprocess.SubprocessError:
        return False
    return "ERROR" not in done.stderr
