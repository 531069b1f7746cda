"""Base class of the networks of trajectories: from a state, the states at later times."""

from __future__ import annotations

import abc

import torch
from torch import Tensor

from architectures.model import Model
from architectures.observations import Observations, SeriesBatch
from architectures.standardizer import Standardizer


class TrajectoryModel(Model):
    """Predicts the target values of a series from its first observed state.

    Takes a :class:`SeriesBatch` whose ``observed`` part is one time, at which all channels of all series are known, and
    returns (batch, target times, channels) in the units of the data.

    Args:
        units: the standardizer, which :meth:`adapt` adapts to a training set.
        channels: of the data.
    """

    def __init__(self, units: Standardizer, channels: int) -> None:
        super().__init__()
        self.units, self.channels = units, channels

    def adapt(self, training: SeriesBatch) -> None:
        """Adapt the standardizer to a training set, before training."""
        self.units.adapt(training)

    @abc.abstractmethod
    def forward(self, batch: SeriesBatch) -> Tensor: ...

    def loss(self, batch: SeriesBatch) -> Tensor:
        """Mean squared error over the observed targets, each channel divided by its standard deviation."""
        targets = batch.targets
        errors = (self(batch) - targets.values) / self.units.scale[: self.channels]
        return (errors**2 * targets.mask).sum() / targets.mask.sum().clamp(min=1)

    def random_batch(self, shape: tuple[int, ...], batch_size: int) -> SeriesBatch:
        times, channels = shape
        values = torch.randn(batch_size, times + 1, channels, **self.like())
        moments = self.units.span * torch.arange(times + 1, **self.like()) / times
        mask = torch.ones_like(values)
        observed, targets = (
            Observations(moments[part], values[:, part], mask[:, part]) for part in (slice(0, 1), slice(1, None))
        )
        return SeriesBatch(observed, targets)
