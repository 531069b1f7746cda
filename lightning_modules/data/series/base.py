"""Base class of sets of irregular series, and their loader."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from lightning_modules.data.datamodule import DATA_SEED, SplitData
from lightning_modules.data.loader import BatchLoader, Indexable, generator
from lightning_modules.data.series.series_set import Series, SeriesSet
from schemes.errors import SchemenetError

SPLIT = 3
"""RNG stream of DATA_SEED for the split into training and test series."""


class SeriesLoader(BatchLoader):
    """Batches of series; in training, windows of them that depend on (seed, epoch, index of the series).

    Args:
        samples: the set.
        batch_size: series of a batch, on each rank.
        window: the least share of the span that is observed; None: series are not cut.
        options: those of :class:`BatchLoader`.
    """

    samples: SeriesSet

    def __init__(self, samples: SeriesSet, batch_size: int, *, window: float | None = None, **options: Any) -> None:
        self.window = window
        super().__init__(samples, batch_size, **options)

    def epoch_samples(self) -> Indexable:
        if self.window is None:
            return self.samples
        drawn, places = torch.rand(2, len(self.samples), generator=self._stream(1))
        return self.samples.windows(self.window + (1 - self.window) * drawn, places)


class TimeScale(NamedTuple):
    """How a time t of the networks reads in a picture: as ``begin + length * t``, under a ``label``."""

    begin: float = 0.0
    length: float = 1.0
    label: str = "time, in spans"


class SeriesData(SplitData):
    """Series whose ``shape`` is (times, channels), with the median number of times, for counting costs.

    With ``window``, a share of the span, a network observes at least so much of each series in training, from one of
    its points on; its targets are what it observes and all that follows, in every ``mode`` of evaluation: it learns to
    extrapolate. Length and beginning are drawn anew in each epoch.
    """

    loader = SeriesLoader
    channels: tuple[str, ...]
    unit: str = ""
    """Unit of the values where it is not that of the user's file or of the equation."""
    time_scale: TimeScale = TimeScale()

    def __init__(self, *, window: float | None = None, **options: Any) -> None:
        self.window = window
        super().__init__(**options)

    def mistakes(self) -> list[str]:
        wrong = super().mistakes()
        if self.window is not None and not 0 < self.window < 1:
            wrong.append(f"data.window: expected a share of the span in (0, 1), got {self.window}")
        return wrong

    def _loader(self, samples: Any, train: bool = False, **options: Any) -> BatchLoader:
        if train:
            options["window"] = self.window
        return super()._loader(samples, train=train, **options)

    @property
    def context(self) -> dict[str, Any]:
        return {"num_classes": self.num_classes, "in_chans": self.shape[1], "image_size": None}


def test_split(total: int, share: float) -> tuple[Tensor, Tensor]:
    """Split a set; the same for every run.

    Args:
        total: the number of series.
        share: of them that is the test set.

    Returns:
        Indices of the training and of the test set, both in order.
    """
    if total < 2:
        raise SchemenetError(f"{total} series cannot be parted into training and test set; expected at least 2")
    order = torch.randperm(total, generator=generator(DATA_SEED, SPLIT))
    count = min(max(1, round(share * total)), total - 1)
    return order[count:].sort().values, order[:count].sort().values


def with_targets(series: list[Series], mode: str, half: float) -> SeriesSet:
    """A set of series with their targets.

    Args:
        series: all observations.
        mode: ``interpolation``: the observations are the targets; ``extrapolation``: observations before ``half``,
            targets from then on, without the series that have nothing on one side.
        half: a time.

    Raises:
        SchemenetError: no series is left.
    """
    if mode == "interpolation":
        return SeriesSet(series)
    both = [(one.at(one.times < half), one.at(one.times >= half)) for one in series]
    pairs = [(before, behind) for before, behind in both if len(before.times) and len(behind.times)]
    if not pairs:
        raise SchemenetError("data.mode=extrapolation: no series has observations in both halves of the span")
    return SeriesSet([before for before, _ in pairs], [behind for _, behind in pairs])
