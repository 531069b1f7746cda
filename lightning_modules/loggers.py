"""Where metrics go: a csv file always, Weights & Biases beside it. Never a prompt, never a wait."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any, Literal

from pytorch_lightning.loggers import Logger, WandbLogger

from lightning_modules.metrics_file import MetricsFile
from lightning_modules.registries import LOGGERS
from schemes.errors import SchemenetError

METRICS = "metrics.csv"


@LOGGERS.register("csv")
def csv(folder: Path) -> list[Logger]:
    """``metrics.csv`` in the run folder."""
    return [MetricsFile(folder / METRICS)]


@LOGGERS.register("wandb")
def wandb(
    folder: Path,
    name: str,
    group: str | None = None,
    goes_on: bool = False,
    *,
    project: str = "schemenet",
    mode: Literal["offline", "online", "disabled"] | None = None,
) -> list[Logger]:
    """The csv file and a W&B run.

    ``mode`` null: the environment variable WANDB_MODE if set, else offline; ``wandb sync FOLDER/wandb/offline-*`` sends
    an offline run later. A run that goes on keeps its id; what was logged after its checkpoint is logged again, with
    the same values.
    """
    import wandb

    mode = wandb_mode(mode)
    logging.getLogger("wandb").setLevel(logging.WARNING)
    logging.raiseExceptions = False  # its log lies in the run folder: of a full disk, one message is enough
    settings = wandb.Settings(silent=True, console="off", init_timeout=15)
    options: dict[str, Any] = {"project": project, "dir": str(folder), "name": name, "group": group}
    if goes_on and (held := _held_id(folder)) is not None:
        options |= {"id": held, "resume": "allow"}
    if mode == "online" and not _has_key():
        print("W&B has no key (`wandb login` stores one); this run is logged offline")
        mode = "offline"
    try:
        run = wandb.init(**options, mode=mode, settings=settings)
    except wandb.Error as error:
        print(f"W&B could not be reached ({type(error).__name__}); this run is logged offline")
        run = wandb.init(**options, mode="offline", settings=settings)
    return [*csv(folder), WandbLogger(experiment=run)]


def wandb_mode(mode: str | None) -> Literal["offline", "online", "disabled"]:
    """The mode that is asked for, by config or environment; offline where nothing is."""
    asked = mode or os.environ.get("WANDB_MODE") or "offline"
    asked = "offline" if asked == "dryrun" else asked
    for known in ("offline", "online", "disabled"):
        if asked == known:
            return known
    raise SchemenetError(f"logger.mode or WANDB_MODE: expected offline, online or disabled, got {asked!r}")


def _held_id(folder: Path) -> str | None:
    """The id of the W&B run that was begun last in a run folder; its folders are named [offline-]run-TIME-ID."""
    begun = [path.name.rsplit("-", 2) for path in (folder / "wandb").glob("*run-*-*")]
    return max(begun, key=lambda words: words[1])[2] if begun else None


def _has_key() -> bool:
    """Whether W&B knows a key, without asking anybody for one."""
    import wandb

    try:
        return wandb.login(prompt=False, verify=False)
    except wandb.Error:
        return False
