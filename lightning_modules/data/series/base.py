"""What sets of irregular series share."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lightning_modules.data.datamodule import DATA_SEED, SplitData
from lightning_modules.data.loader import BatchLoader, Indexable, generator
from lightning_modules.data.series.series_set import Series, SeriesSet
from schemes.errors import SchemenetError

SPLIT = 3
"""Stream of DATA_SEED that splits a set into training and test."""


class SeriesLoader(BatchLoader):
    """Batches of series, in training with a window of each that (seed, epoch, its index) decide."""

    samples: SeriesSet

    def __init__(self, samples: SeriesSet, batch_size: int, *, window: float | None = None, **options: Any) -> None:
        self.window = window
        super().__init__(samples, batch_size, **options)

    def epoch_samples(self) -> Indexable:
        if self.window is None:
            return self.samples
        drawn, places = torch.rand(2, len(self.samples), generator=self._stream(1))
        return self.samples.windows(self.window + (1 - self.window) * drawn, places)


class SeriesData(SplitData):
    """Series whose ``shape`` is (times, channels): as many times as a series has in the middle, for counting costs.

    With ``window``, a share of the span, a network is shown so much of each series or more in training, from one of
    its points on, and asked for what is shown and for all that comes behind it, whatever ``mode`` says of measuring:
    it learns to go on beyond what it has read. Length and beginning are drawn anew in each epoch.
    """

    loader = SeriesLoader
    channels: tuple[str, ...]
    unit: str = ""
    """What values are counted in where it is not what the user's file or the equation has."""

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


def parted(total: int, share: float) -> tuple[Tensor, Tensor]:
    """Indices of a training and a test set, the latter a ``share`` of all; drawn once and for all."""
    if total < 2:
        raise SchemenetError(f"{total} series cannot be parted into training and test set; expected at least 2")
    order = torch.randperm(total, generator=generator(DATA_SEED, SPLIT))
    count = min(max(1, round(share * total)), total - 1)
    return order[count:].sort().values, order[:count].sort().values


def with_targets(series: list[Series], mode: str, half: float) -> SeriesSet:
    """A set that is asked for what is shown, or that is shown what lies before a time and asked for what lies behind.

    Series that have nothing on one side are then left out.
    """
    if mode == "interpolation":
        return SeriesSet(series)
    both = [(one.at(one.times < half), one.at(one.times >= half)) for one in series]
    pairs = [(before, behind) for before, behind in both if len(before.times) and len(behind.times)]
    if not pairs:
        raise SchemenetError("data.mode=extrapolation: no series has observations in both halves of the span")
    return SeriesSet([before for before, _ in pairs], [behind for _, behind in pairs])
