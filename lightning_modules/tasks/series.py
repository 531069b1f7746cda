"""The series task: prediction and classification of irregularly observed series."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.classification import MulticlassAUROC
from torchmetrics.functional.classification import binary_auroc
from torchmetrics.utilities import dim_zero_cat

from architectures.observations import SeriesBatch
from architectures.series.base import UNLABELLED, Prediction, SeriesModel, residuals
from architectures.series.latent_variable import Variational
from lightning_modules.config.registries import TASKS
from lightning_modules.data.datamodule import DATA_SEED
from lightning_modules.data.loader import generator
from lightning_modules.data.series.base import SeriesData
from lightning_modules.tasks.base import Mean, TaskModule, collected
from lightning_modules.tasks.batches import series_of
from lightning_modules.tasks.lightning_attributes import data_where, first_batch

SERIES = 1024
"""Training series, at most, from which the units of the channels are computed."""

DRAWS = 5
"""Draws from the posterior for the bound on the likelihood; the same for a series in every evaluation."""

NOISE = 4
"""RNG stream of DATA_SEED for the draws from the posterior."""


class AreaUnderCurve(MulticlassAUROC):
    """Area under the ROC curve: of two classes that of the second, of more the mean of each against the others.

    A class of all series, or of none, has no curve and is left out; NaN where none is left. torchmetrics counts such a
    class as 0.
    """

    def compute(self) -> Tensor:
        scores, labels = dim_zero_cat(self.preds), dim_zero_cat(self.target)
        areas = [
            binary_auroc(scores[:, one], (labels == one).long())
            for one in range(1 if self.num_classes == 2 else 0, self.num_classes)
            if 0 < (labels == one).sum() < len(labels)
        ]
        return torch.stack(areas).mean() if areas else torch.full((), torch.nan, device=self.device)


def posterior_noise(batch: SeriesBatch, latent: int) -> Tensor:
    """Standard normal numbers that depend on the index of a series in its data set alone.

    So a bound is the same for any batch size and number of devices, and the errors of the draws are independent between
    series.

    Args:
        batch: series; where they have no indices, their places in the batch count.
        latent: the dimension of the latent state.

    Returns:
        (draws, batch, latent).
    """
    size = batch.targets.values.shape[0]
    indices = range(size) if batch.indices is None else batch.indices.tolist()
    streams = (generator(DATA_SEED, NOISE, index) for index in indices)
    return torch.stack([torch.randn(DRAWS, latent, generator=stream) for stream in streams], 1)


@TASKS.register("series", measure="rmse")
class SeriesModule(TaskModule[SeriesModel]):
    """Predicts the targets of a :class:`SeriesBatch` from its observed part.

    ``mse`` and ``rmse`` are over all target entries of the set; a variational network predicts the mean of its
    posterior. ``mse_by_channel`` is the mean over series and channels of the error of each, 0 where a channel has no
    target, as in the published code of the latent ODE. ``nats`` is the negative evidence bound of a series where there
    is one, by 5 draws; ``error`` and ``auc`` are of the labels, where there are any, and NaN where they are undefined.
    """

    network_class = SeriesModel
    default_optimizer = "adamw"
    names = ("mse", "rmse", "mse_by_channel")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        classes = self.network.num_classes
        metrics: dict[str, Metric] = {"mse": Mean(), "mse_by_channel": Mean()}
        if isinstance(self.network, Variational):
            metrics["nats"] = Mean()
            self.names = (*self.names, "nats")
        if classes:
            self.names = (*self.names, "error", "auc")
            metrics |= {"error": Mean(), "auc": AreaUnderCurve(classes, ignore_index=UNLABELLED)}
        self.metrics = collected(metrics)

    def prepare(self, batch: Any, index: int) -> SeriesBatch:
        return series_of(self, batch, self.network.channels)

    def on_fit_start(self) -> None:
        if (data := data_where(self.trainer, SeriesData)) is not None:
            training = data.train_set
            assert training is not None
            chosen = torch.arange(min(SERIES, len(training)))
            self.network.adapt(training[one].observed for one in chosen.split(1))

    def on_train_start(self) -> None:
        if data_where(self.trainer, SeriesData) is None and self.trainer.global_step == 0:
            self.network.adapt([self.prepare(first_batch(self.trainer), 0).observed])

    def forward(self, batch: SeriesBatch) -> Prediction:
        return self.network.predict(batch)

    def measure(self, batch: SeriesBatch) -> None:
        prediction, targets = self.network.predict(batch), batch.targets
        here = targets.mask > 0
        squares = residuals(prediction.values[0], targets).square()
        self.metrics["mse"].update(squares[here])
        self.metrics["mse_by_channel"].update(squares.sum(1) / here.sum(1).clamp(min=1))
        if isinstance(self.network, Variational):
            noise = posterior_noise(batch, self.network.latent).to(squares)
            self.metrics["nats"].update(self.network.negative_bound(batch, noise))
        if prediction.logits is not None and batch.labels is not None:
            wrong, known = prediction.logits.argmax(1) != batch.labels, batch.labels != UNLABELLED
            self.metrics["error"].update(wrong.float(), known.float())
            self.metrics["auc"].update(prediction.logits.softmax(1), batch.labels)

    def results(self) -> Mapping[str, Tensor]:
        values = {name: metric.compute() for name, metric in self.metrics.items()}
        return values | {"rmse": values["mse"].sqrt()}
