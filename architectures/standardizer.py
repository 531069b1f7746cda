"""Standardization of series: location and scale of the channels and of time, taken from a training set."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from architectures.observations import Observations, SeriesBatch


class Standardizer(nn.Module):
    """Location, scale and rate of each channel and the span of time, as buffers.

    They are 0, 1, 1 and 1 until :meth:`adapt` takes them from a training set, are stored with the weights and never
    learned. The layers of a network that uses them see numbers of order 1, and it predicts in the units of the data.

    Args:
        channels: of the state. Those beyond the channels of the data keep location 0 and scale 1, and get the mean of
            the others' rates.
    """

    location: Tensor
    scale: Tensor
    rate: Tensor
    span: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("location", torch.zeros(channels))
        self.register_buffer("scale", torch.ones(channels))
        self.register_buffer("rate", torch.ones(channels))
        self.register_buffer("span", torch.ones(()))

    @torch.no_grad()
    def adapt(self, training: SeriesBatch) -> None:
        """Take mean and standard deviation of the channels, mean size of their slopes, and the span of the times."""
        series = concatenated(training.observed, training.targets)
        location, scale = moments(series.values, series.mask)
        span = series.times[-1] - series.times[0]
        rate = slopes(series)
        rate = rate.where(rate > 0, scale / span)
        channels = len(scale)
        self.location[:channels], self.scale[:channels], self.rate[:channels] = location, scale, rate
        self.rate[channels:] = (rate / scale).mean()
        self.span.copy_(span)


def moments(values: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each channel over what was observed; (channels,) each.

    The latter is 1 where all values are equal to their precision: a rounding error is no scale.

    Args:
        values: (..., channels).
        mask: like ``values``, positive where there is an observation.
    """
    values64, present = values.flatten(0, -2).double(), mask.flatten(0, -2) > 0
    count = present.sum(0).clamp(min=1)
    mean = values64.where(present, 0.0).sum(0) / count
    spread = (values64 - mean).where(present, 0.0).square().sum(0).div(count).sqrt()
    varies = spread > torch.finfo(values.dtype).eps * mean.abs()
    return mean.to(values.dtype), spread.where(varies, 1.0).to(values.dtype)


def concatenated(early: Observations, late: Observations) -> Observations:
    """Two parts of the same series, one after the other in time."""
    times = torch.cat((early.times, late.times))
    values, mask = (torch.cat(parts, 1) for parts in ((early.values, late.values), (early.mask, late.mask)))
    return Observations(times, values, mask)


def slopes(series: Observations) -> Tensor:
    """Sum of a channel's changes from observation to observation over the sum of the times between; (channels,)."""
    times, values, mask = series
    index = torch.arange(len(times), device=times.device)[None, :, None].expand(mask.shape)
    latest = index.where(mask > 0, -1).cummax(1).values
    previous = torch.cat((torch.full_like(latest[:, :1], -1), latest[:, :-1]), 1)  # the last observation before
    counted = (mask > 0) & (previous >= 0)
    previous = previous.clamp(min=0)
    changes = (values - values.gather(1, previous)).abs() * counted
    durations = (times[:, None] - times[previous]) * counted
    return changes.sum((0, 1)) / durations.sum((0, 1)).clamp(min=torch.finfo(durations.dtype).tiny)
