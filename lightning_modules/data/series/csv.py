"""Irregular series from a csv file of the user."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch

from architectures.standardizer import moments
from lightning_modules.config.registries import DATA
from lightning_modules.data.series.base import SeriesData, TimeScale, test_split, with_targets
from lightning_modules.data.series.csv_reader import SeriesTable, read_series
from lightning_modules.data.series.series_set import BITS, Series, SeriesSet
from schemes.errors import SchemenetError


@DATA.register("series_csv", task="series")
class SeriesCSV(SeriesData):
    """The series of a csv file (``series,time,CHANNEL,...``, perhaps ``label``) with channels missing here and there.

    A fixed random share ``test`` of the series is the test set. Times count from the first of all, in units of the span
    up to the last of the training part. Channels are standardised by the training part, unless ``scale=none``; errors
    are in these units. With ``mode=interpolation`` the targets are the observations, with ``extrapolation`` the first
    half of the span is observed and the second is the target; series that have nothing in one half are then left out.
    Where there are labels, the class of a series is learned too.
    """

    least: ClassVar = {**SeriesData.least, "test": 0}

    def __init__(
        self,
        *,
        path: str | None = None,
        mode: Literal["interpolation", "extrapolation"] = "interpolation",
        test: float = 0.2,
        scale: Literal["standard", "none"] = "standard",
        **options: Any,
    ) -> None:
        self.path, self.mode, self.test, self.scale = path, mode, test, scale
        super().__init__(**options)

    def mistakes(self) -> list[str]:
        wrong = super().mistakes()
        if self.path is None:
            wrong.append("data.path: expected a csv file of series (series,time,CHANNEL,...), got null")
        if not 0 < self.test < 1:
            wrong.append(f"data.test: expected a share of the series in (0, 1), got {self.test}")
        return wrong

    def check(self) -> None:
        self.sets  # noqa: B018  # read, and refused where it cannot be

    @cached_property
    def table(self) -> SeriesTable:
        return read_series(Path(str(self.path)).expanduser())

    @property
    def num_classes(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]  # of the file
        return len(self.table.classes)

    @property
    def channels(self) -> tuple[str, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]  # of the file
        return tuple(self.table.channels)

    @property
    def unit(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]  # of the file
        return "standard deviations" if self.scale == "standard" else ""

    @property
    def shape(self) -> tuple[int, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]  # of the file
        middle = sorted(len(one.times) for one in self.table.series)
        return middle[len(middle) // 2], len(self.table.channels)

    def load(self, train: bool) -> SeriesSet:
        return self.sets[0 if train else 1]

    @cached_property
    def _parts(self) -> tuple[list[Series], list[Series]]:
        """The series of the training and of the test set, as the file has them."""
        train, test = test_split(len(self.table.series), self.test)
        return [self.table.series[i] for i in train.tolist()], [self.table.series[i] for i in test.tolist()]

    @cached_property
    def time_scale(self) -> TimeScale:  # pyright: ignore[reportIncompatibleVariableOverride]  # of the file
        begin = min(float(one.times[0]) for one in self.table.series)
        span = max(float(one.times[-1]) for one in self._parts[0]) - begin or 1.0
        return TimeScale(begin, span, "time, as in the file")

    @cached_property
    def sets(self) -> tuple[SeriesSet, SeriesSet]:
        """Training and test set."""
        if self.num_classes == 1:
            raise SchemenetError(
                f"{self.path}, line 1: column 'label': all series are of one class, {self.table.classes[0]!r}; "
                "leave it out"
            )
        begin, span, _ = self.time_scale
        self._refuse_close(max(float(one.times[-1]) for one in self.table.series) - begin)
        train, test = self._parts
        values, mask = (torch.cat(parts) for parts in zip(*((one.values, one.mask) for one in train), strict=True))
        mean, sd = moments(values, mask) if self.scale == "standard" else (0.0, 1.0)
        train, test = (
            [
                one._replace(
                    times=(one.times - begin) / span, values=((one.values - mean) / sd).where(one.mask, 0.0).float()
                )
                for one in part
            ]
            for part in (train, test)
        )
        first, second = (with_targets(part, self.mode, half=0.5) for part in (train, test))
        return first, second

    def _refuse_close(self, length: float) -> None:
        """Refuse times that are equal in single precision on one axis of this length.

        Two equal ones are separated by a step, more are not.
        """
        least = 2.0 ** (1 - BITS) * length
        for name, one in zip(self.table.names, self.table.series, strict=True):
            if close := (one.times[2:] - one.times[:-2] < 2 * least).nonzero()[:, 0].tolist():
                times = ", ".join(repr(time) for time in one.times[close[0] : close[0] + 3].tolist())
                raise SchemenetError(
                    f"{self.path}: series {name!r} has the times {times}, closer than {least:.3g}: all series lie on "
                    f"one axis, {length:g} long, on which single precision cannot separate them; if they share no "
                    "clock, count the times of each from its first time, else make one row of them"
                )
