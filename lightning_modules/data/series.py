"""Sets of series of observations, whose batches lie on the union of their times."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from architectures.observations import Observations, SeriesBatch
from schemes.errors import SchemenetError

BITS = 22
"""Times are whole multiples of the 2^BITS-th part of the span: exact in single precision, and never almost equal."""

LARGEST = 1e38
"""Values are below it: networks compute in single precision."""


class Series(NamedTuple):
    """What was observed of one series.

    ``times`` (points,), increasing; ``values`` (points, channels); ``mask`` like it, True where there is a value;
    ``label`` the series' class, if it has one.
    """

    times: Tensor
    values: Tensor
    mask: Tensor
    label: int | None = None

    def at(self, chosen: Tensor | slice) -> Series:
        """Some of the points: by their indices, a mask of the points, or a slice."""
        return Series(self.times[chosen], self.values[chosen], self.mask[chosen], self.label)


class SeriesSet:
    """Samples of which each is two series: what a network is shown, and what it is asked for.

    Indices make a :class:`SeriesBatch` of them, each half on the union of its series' times. Times are rounded once to
    multiples of ``resolution`` (by default the largest time's part that single precision still holds exactly), so that
    what is one time in two series is one in their union, and a series has the same times in every batch.
    """

    def __init__(
        self, observed: Sequence[Series], asked: Sequence[Series] | None = None, resolution: float | None = None
    ) -> None:
        """``asked`` is left out where it is what was observed."""
        step = resolution or _resolution([*observed, *(asked or ())])
        shown = _Ragged.of(observed, step)
        labels = [series.label for series in observed]
        known = [label for label in labels if label is not None]
        if known and len(known) < len(labels):
            raise SchemenetError(f"{len(labels) - len(known)} of {len(labels)} series have no label")
        self._observed = shown
        self._asked = shown if asked is None else _Ragged.of(asked, step)
        self._labels = torch.tensor(known) if known else None
        self._chosen = torch.arange(len(observed))

    def __len__(self) -> int:
        return len(self._chosen)

    def part(self, indices: Tensor) -> SeriesSet:
        """Some of the samples, by their indices; their points are not copied."""
        part = SeriesSet.__new__(SeriesSet)
        part.__dict__ = {**self.__dict__, "_chosen": self._chosen[indices]}
        return part

    def __getitem__(self, indices: Tensor) -> SeriesBatch:
        chosen = self._chosen[indices]
        observed = self._observed.union(chosen)
        asked = observed if self._asked is self._observed else self._asked.union(chosen)
        return SeriesBatch(observed, asked, None if self._labels is None else self._labels[chosen], chosen)


class _Ragged(NamedTuple):
    """Series in one row: ``times`` (points,), ``values`` and ``mask`` (points, channels); where each begins."""

    times: Tensor
    values: Tensor
    mask: Tensor
    first: Tensor
    length: Tensor

    @classmethod
    def of(cls, series: Sequence[Series], step: float) -> _Ragged:
        length = torch.tensor([len(one.times) for one in series])
        values = torch.cat([one.values for one in series])
        mask = torch.cat([one.mask for one in series]).bool()
        times, first = torch.cat([one.times for one in series]).double(), length.cumsum(0) - length
        which = torch.arange(len(series)).repeat_interleave(length)
        slots = (times / step).round()
        apart = _apart(slots, which)
        inside = which.diff() == 0
        if (wrong := inside & ((times.diff() <= 0) | (apart - slots > 1)[1:])).any():
            point = int(wrong.nonzero()[0, 0])
            before, after = times[point : point + 2].tolist()
            raise SchemenetError(
                f"series {int(which[point])}: expected times that increase by {step:.3g} at least, "
                f"got {before!r} and {after!r}"
            )
        return cls((apart * step).to(values.dtype), values.where(mask, 0), mask, first, length)

    def union(self, chosen: Tensor) -> Observations:
        """Some of the series as one batch."""
        length = self.length[chosen]
        before = length.cumsum(0) - length
        points = torch.arange(int(length.sum())) + (self.first[chosen] - before).repeat_interleave(length)
        sample = torch.arange(len(chosen)).repeat_interleave(length)
        times, slot = self.times[points].unique(return_inverse=True)
        values = self.values.new_zeros(len(chosen), len(times), self.values.shape[1])
        mask = torch.zeros_like(values)
        values[sample, slot], mask[sample, slot] = self.values[points], self.mask[points].to(values.dtype)
        return Observations(times, values, mask)


def _apart(slots: Tensor, which: Tensor) -> Tensor:
    """The nearest strictly increasing slots at or after those given, in each series by itself.

    Of ten thousands of times drawn at random some fall together; a step is no more than what rounding moves.
    """
    order = torch.arange(len(slots))
    own = which * (2 * (slots.abs().max() + len(slots)) + 1) if len(slots) else which
    return (slots - order + own).cummax(0).values + order - own


def _resolution(series: Sequence[Series]) -> float:
    largest = max((float(one.times.abs().max()) for one in series if len(one.times)), default=1.0) or 1.0
    return 2.0 ** (math.ceil(math.log2(largest)) - BITS)
