"""What networks of trajectories have in common: from a state, the states at later times."""

from __future__ import annotations

import abc

import torch
from torch import Tensor

from architectures.model import Model
from architectures.observations import Observations, SeriesBatch
from architectures.standardizer import Standardizer


class TrajectoryModel(Model):
    """Predicts the asked values of a series from its first observed state.

    Takes a :class:`SeriesBatch` whose ``observed`` part is one time, at which all channels of all series are known, and
    gives (batch, asked times, channels) in the data's units. ``units`` are to be adapted to a training set.
    """

    def __init__(self, units: Standardizer, channels: int) -> None:
        super().__init__()
        self.units, self.channels = units, channels

    def adapt(self, training: SeriesBatch) -> None:
        """Take the units of a training set, before training."""
        self.units.adapt(training)

    @abc.abstractmethod
    def forward(self, batch: SeriesBatch) -> Tensor: ...

    def loss(self, batch: SeriesBatch) -> Tensor:
        """Squared distance along the path, the mean over what was observed, each channel over its own variance."""
        asked = batch.asked
        apart = (self(batch) - asked.values) / self.units.scale[: self.channels]
        return (apart**2 * asked.mask).sum() / asked.mask.sum().clamp(min=1)

    def random_batch(self, shape: tuple[int, ...], batch_size: int) -> SeriesBatch:
        times, channels = shape
        values = torch.randn(batch_size, times + 1, channels, **self.like())
        moments = self.units.span * torch.arange(times + 1, **self.like()) / times
        mask = torch.ones_like(values)
        observed, asked = (
            Observations(moments[part], values[:, part], mask[:, part]) for part in (slice(0, 1), slice(1, None))
        )
        return SeriesBatch(observed, asked)
