"""Clockwise and counterclockwise spirals in the plane, observed at irregular times."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor

from lightning_modules.config.registries import DATA
from lightning_modules.data.datamodule import DATA_SEED, subset, validation_split
from lightning_modules.data.loader import generator
from lightning_modules.data.series.base import SeriesData
from lightning_modules.data.series.series_set import Series, SeriesSet

SPAN = 100
"""Points of the observed span, and of the one after it; a span is a unit of time."""

POINTS, END = 1000, 6 * math.pi
"""Points of a whole spiral, and the angle at which it ends."""


@DATA.register("spiral_series", task="series", described_by=("observed",), measure="rmse")
class SpiralSeries(SeriesData):
    """Plane spirals, half of them clockwise, each from another start, with ``observed`` of 100 noisy points.

    The points are drawn without replacement and have normal ``noise``. A network is trained to predict the points that
    it observes, and evaluated on the next 100 points, without noise, of other spirals; with ``validation`` on those of
    spirals that are held out of the training set.

    The paper says 1000 spirals with 100 equally spaced times, 30, 50 or 100 of them observed; how far they turn, and
    the noise, it does not. These are as torchdiffeq's example means them: pieces of two whole spirals of 1000 points on
    6 pi (the example runs with 500), radius 0.3 theta around (5, 0), or 15 / (6 pi + 1 - theta) around (-5, 0) and
    clockwise, noise 0.3. A piece lies anywhere at least 100 points from either end, and where it is examined what comes
    behind it does too: of each part of the whole spirals pieces have been trained on.

    Reference: Chen, Rubanova, Bettencourt, Duvenaud, NeurIPS 2018, arXiv:1806.07366, section 5.
    """

    channels = ("x", "y")
    least: ClassVar = {**SeriesData.least, "train_size": 2, "test_size": 1, "observed": 1, "noise": 0}

    def __init__(
        self, *, train_size: int = 800, test_size: int = 200, observed: int = 30, noise: float = 0.3, **options: Any
    ) -> None:
        self.train_size, self.test_size, self.observed, self.noise = train_size, test_size, observed, noise
        super().__init__(**options)
        self.shape = (observed, 2)

    def mistakes(self) -> list[str]:
        wrong = super().mistakes()
        if self.observed > SPAN:
            wrong.append(f"data.observed: expected at most {SPAN}, the points of a span, got {self.observed}")
        return wrong

    def load(self, train: bool) -> SeriesSet:
        return SeriesSet(self._shown(self._points(train, SPAN), train)) if train else self._examined(train)

    def setup(self, stage: str | None = None) -> None:
        first = self.train_set is None
        super().setup(stage)
        if first and self.validation is not None:
            chosen = subset(self.train_size, self.limit_train)
            validation = validation_split(len(chosen), self.validation)[1]
            self.validation_set = self._examined(train=True).part(chosen[validation])

    def _examined(self, train: bool) -> SeriesSet:
        """Series whose targets are the points after their span."""
        points, times = self._points(train, 2 * SPAN), torch.arange(SPAN, 2 * SPAN) / SPAN
        targets = [Series(times, values, torch.ones_like(values)) for values in points[:, SPAN:]]
        return SeriesSet(self._shown(points[:, :SPAN], train), targets)

    def _shown(self, points: Tensor, train: bool) -> list[Series]:
        """Some of the points of the span, with noise."""
        stream = generator(DATA_SEED, int(train), 1)
        points = points + self.noise * torch.randn(points.shape, generator=stream)
        chosen = torch.rand(points.shape[:2], generator=stream).argsort(1)[:, : self.observed].sort(1).values
        times, everything = torch.arange(SPAN) / SPAN, torch.ones(SPAN, 2)
        return [Series(times, values, everything).at(indices) for values, indices in zip(points, chosen, strict=True)]

    def _points(self, train: bool, length: int) -> Tensor:
        """Pieces of spirals, (spirals, length, 2), without noise."""
        count = self.train_size if train else self.test_size
        place = torch.rand(count, generator=generator(DATA_SEED, int(train)))
        start = SPAN + (POINTS - 2 * SPAN - length) * place
        theta = END / POINTS * (start[:, None] + torch.arange(length))
        back = END + 1 - theta
        clockwise = (torch.arange(count) % 2 == 0)[:, None]
        angle, radius = torch.where(clockwise, back, theta), torch.where(clockwise, 15 / back, 0.3 * theta)
        centre = torch.where(clockwise, -5.0, 5.0)
        return torch.stack((radius * angle.cos() + centre, radius * angle.sin()), 2)
