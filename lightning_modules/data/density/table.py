"""The user's table of numbers as samples of a density."""

from __future__ import annotations

from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from lightning_modules.config.registries import DATA
from lightning_modules.data.csv_table import CsvTable, parsed
from lightning_modules.data.datamodule import DATA_SEED
from lightning_modules.data.density.base import DensityData, Rows
from lightning_modules.data.loader import generator
from lightning_modules.storage.atomic_files import refuse_special
from schemes.errors import SchemenetError

FEWEST = 10
"""The fewest rows of a table."""
MOST_NUMBERS = 2**28
"""The most numbers of a table, which is kept in memory."""
SPLIT = 4
"""RNG stream of DATA_SEED for the split into training and test rows."""


class Table(NamedTuple):
    """Names of the columns, and float64 (rows, columns)."""

    columns: list[str]
    values: np.ndarray


class SplitTable(NamedTuple):
    """Training and test rows of a table, with mean and deviation of the training rows."""

    train: np.ndarray
    test: np.ndarray
    mean: Tensor
    deviation: Tensor


@DATA.register("table", task="density")
class TableData(DensityData):
    """Rows of ``file``, a csv of numbers (a first line of names, or none) or a two-dimensional npy.

    A fixed random share of the rows is the test set. The network sees each column standardised by mean and deviation of
    the training rows; nats are in the units of the table.
    """

    unit = "standard deviations"

    def __init__(self, *, file: str | None = None, test_share: float = 0.1, **options: Any) -> None:
        self.file, self.test_share = file, test_share
        super().__init__(**options)

    def mistakes(self) -> list[str]:
        wrong = super().mistakes()
        if self.file is None:
            wrong.append("data.file: expected the path of a table, FILE.csv or FILE.npy")
        if not 0 < self.test_share < 1:
            wrong.append(f"data.test_share: expected a share of the rows in (0, 1), got {self.test_share}")
        return wrong

    @property
    def table(self) -> Table:
        """The file, read in full. Raises SchemenetError with file and line for what is no table of numbers."""
        path = Path(str(self.file)).expanduser()
        refuse_special(path)
        try:
            stamp = path.stat().st_mtime_ns
        except OSError as error:
            raise SchemenetError(f"data.file: cannot read {str(path)!r}: {error.strerror}") from error
        return _read(path, stamp)

    @cached_property
    def split(self) -> SplitTable:
        """The table's rows."""
        columns, values = self.table
        order = torch.randperm(len(values), generator=generator(DATA_SEED, SPLIT)).numpy()
        count = min(max(1, round(self.test_share * len(values))), len(values) - 2)
        test, train = values[np.sort(order[:count])], values[np.sort(order[count:])]
        mean, deviation = train.mean(0), train.std(0)
        if len(constant := np.flatnonzero(deviation <= 1e-12 * np.abs(mean))):
            raise SchemenetError(
                f"{self.file}: column {columns[constant[0]]!r} is {mean[constant[0]]:g} in all training rows, and has "
                "no density; leave it out"
            )
        return SplitTable(train, test, torch.from_numpy(mean), torch.from_numpy(deviation))

    @property
    def shape(self) -> tuple[int, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]  # of the file
        return (len(self.table.columns),)

    @property
    def columns(self) -> list[str]:
        return self.table.columns

    def check(self) -> None:
        _ = self.split

    def load(self, train: bool) -> Rows:
        split = self.split
        rows = torch.from_numpy(split.train if train else split.test)
        return Rows(((rows - split.mean) / split.deviation).float())

    def log_jacobian(self, x: Tensor) -> Tensor:
        return -self.split.deviation.log().sum().to(x).expand(len(x))

    def original(self, x: Tensor) -> Tensor:
        return x * self.split.deviation.to(x) + self.split.mean.to(x)


@lru_cache(maxsize=4)
def _read(path: Path, stamp: int) -> Table:
    """The table in a file; ``stamp`` is its time of change, so that a changed file is read again."""
    table = {".csv": _read_csv, ".npy": _read_npy}.get(path.suffix.lower(), _refuse)(path)
    if len(table.values) < FEWEST:
        raise SchemenetError(f"{path}: expected at least {FEWEST} rows of numbers, got {len(table.values)}")
    return table


def _refuse(path: Path) -> Table:
    raise SchemenetError(f"data.file: expected FILE.csv or FILE.npy, got {str(path)!r}")


def _read_csv(path: Path) -> Table:
    """A first line without any number names the columns; else they are x1, x2, ..."""
    csv = CsvTable(path)
    columns: list[str] = []
    values: list[list[float]] = []
    for line, cells in csv.rows():
        if not columns:
            named = not any(parsed(cell) is not None for cell in cells)
            columns = cells if named else [f"x{i}" for i in range(1, len(cells) + 1)]
            if named:
                csv.check_unique(line, columns)
                continue
        if len(cells) != len(columns):
            csv.wrong(line, f"expected {len(columns)} numbers, as many as in the first line, got {len(cells)}")
            continue
        values.append([csv.number(line, name, cell) for name, cell in zip(columns, cells, strict=True)])
    csv.raise_mistakes()
    return Table(columns, np.array(values, np.float64).reshape(len(values), len(columns)))


def _read_npy(path: Path) -> Table:
    try:
        values = np.load(path, mmap_mode="r", allow_pickle=False)  # read when its header is known to be true
    except (ValueError, OSError, EOFError, OverflowError) as error:
        raise SchemenetError(f"{path}: cannot be read as an npy: {error}") from error
    if not isinstance(values, np.ndarray) or values.ndim != 2 or values.dtype.kind not in "fiub":
        got = f"{values.dtype} {values.shape}" if isinstance(values, np.ndarray) else type(values).__name__
        raise SchemenetError(f"{path}: expected numbers of shape (rows, columns), got {got}")
    if values.size > MOST_NUMBERS:
        raise SchemenetError(f"{path}: expected at most {MOST_NUMBERS:,} numbers, got {values.size:,}")
    values = values.astype(np.float64)
    if not np.isfinite(values).all():
        row, column = np.argwhere(~np.isfinite(values))[0]
        raise SchemenetError(f"{path}, row {row}, column {column}: expected a finite number, got {values[row, column]}")
    return Table([f"x{i}" for i in range(1, values.shape[1] + 1)], values)
