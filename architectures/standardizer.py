"""The units in which a network sees a data set's series."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from architectures.observations import Observations, SeriesBatch


class Standardizer(nn.Module):
    """Location and scale of each channel, how fast it moves, and the span of time, as buffers.

    They are 0, 1, 1 and 1 until :meth:`adapt` has taken them from a training set, are kept with the weights, and are
    never learned: a network whose layers see numbers of order 1 answers in the data's own units. ``channels`` may
    count more than a data set has; those keep location 0 and scale 1, and move as the others do on the average.
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
        """Mean and standard deviation of the channels, mean size of their slopes, and the length of the series."""
        seen = concatenated(training.observed, training.asked)
        location, scale = moments(seen.values, seen.mask)
        span = seen.times[-1] - seen.times[0]
        rate = slopes(seen)
        rate = rate.where(rate > 0, scale / span)
        own = len(scale)
        self.location[:own], self.scale[:own], self.rate[:own] = location, scale, rate
        self.rate[own:] = (rate / scale).mean()
        self.span.copy_(span)


def moments(values: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of channels (..., channels) over what was observed.

    The latter is 1 where all is the same as far as the values' precision tells: what is left of rounding is no scale.
    """
    seen, here = values.flatten(0, -2).double(), mask.flatten(0, -2) > 0
    count = here.sum(0).clamp(min=1)
    mean = seen.where(here, 0.0).sum(0) / count
    spread = (seen - mean).where(here, 0.0).square().sum(0).div(count).sqrt()
    varies = spread > torch.finfo(values.dtype).eps * mean.abs()
    return mean.to(values.dtype), spread.where(varies, 1.0).to(values.dtype)


def concatenated(early: Observations, late: Observations) -> Observations:
    """Two parts of the same series, one after the other."""
    times = torch.cat((early.times, late.times))
    values, mask = (torch.cat(parts, 1) for parts in ((early.values, late.values), (early.mask, late.mask)))
    return Observations(times, values, mask)


def slopes(seen: Observations) -> Tensor:
    """How far a channel goes from observation to observation, over the time that this takes; (channels,)."""
    here = torch.arange(len(seen.times), device=seen.times.device)[None, :, None].expand(seen.mask.shape)
    latest = here.where(seen.mask > 0, -1).cummax(1).values
    before = torch.cat((torch.full_like(latest[:, :1], -1), latest[:, :-1]), 1)  # the last observation before
    counted = (seen.mask > 0) & (before >= 0)
    before = before.clamp(min=0)
    moved = (seen.values - seen.values.gather(1, before)).abs() * counted
    passed = (seen.times[:, None] - seen.times[before]) * counted
    return moved.sum((0, 1)) / passed.sum((0, 1)).clamp(min=torch.finfo(passed.dtype).tiny)
