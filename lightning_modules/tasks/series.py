"""Training a network to predict series of irregular observations."""

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
from architectures.series.base import UNLABELLED, SeriesModel, residuals
from architectures.series.latent_variable import Variational
from lightning_modules.config.registries import TASKS
from lightning_modules.data.datamodule import DATA_SEED
from lightning_modules.data.loader import generator
from lightning_modules.data.series.base import SeriesData
from lightning_modules.tasks.base import Mean, TaskModule, collected
from lightning_modules.tasks.lightning_attributes import data_of

SERIES = 1024
"""So many of the training series, at most, tell the channels' units."""

DRAWS = 5
"""From the posterior, for the bound on the likelihood; a series has the same ones in every evaluation."""

NOISE = 4
"""Stream of the draws from the posterior, beside the seed of the data."""


class AreaUnderCurve(MulticlassAUROC):
    """The area under the ROC curve: of two classes that of the second, of more the mean of each against the others.

    A class that all series are of, or none, has no curve. It is left out, and where none is left there is no number;
    torchmetrics counts such a class as 0.
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
    """Standard normal numbers (draws, batch, latent), for each series those that its index in the data set decides.

    So a bound is the same whatever the batch size and the number of devices, and the errors of its draws are
    independent from series to series. A batch of no set counts as one of its own.
    """
    size = batch.targets.values.shape[0]
    indices = range(size) if batch.indices is None else batch.indices.tolist()
    streams = (generator(DATA_SEED, NOISE, index) for index in indices)
    return torch.stack([torch.randn(DRAWS, latent, generator=stream) for stream in streams], 1)


@TASKS.register("series", measure="rmse")
class SeriesModule(TaskModule[SeriesModel]):
    """Series as tasks say: see :class:`SeriesBatch`.

    ``mse`` and ``rmse`` are over all asked entries of the set, a network with a distribution of answers answering by
    the mean of its posterior. ``mse_by_channel`` is the mean over series and channels of the error of each, 0 where
    nothing is asked of one: so the published code of the latent ODE takes it. ``nats`` is the
    negative evidence bound of a series where there is one, by 5 draws; ``error`` and ``auc`` are of the labels, where
    there are any, and no numbers where they cannot be told.
    """

    network_class = SeriesModel
    names = ("mse", "rmse", "mse_by_channel")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        classes = self.hparams["data"]["num_classes"]
        metrics: dict[str, Metric] = {"mse": Mean(), "mse_by_channel": Mean()}
        if isinstance(self.network, Variational):
            metrics["nats"] = Mean()
            self.names = (*self.names, "nats")
        if classes:
            self.names = (*self.names, "error", "auc")
            metrics |= {"error": Mean(), "auc": AreaUnderCurve(classes, ignore_index=UNLABELLED)}
        self.metrics = collected(metrics)

    def on_fit_start(self) -> None:
        training = data_of(self.trainer, SeriesData).train_set
        assert training is not None
        chosen = torch.arange(min(SERIES, len(training)))
        self.network.adapt(training[one].observed for one in chosen.split(1))

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
