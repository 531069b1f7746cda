"""Callbacks that write the progress of a run and stop it when it diverges."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.utilities.types import STEP_OUTPUT

from lightning_modules.storage.atomic_files import write_json
from lightning_modules.tasks.lightning_attributes import log_interval


class Progress(Callback):
    """Writes the progress of a run to a JSON file, which the display of a comparison reads.

    Args:
        path: the file: ``step`` and ``steps``, both in optimiser steps.
        every: optimiser steps between two writes.
    """

    def __init__(self, path: Path, every: int = 5) -> None:
        self.path, self.every = path, every

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: STEP_OUTPUT, batch: Any, batch_idx: int
    ) -> None:
        if trainer.is_global_zero and trainer.global_step % self.every == 0:
            total = max(1, int(trainer.estimated_stepping_batches))
            write_json(self.path, {"step": trainer.global_step, "steps": total})


class StopWhenDiverged(Callback):
    """Stops a run whose training loss is NaN or infinite; looked at whenever the loss is logged."""

    def __init__(self) -> None:
        self.diverged = False

    def state_dict(self) -> dict[str, Any]:
        return {"diverged": self.diverged}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.diverged = state_dict["diverged"]

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        trainer.should_stop |= self.diverged

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: STEP_OUTPUT, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step % log_interval(trainer) == 0:
            assert isinstance(outputs, Mapping)
            here = not torch.isfinite(outputs["loss"])
            self.diverged = trainer.strategy.reduce_boolean_decision(here, all=False)
            trainer.should_stop |= self.diverged
