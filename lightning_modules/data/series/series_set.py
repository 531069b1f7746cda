"""Sets of irregularly observed series; a batch is on the union of the times of its series."""

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

WINDOW_STEP = 2.0**-16
"""Of a unit of time: what times within a window are multiples of."""

LARGEST = 1e38
"""Values are below it: networks compute in single precision."""


class Series(NamedTuple):
    """The observations of one series.

    Attributes:
        times: (points,), increasing.
        values: (points, channels).
        mask: (points, channels), True where there is a value.
        label: the class of the series, if it has one.
    """

    times: Tensor
    values: Tensor
    mask: Tensor
    label: int | None = None

    def at(self, chosen: Tensor | slice) -> Series:
        """Some of the points: by their indices, a mask of the points, or a slice."""
        return Series(self.times[chosen], self.values[chosen], self.mask[chosen], self.label)


class SeriesSet:
    """Samples of two series each: the observations that a network sees, and its targets.

    Samples at given indices are a :class:`SeriesBatch`, each half on the union of the times of its series. Times are
    rounded once to multiples of ``resolution``, so that equal times in two series are one in their union, and a series
    has the same times in every batch.

    Args:
        observed: the observations.
        targets: as many series; None: the observations.
        resolution: None: a part of the largest time that single precision represents exactly.

    Raises:
        SchemenetError: some series have a label and others none, or times do not increase.
    """

    def __init__(
        self, observed: Sequence[Series], targets: Sequence[Series] | None = None, resolution: float | None = None
    ) -> None:
        step = resolution or _resolution([*observed, *(targets or ())])
        shown = RaggedSeries.of(observed, step)
        labels = [series.label for series in observed]
        known = [label for label in labels if label is not None]
        if known and len(known) < len(labels):
            raise SchemenetError(f"{len(labels) - len(known)} of {len(labels)} series have no label")
        self._observed = shown
        self._targets = shown if targets is None else RaggedSeries.of(targets, step)
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
        targets = observed if self._targets is self._observed else self._targets.union(chosen)
        return SeriesBatch(observed, targets, None if self._labels is None else self._labels[chosen], chosen)

    def windows(self, lengths: Tensor, places: Tensor) -> SeriesWindows:
        """A window of each sample.

        Args:
            lengths: in units of time, (samples,).
            places: in [0, 1), (samples,): which of the points is the first of the window.
        """
        points = self._observed if self._targets is self._observed else self._observed.joined(self._targets)
        return SeriesWindows(points, self._labels, self._chosen, lengths, places)


class SeriesWindows:
    """Samples of which a window of time is observed; the targets are the window and all that follows.

    A window begins at a point of its series, chosen by ``places`` among those from which it ends before the last
    point, or at the first where there are none. Earlier points are left out, and times count from the beginning of the
    window, in multiples of WINDOW_STEP: equal differences of times then nearly always stay equal.
    """

    def __init__(
        self, points: RaggedSeries, labels: Tensor | None, chosen: Tensor, lengths: Tensor, places: Tensor
    ) -> None:
        self._points, self._labels, self._chosen = points, labels, chosen
        self._lengths, self._places = lengths, places

    def __len__(self) -> int:
        return len(self._chosen)

    def __getitem__(self, indices: Tensor) -> SeriesBatch:
        chosen, lengths = self._chosen[indices], self._lengths[indices]
        series = self._points.part(chosen)
        which = series.which()
        last = series.times[series.first + series.length - 1]
        begins = torch.bincount(which[series.times + lengths[which] < last[which]], minlength=len(chosen))
        begin = series.times[series.first + (self._places[indices] * begins).long()]
        targets = series.where(series.times >= begin[which])
        since = (targets.times - begin[targets.which()]).double()
        slots = _apart((since / WINDOW_STEP).round(), targets.which())
        targets = targets._replace(times=(slots * WINDOW_STEP).to(series.times.dtype))
        observed, everything = targets.where(since < lengths[targets.which()]), torch.arange(len(chosen))
        labels = None if self._labels is None else self._labels[chosen]
        return SeriesBatch(observed.union(everything), targets.union(everything), labels, chosen)


class RaggedSeries(NamedTuple):
    """Concatenated series: ``times`` (points,), ``values`` and ``mask`` (points, channels), ``first``, ``length``."""

    times: Tensor
    values: Tensor
    mask: Tensor
    first: Tensor
    length: Tensor

    @classmethod
    def of(cls, series: Sequence[Series], step: float) -> RaggedSeries:
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

    def which(self) -> Tensor:
        """The series of each point, (points,)."""
        return torch.arange(len(self.length)).repeat_interleave(self.length)

    def part(self, chosen: Tensor) -> RaggedSeries:
        """Some of the series."""
        length = self.length[chosen]
        first = length.cumsum(0) - length
        points = torch.arange(int(length.sum())) + (self.first[chosen] - first).repeat_interleave(length)
        return RaggedSeries(self.times[points], self.values[points], self.mask[points], first, length)

    def where(self, here: Tensor) -> RaggedSeries:
        """Some of the points (points,) of every series."""
        length = torch.bincount(self.which()[here], minlength=len(self.length))
        return RaggedSeries(self.times[here], self.values[here], self.mask[here], length.cumsum(0) - length, length)

    def joined(self, other: RaggedSeries) -> RaggedSeries:
        """The points of both, which have no time in common."""
        times, which = (
            torch.cat((mine, others)) for mine, others in ((self.times, other.times), (self.which(), other.which()))
        )
        order = times.argsort()
        order = order[which[order].argsort(stable=True)]
        values, mask = (torch.cat((mine, others))[order] for mine, others in zip(self[1:3], other[1:3], strict=True))
        length = self.length + other.length
        return RaggedSeries(times[order], values, mask, length.cumsum(0) - length, length)

    def union(self, chosen: Tensor) -> Observations:
        """Some of the series as one batch."""
        part = self.part(chosen)
        times, slot = part.times.unique(return_inverse=True)
        values = part.values.new_zeros(len(chosen), len(times), part.values.shape[1])
        mask, sample = torch.zeros_like(values), part.which()
        values[sample, slot], mask[sample, slot] = part.values, part.mask.to(values.dtype)
        return Observations(times, values, mask)


def _apart(slots: Tensor, which: Tensor) -> Tensor:
    """The nearest strictly increasing slots at or after the given ones, in each series separately.

    Of ten thousands of random times some are equal after rounding; a shift by one step is as small as the rounding.
    """
    order = torch.arange(len(slots))
    offset = which * (2 * (slots.abs().max() + len(slots)) + 1) if len(slots) else which
    return (slots - order + offset).cummax(0).values + order - offset


def _resolution(series: Sequence[Series]) -> float:
    largest = max((float(one.times.abs().max()) for one in series if len(one.times)), default=1.0) or 1.0
    return 2.0 ** (math.ceil(math.log2(largest)) - BITS)
