"""Callbacks that write the progress of a run and stop a diverged one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback

from lightning_modules.storage.atomic_files import write_json


class Progress(Callback):
    """Writes how far a run is to a small file, for whoever watches several runs."""

    def __init__(self, path: Path, every: int = 5) -> None:
        self.path, self.every = path, every

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.is_global_zero and trainer.global_step % self.every == 0:
            total = max(1, int(trainer.estimated_stepping_batches))
            write_json(self.path, {"step": trainer.global_step, "steps": total})


class StopWhenDiverged(Callback):
    """Ends a run whose training loss is no number: what follows could only waste time."""

    def __init__(self) -> None:
        self.diverged = False

    def state_dict(self) -> dict[str, Any]:
        return {"diverged": self.diverged}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.diverged = state["diverged"]

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        trainer.should_stop |= self.diverged

    def on_train_batch_end(self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, *_: Any) -> None:
        if trainer.global_step % trainer.log_every_n_steps == 0:
            here = not torch.isfinite(outputs["loss"])
            self.diverged = trainer.strategy.reduce_boolean_decision(here, all=False)
            trainer.should_stop |= self.diverged
