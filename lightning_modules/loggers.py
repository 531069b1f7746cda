"""Where metrics go: a csv file always, Weights & Biases beside it. Never a prompt, never a wait."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any, Literal

from pytorch_lightning.loggers import CSVLogger, Logger, WandbLogger

from lightning_modules.registries import LOGGERS
from schemes.errors import SchemenetError


@LOGGERS.register("csv")
def csv(folder: Path) -> list[Logger]:
    """``metrics.csv`` in the run folder."""
    return [CSVLogger(folder, name=None, version="", flush_logs_every_n_steps=10)]


@LOGGERS.register("wandb")
def wandb(
    folder: Path,
    name: str,
    group: str | None = None,
    *,
    project: str = "schemenet",
    mode: Literal["offline", "online", "disabled"] | None = None,
) -> list[Logger]:
    """The csv file and a W&B run.

    ``mode`` null: the environment variable WANDB_MODE if set, else offline; ``wandb sync FOLDER/wandb/offline-*`` sends
    an offline run later.
    """
    import wandb

    mode = wandb_mode(mode)
    logging.getLogger("wandb").setLevel(logging.WARNING)
    settings = wandb.Settings(silent=True, console="off", init_timeout=15)
    options: dict[str, Any] = {"project": project, "dir": str(folder), "name": name, "group": group}
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


def _has_key() -> bool:
    """Whether W&B knows a key, without asking anybody for one."""
    import wandb

    try:
        return wandb.login(prompt=False, verify=False)
    except wandb.Error:
        return False
