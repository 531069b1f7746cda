"""The progress bar of a training: epochs from 1, the set that is read by its name, measures in their unit."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import RichProgressBar

from lightning_modules.metrics import MEASURES
from lightning_modules.tasks.lightning_attributes import evaluated_split


class TrainingBar(RichProgressBar):
    """Lightning's bar by rich, in the words and units of the line that ends a run.

    Other output appears above the bar while it is drawn.
    """

    @property
    def validation_description(self) -> str:
        return evaluated_split(self.trainer)

    def _get_train_description(self, current_epoch: int) -> str:
        return f"epoch {current_epoch + 1}/{self.trainer.max_epochs}"

    def get_metrics(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, Any]:
        metrics = super().get_metrics(trainer, pl_module)
        return dict(_described(key, value) for key, value in metrics.items() if key != "v_num")


def _described(key: str, value: Any) -> tuple[str, Any]:
    """A logged metric as people read it: ``test/error`` 0.028 is ``test error`` 2.80 %."""
    split, _, name = key.partition("/")
    if name not in MEASURES or not isinstance(value, float):
        return key.replace("/", " "), value
    measure = MEASURES[name]
    return f"{split} {measure.words}", measure.format(value)
