"""Reader of series from a csv file, a row for each observation: ``series,time,CHANNEL,...``, perhaps ``label``."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch

from lightning_modules.data.csv_table import CsvTable
from lightning_modules.data.series.series_set import LARGEST, Series

EXPECTED = "; expected a first line 'series,time,CHANNEL,...', with 'label' among them if there are classes"
MISSING = "; a value that is missing is an empty cell"


class SeriesTable(NamedTuple):
    """The content of a file: its series in the order of their first rows, and names of series, channels and classes."""

    series: list[Series]
    names: list[str]
    channels: list[str]
    classes: list[str]


def read_series(path: Path) -> SeriesTable:
    """The series of a csv file.

    Its first line names the columns: ``series`` (any text), ``time`` (a number), ``label`` if there are classes (any
    text, the same in all rows of a series), and the channels. An empty cell of a channel is a value that was not
    observed. The rows of a series stand in the order of their times; those of several may be mixed.

    Raises:
        SchemenetError: with the first mistakes, each with its line.
    """
    return _Reading(CsvTable(path)).table()


@dataclass
class _Rows:
    """The rows of one series."""

    line: int
    label: str | None
    last: int = 0  # the line of its latest time
    times: list[float] = field(default_factory=list)
    values: list[list[float]] = field(default_factory=list)  # NaN: not observed
    labels: set[str | None] = field(default_factory=set)  # its label, and others that were reported


class _Reading:
    """The series that were read from a csv file so far."""

    def __init__(self, csv: CsvTable) -> None:
        self.csv = csv
        self.columns: list[str] = []
        self.channels: list[str] = []
        self.series: dict[str, _Rows] = {}
        rows = csv.rows()
        self.header(*next(rows, (1, [])))
        csv.raise_mistakes()
        for line, cells in rows:
            self.row(line, cells)
        csv.raise_mistakes()
        self.check_values()
        csv.raise_mistakes()

    def header(self, line: int, columns: list[str]) -> None:
        self.columns = columns
        self.channels = [name for name in columns if name not in ("series", "time", "label")]
        if missing := [name for name in ("series", "time") if name not in columns]:
            names = " and no column ".join(map(repr, missing))
            self.csv.wrong(line, f"no column {names}{EXPECTED}, got {','.join(columns)!r}")
        elif not self.channels:
            self.csv.wrong(line, f"no channel beside {', '.join(map(repr, columns))}{EXPECTED}")
        elif "" in columns:
            self.csv.wrong(line, f"column {columns.index('') + 1} has no name{EXPECTED}")
        else:
            self.csv.check_unique(line, columns)

    def row(self, line: int, cells: list[str]) -> None:
        if len(cells) != len(self.columns):
            names = ",".join(self.columns)
            return self.csv.wrong(line, f"expected {len(self.columns)} cells ({names}), got {len(cells)}")
        row = dict(zip(self.columns, cells, strict=True))
        name, label = row["series"], row.get("label")
        if not name:
            return self.csv.wrong(line, "column 'series': expected the name of a series, got an empty cell")
        rows = self.series.setdefault(name, _Rows(line, label, labels={label}))
        if label == "":
            self.csv.wrong(line, f"column 'label': expected the class of series {name!r}, got an empty cell")
        elif label not in rows.labels:
            rows.labels.add(label)
            self.csv.wrong(line, f"series {name!r} has label {label!r} here and {rows.label!r} in line {rows.line}")
        values = [self.csv.number(line, c, row[c], LARGEST, MISSING) if row[c] else math.nan for c in self.channels]
        time = self.csv.number(line, "time", row["time"], LARGEST)
        if math.isnan(time):
            return None
        if rows.times and time == rows.times[-1]:
            self.csv.wrong(line, f"series {name!r} has time {row['time']} here and in line {rows.last}")
        elif rows.times and time < rows.times[-1]:
            self.csv.wrong(
                line,
                f"series {name!r}: time {row['time']} comes after {rows.times[-1]:g} (line {rows.last}); "
                "expected the rows of a series in the order of time",
            )
        else:
            rows.times.append(time)
            rows.values.append(values)
            rows.last = line
        return None

    def check_values(self) -> None:
        """Collect a mistake for each series and each channel without a value."""
        if not self.series:
            self.csv.wrong(1, "no rows below the names of the columns; expected one for each observation")
        for name, rows in self.series.items():
            if all(math.isnan(value) for row in rows.values for value in row):
                self.csv.wrong(rows.line, f"series {name!r} has no observation: all its cells are empty")
        every = [row for rows in self.series.values() for row in rows.values]
        for i, channel in enumerate(self.channels):
            if every and all(math.isnan(row[i]) for row in every):
                self.csv.wrong(1, f"column {channel!r} has no value in any row; leave it out")

    def table(self) -> SeriesTable:
        classes = sorted({rows.label for rows in self.series.values() if rows.label is not None}, key=_natural)
        series = []
        for rows in self.series.values():
            values = torch.tensor(rows.values, dtype=torch.float64)
            mask = ~values.isnan()
            label = None if rows.label is None else classes.index(rows.label)
            times = torch.tensor(rows.times, dtype=torch.float64)
            series.append(Series(times, values.where(mask, 0), mask, label))
        return SeriesTable(series, list(self.series), self.channels, classes)


def _natural(label: str) -> tuple[float, str]:
    """Numbers in their order, before texts."""
    try:
        return float(label), label
    except ValueError:
        return math.inf, label
