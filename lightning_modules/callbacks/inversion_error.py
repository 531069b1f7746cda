"""Callback that logs the reconstruction error of reversible gradients."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.utilities.types import STEP_OUTPUT
from torchmetrics import MaxMetric

from architectures.model import Model
from lightning_modules.tasks.lightning_attributes import network_of


def inversion_error(network: Model) -> float | None:
    """The relative error of the reconstructed initial states in the last backward pass, of the worst flow.

    None where no flow reconstructs its states.
    """
    measured = [flow.gradient.diagnostics() for flow in network.flows]
    return max((metrics["inversion_error"] for metrics in measured if "inversion_error" in metrics), default=None)


class InversionErrorLogger(Callback):
    """Logs ``inversion/error`` after each epoch: the worst of its batches and of all processes.

    Measured in each backward pass anyway, see :class:`schemes.gradients.reversible.Reversible`. A run that resumes
    within an epoch logs the worst of the whole epoch.
    """

    def __init__(self) -> None:
        self.worst = MaxMetric()

    @property
    def state_key(self) -> str:
        """The key in checkpoints: the name of the class when the first ones were written."""
        return "LogInversion"

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self.worst.to(trainer.strategy.root_device)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: STEP_OUTPUT, batch: Any, batch_idx: int
    ) -> None:
        if (error := inversion_error(network_of(pl_module))) is not None:
            self.worst.update(error)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if inversion_error(network_of(pl_module)) is None:
            return
        metrics = {"inversion/error": float(self.worst.compute()), "epoch": trainer.current_epoch}
        self.worst.reset()
        for logger in trainer.loggers:
            logger.log_metrics(metrics, step=trainer.global_step)

    def state_dict(self) -> dict[str, Any]:
        with self.worst.sync_context():
            return {"worst": float(self.worst.max_value)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.worst.update(state_dict["worst"])
