"""The trajectory task: a model of a dynamical system is fitted to observed trajectories."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from architectures.dynamics.base import TrajectoryModel
from architectures.observations import SeriesBatch
from lightning_modules.config.registries import TASKS
from lightning_modules.data.dynamics.simulated import TrajectoryData
from lightning_modules.tasks.base import Mean, TaskModule, collected
from lightning_modules.tasks.batches import series_of
from lightning_modules.tasks.lightning_attributes import data_where, first_batch

SLACK = 1e-4
"""Tolerance on the end of the span, relative to it: times are rounded to a part of the longest series."""
SERIES = 1024
"""Training series, at most, from which the units of the data are computed."""


@TASKS.register("trajectory", measure="rmse")
class TrajectoryModule(TaskModule[TrajectoryModel]):
    """Minimises the distance to the observed trajectory; measures its root mean square, in the unit of the data.

    ``rmse`` is over the time that the training series span, ``rmse_beyond`` over later times. Comparisons judge by the
    first: beyond it, the error in a chaotic system is that of its instability more than that of the model.
    """

    network_class = TrajectoryModel
    default_optimizer = "adamw"
    names = ("rmse", "rmse_beyond")
    span: Tensor

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.metrics = collected({name: Mean() for name in self.names})
        self.register_buffer("span", torch.tensor(torch.inf))

    def prepare(self, batch: Any, index: int) -> SeriesBatch:
        return series_of(self, batch, self.network.channels)

    def on_fit_start(self) -> None:
        if (data := data_where(self.trainer, TrajectoryData)) is not None:
            training = data.train_set
            assert training is not None
            self.network.adapt(training[torch.arange(min(SERIES, len(training)))])
            self.span.fill_(data.span)

    def on_train_start(self) -> None:
        if data_where(self.trainer, TrajectoryData) is None and self.trainer.global_step == 0:
            batch = self.prepare(first_batch(self.trainer), 0)
            self.network.adapt(batch)
            self.span.copy_(batch.targets.times[-1] - batch.observed.times[0])

    def measure(self, batch: SeriesBatch) -> None:
        targets = batch.targets
        squares = ((self.network(batch) - targets.values) ** 2).float()
        beyond = (targets.times - batch.observed.times[0] > self.span * (1 + SLACK))[:, None]
        for name, counted in (("rmse", ~beyond), ("rmse_beyond", beyond)):
            self.metrics[name].update(squares, weight=targets.mask * counted)

    def results(self) -> Mapping[str, Tensor]:
        return {name: metric.compute().sqrt() for name, metric in self.metrics.items()}
