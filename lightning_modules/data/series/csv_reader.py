"""The user's series, one row an observation: ``series,time,CHANNEL,...`` and, if there are classes, ``label``."""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch

from lightning_modules.data.series.series_set import LARGEST, Series
from lightning_modules.storage.atomic_files import refuse_special
from schemes.errors import SchemenetError

SHOWN = 5
"""So many mistakes of a file are told one by one."""


class SeriesTable(NamedTuple):
    """What a file holds: its series in the order of their first rows, their names, the channels' and the classes'."""

    series: list[Series]
    names: list[str]
    channels: list[str]
    classes: list[str]


def read_series(path: Path) -> SeriesTable:
    """The series of a csv file.

    Its first line names the columns: ``series`` (any text), ``time`` (a number), ``label`` if there are classes (any
    text, the same in all rows of a series), and the channels. An empty cell of a channel is a value that was not
    observed. The rows of a series stand in the order of their times; those of several may be mixed.

    Raises :class:`SchemenetError` with the first mistakes, each with its line.
    """
    refuse_special(path)
    reading = _Reading()
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            reading.file(csv.reader(file, strict=True))
    except OSError as error:
        raise SchemenetError(f"cannot read {os.fspath(path)!r}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise SchemenetError(f"cannot read {os.fspath(path)!r}: expected a csv file as UTF-8 text") from error
    except csv.Error as error:
        raise SchemenetError(
            f"{os.fspath(path)}, line {reading.rows.line_num}: cannot be read as csv: {error}"
        ) from error
    reading.end()
    if reading.mistakes:
        raise SchemenetError("\n".join(_told(path, reading.mistakes)))
    return reading.table()


def _told(path: Path, mistakes: list[tuple[int, str]]) -> Iterator[str]:
    mistakes = sorted(mistakes)
    yield from (f"{os.fspath(path)}, line {line}: {what}" for line, what in mistakes[:SHOWN])
    if (more := len(mistakes) - SHOWN) > 0:
        yield f"{os.fspath(path)}: and {more} more mistake{'s' if more > 1 else ''}"


@dataclass
class _Rows:
    """The rows of one series."""

    line: int
    label: str | None
    last: int = 0  # the line of its latest time
    times: list[float] = field(default_factory=list)
    values: list[list[float]] = field(default_factory=list)  # NaN: not observed
    labels: set[str | None] = field(default_factory=set)  # those that were told of, its own among them


class _Reading:
    """What was read so far, and what was wrong with it: line and text."""

    def __init__(self) -> None:
        self.rows: Any = None
        self.mistakes: list[tuple[int, str]] = []
        self.columns: list[str] = []
        self.channels: list[str] = []
        self.found: dict[str, _Rows] = {}

    def wrong(self, line: int, what: str) -> None:
        self.mistakes.append((line, what))

    def file(self, rows: Any) -> None:
        """All rows of a ``csv.reader``."""
        self.rows = rows
        self.header(next(rows, []))
        for row in rows if not self.mistakes else ():
            if row:
                self.row(rows.line_num, row)

    def header(self, row: list[str]) -> None:
        self.columns = [name.strip() for name in row]
        self.channels = [name for name in self.columns if name not in ("series", "time", "label")]
        expected = "expected a first line 'series,time,CHANNEL,...', with 'label' among them if there are classes"
        if missing := [name for name in ("series", "time") if name not in self.columns]:
            self.wrong(1, f"no column {' and no column '.join(map(repr, missing))}; {expected}, got {','.join(row)!r}")
        elif not self.channels:
            self.wrong(1, f"no channel beside {', '.join(map(repr, self.columns))}; {expected}")
        elif "" in self.columns:
            self.wrong(1, f"column {self.columns.index('') + 1} has no name; {expected}")
        elif twice := [name for name in dict.fromkeys(self.columns) if self.columns.count(name) > 1]:
            self.wrong(1, f"column {twice[0]!r} stands there twice")

    def row(self, line: int, row: list[str]) -> None:
        if len(row) != len(self.columns):
            return self.wrong(line, f"expected {len(self.columns)} cells ({','.join(self.columns)}), got {len(row)}")
        cells = dict(zip(self.columns, (cell.strip() for cell in row), strict=True))
        name, label = cells["series"], cells.get("label")
        if not name:
            return self.wrong(line, "column 'series': expected the name of a series, got an empty cell")
        rows = self.found.setdefault(name, _Rows(line, label, labels={label}))
        if label == "":
            self.wrong(line, f"column 'label': expected the class of series {name!r}, got an empty cell")
        elif label not in rows.labels:
            rows.labels.add(label)
            self.wrong(line, f"series {name!r} has label {label!r} here and {rows.label!r} in line {rows.line}")
        values = [self.number(line, channel, cells[channel]) for channel in self.channels]
        time = self.number(line, "time", cells["time"])
        if math.isnan(time):
            if not cells["time"]:
                self.wrong(line, "column 'time': expected a number, got an empty cell")
            return None
        if rows.times and time == rows.times[-1]:
            self.wrong(line, f"series {name!r} has time {cells['time']} here and in line {rows.last}")
        elif rows.times and time < rows.times[-1]:
            self.wrong(
                line,
                f"series {name!r}: time {cells['time']} comes after {rows.times[-1]:g} (line {rows.last}); "
                "expected the rows of a series in the order of time",
            )
        else:
            rows.times.append(time)
            rows.values.append(values)
            rows.last = line
        return None

    def number(self, line: int, column: str, cell: str) -> float:
        """A cell's number; NaN where it is empty or none, which is then a mistake."""
        if not cell:
            return math.nan
        try:
            value = float(cell)
        except ValueError:
            value = math.nan
        if not abs(value) < LARGEST or "_" in cell:
            missing = "; a value that is missing is an empty cell" if column in self.channels else ""
            self.wrong(line, f"column {column!r}: expected a finite number, got {cell!r}{missing}")
            return math.nan
        return value

    def end(self) -> None:
        """What only the whole file tells."""
        if self.mistakes:
            return
        if not self.found:
            self.wrong(1, "no rows below the names of the columns; expected one for each observation")
        for name, rows in self.found.items():
            if all(math.isnan(value) for row in rows.values for value in row):
                self.wrong(rows.line, f"series {name!r} has no observation: all its cells are empty")
        every = [row for rows in self.found.values() for row in rows.values]
        for i, channel in enumerate(self.channels):
            if every and all(math.isnan(row[i]) for row in every):
                self.wrong(1, f"column {channel!r} has no value in any row; leave it out")

    def table(self) -> SeriesTable:
        classes = sorted({rows.label for rows in self.found.values() if rows.label is not None}, key=_natural)
        series = []
        for rows in self.found.values():
            values = torch.tensor(rows.values, dtype=torch.float64)
            mask = ~values.isnan()
            label = None if rows.label is None else classes.index(rows.label)
            times = torch.tensor(rows.times, dtype=torch.float64)
            series.append(Series(times, values.where(mask, 0), mask, label))
        return SeriesTable(series, list(self.found), self.channels, classes)


def _natural(label: str) -> tuple[float, str]:
    """Numbers in their order, before texts."""
    try:
        return float(label), label
    except ValueError:
        return math.inf, label
