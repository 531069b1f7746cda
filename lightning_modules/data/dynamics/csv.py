"""Trajectories from a csv file of the user."""

from __future__ import annotations

import os
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch

from lightning_modules.config.registries import DATA
from lightning_modules.data.datamodule import validation_split
from lightning_modules.data.dynamics.simulated import TrajectoryData
from lightning_modules.data.series.csv_reader import SeriesTable, read_series
from lightning_modules.data.series.series_set import Series, SeriesSet
from schemes.errors import SchemenetError


@DATA.register("trajectories_csv", task="trajectory")
class TrajectoriesCSV(TrajectoryData):
    """The series of a csv file (``series,time,CHANNEL,...``), each from the first time at which all channels are known.

    A share ``test`` of the series is held out, and the last share ``beyond`` of the longest one's time is kept from
    training: the held-out series are measured within the time before and beyond it. A file of one series has no other
    to hold out, and the same is measured. Times count from where a series begins.

    ``window`` trains on pieces of so many points after each point at which all channels are known, instead of on whole
    series: for few long ones, and for chaotic ones.
    """

    least: ClassVar = {**TrajectoryData.least, "window": 1, "test": 0, "beyond": 0}

    def __init__(
        self,
        *,
        path: str | None = None,
        test: float = 0.2,
        beyond: float = 0.25,
        window: int | None = None,
        **options: Any,
    ) -> None:
        self.path, self.test, self.beyond, self.window = path, test, beyond, window
        super().__init__(**options)

    def mistakes(self) -> list[str]:
        wrong = super().mistakes()
        if self.path is None:
            wrong.append("data.path: expected a csv file of series (series,time,CHANNEL,...), got null")
        shares = {"test": self.test, "beyond": self.beyond}
        wrong += [f"data.{key}: expected a share below 1, got {value}" for key, value in shares.items() if value >= 1]
        return wrong

    def check(self) -> None:
        self.load(train=True)

    @cached_property
    def table(self) -> SeriesTable:
        return read_series(Path(str(self.path)).expanduser())

    @cached_property
    def series(self) -> list[Series]:
        """The series from the first time at which all channels are known, from which their times count."""
        begun = []
        for name, one in zip(self.table.names, self.table.series, strict=True):
            whole = one.mask.all(1).nonzero()
            begins = one.at(torch.arange(int(whole[0]), len(one.times))) if len(whole) else one.at(torch.arange(0))
            if not begins.mask[1:].any():
                raise SchemenetError(
                    f"{os.fspath(str(self.path))}: series {name!r} has no time at which all channels "
                    f"({', '.join(self.table.channels)}) are observed, with one after it; a trajectory begins there"
                )
            begun.append(begins._replace(times=begins.times - begins.times[0], values=begins.values.float()))
        return begun

    @property
    def channels(self) -> tuple[str, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]  # of the file
        return tuple(self.table.channels)

    @property
    def shape(self) -> tuple[int, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]  # of the file
        points = [len(one.times) - 1 for one in self.series]
        return min(self.window or max(points), max(points)), len(self.channels)

    @property
    def span(self) -> float:  # pyright: ignore[reportIncompatibleVariableOverride]  # of the file
        """The time from which on nothing is trained on, since the beginning of a series."""
        return (1 - self.beyond) * max(float(one.times[-1]) for one in self.series)

    def load(self, train: bool) -> SeriesSet:
        total = len(self.series)
        training, test = validation_split(total, self.test) if self.test and total > 1 else (torch.arange(total),) * 2
        chosen = [self.series[i] for i in (training if train else test)]
        if train:
            early = [one.at(one.times <= self.span) for one in chosen]
            chosen = [piece for one in early for piece in self._pieces(one)]
            if not chosen:
                raise SchemenetError(f"{self.path}: no training series has two observations before t = {self.span:g}")
        first, later = slice(0, 1), slice(1, None)
        return SeriesSet([one.at(first) for one in chosen], [one.at(later) for one in chosen])

    def _pieces(self, one: Series) -> list[Series]:
        """What is trained on of a series; what has nothing after its first time is left out."""
        starts = one.mask.all(1).nonzero()[:, 0].tolist() if self.window else [0]
        pieces = [one.at(slice(i, i + 1 + self.window if self.window else None)) for i in starts]
        return [piece._replace(times=piece.times - piece.times[0]) for piece in pieces if piece.mask[1:].any()]
