"""Training a network to predict series of irregular observations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics.classification import MulticlassAccuracy, MulticlassAUROC

from architectures.observations import SeriesBatch
from architectures.series import UNLABELLED, SeriesModel
from architectures.variational import Variational
from lightning_modules.registries import TASKS
from lightning_modules.tasks.base import Mean, TaskModule

SERIES = 1024
"""So many of the training series, at most, tell the channels' units."""

DRAWS = 5
"""From the posterior, for the bound on the likelihood; the same in every evaluation."""


@TASKS.register("series", measure="rmse")
class SeriesModule(TaskModule):
    """Series as tasks say: see :class:`SeriesBatch`.

    ``mse`` and ``rmse`` are over all asked entries of the set, a network with a distribution of answers answering by
    the mean of its posterior. ``mse_by_channel`` is the mean over series and channels of the error of each, 0 where
    nothing is asked of one: so the published code of the latent ODE takes it. ``nats`` is the
    negative evidence bound of a series where there is one, by 5 draws; ``error`` and ``auc`` (of two classes: of the
    second) are of the labels, where there are any.
    """

    names = ("mse", "rmse", "mse_by_channel")
    network: SeriesModel  # pyright: ignore[reportIncompatibleVariableOverride]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        classes = self.hparams["data"]["num_classes"]
        metrics: dict[str, nn.Module] = {"mse": Mean(), "mse_by_channel": Mean()}
        if isinstance(self.network, Variational):
            metrics["nats"] = Mean()
            self.names = (*self.names, "nats")
        if classes:
            self.names = (*self.names, "error", "auc")
            metrics["accuracy"] = MulticlassAccuracy(classes, average="micro", ignore_index=UNLABELLED)
            average = "none" if classes == 2 else "macro"
            metrics["auc"] = MulticlassAUROC(classes, average=average, ignore_index=UNLABELLED)
        self.metrics = nn.ModuleDict(metrics)

    def on_fit_start(self) -> None:
        data: Any = self.trainer.datamodule  # pyright: ignore[reportAttributeAccessIssue]
        training = data.train_set
        self.network.adapt(training[torch.arange(min(SERIES, len(training)))].observed)

    def measure(self, batch: SeriesBatch) -> None:
        found, asked = self.network.predict(batch), batch.asked
        here = asked.mask > 0
        squares = torch.where(here, found.values[0] - asked.values, 0.0).square()
        self.metrics["mse"].update(squares[here])
        self.metrics["mse_by_channel"].update(squares.sum(1) / here.sum(1).clamp(min=1))
        if isinstance(self.network, Variational):
            stream = torch.Generator().manual_seed(0)
            noise = torch.randn(DRAWS, len(squares), self.network.latent, generator=stream).to(squares)
            self.metrics["nats"].update(self.network.nats(batch, noise))
        if found.logits is not None and batch.labels is not None:
            self.metrics["accuracy"].update(found.logits, batch.labels)
            self.metrics["auc"].update(found.logits.softmax(1), batch.labels)

    def found(self) -> Mapping[str, Tensor]:
        values = {name: metric.compute() for name, metric in self.metrics.items()}  # type: ignore[operator]
        if "accuracy" in values:
            values["error"] = 1 - values.pop("accuracy")
            values["auc"] = values["auc"][1] if values["auc"].dim() else values["auc"]
        return values | {"rmse": values["mse"].sqrt()}
