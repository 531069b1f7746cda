"""Training a network to classify."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl
from torch import Tensor
from torch.nn import functional
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassAccuracy

from architectures.factory import create_model
from lightning_modules.registries import OPTIMIZERS

Batch = tuple[Tensor, Tensor]


class ClassificationModule(pl.LightningModule):
    """Cross entropy on (inputs, labels); logs ``train/loss``, ``test/loss`` and ``test/error`` (a share).

    Where the data holds out a validation split, the last two are ``validation/loss`` and ``validation/error``.

    Everything it is made of is plain data (``network``: a name with options, the data's shape and classes), so that a
    checkpoint alone rebuilds it; ``lightning_modules.stored`` does, and believes nothing that a file says but data.
    ``config``, the whole run's, is only carried along, for whoever evaluates the checkpoint far from its run folder.
    """

    def __init__(
        self,
        architecture: str,
        options: Mapping[str, Any],
        data: Mapping[str, Any],
        optimizer: Mapping[str, Any],
        config: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.network = create_model(architecture, **data, **options)
        self.optimizer = dict(optimizer)
        accuracy = MulticlassAccuracy(data["num_classes"], average="micro")
        self.test_accuracy, self.test_loss = accuracy, MeanMetric()

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x)

    def training_step(self, batch: Batch, index: int) -> Tensor:
        inputs, labels = batch
        loss = functional.cross_entropy(self.network(inputs), labels)
        self.log("train/loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: Batch, index: int) -> None:
        inputs, labels = batch
        logits = self.network(inputs).float()
        self.test_loss.update(functional.cross_entropy(logits, labels), weight=len(labels))
        self.test_accuracy.update(logits, labels)

    def on_validation_epoch_end(self) -> None:
        measured = self.trainer.datamodule.measures
        self.log(f"{measured}/loss", self.test_loss.compute())
        self.log(f"{measured}/error", 1 - self.test_accuracy.compute(), prog_bar=True)
        self.test_loss.reset()
        self.test_accuracy.reset()

    def configure_optimizers(self) -> Any:
        total = int(self.trainer.estimated_stepping_batches)
        return OPTIMIZERS.build(self.optimizer, network=self.network, total_steps=total)
