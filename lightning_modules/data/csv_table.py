"""A reader of csv files that collects what is wrong in them, each mistake with its line."""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Iterator
from pathlib import Path

from lightning_modules.storage.atomic_files import refuse_special
from schemes.errors import SchemenetError

SHOWN = 5
"""The most mistakes of a file that are reported singly."""


class CsvTable:
    """The rows of a csv file with their lines.

    Args:
        path: a file of UTF-8 text.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.mistakes: list[tuple[int, str]] = []

    def rows(self) -> Iterator[tuple[int, list[str]]]:
        """Line and stripped cells of each row that is not empty.

        Raises:
            SchemenetError: the file cannot be read, or is no csv.
        """
        refuse_special(self.path)
        name = os.fspath(self.path)
        try:
            with open(self.path, encoding="utf-8-sig", newline="") as file:
                reader = csv.reader(file, strict=True)
                try:
                    for cells in reader:
                        if cells:
                            yield reader.line_num, [cell.strip() for cell in cells]
                except csv.Error as error:
                    raise SchemenetError(f"{name}, line {reader.line_num}: cannot be read as csv: {error}") from error
        except OSError as error:
            raise SchemenetError(f"cannot read {name!r}: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise SchemenetError(f"cannot read {name!r}: expected a csv file as UTF-8 text") from error

    def wrong(self, line: int, mistake: str) -> None:
        self.mistakes.append((line, mistake))

    def check_unique(self, line: int, columns: list[str]) -> None:
        """Collect a mistake where two columns have the same name."""
        if twice := [name for name in dict.fromkeys(columns) if columns.count(name) > 1]:
            self.wrong(line, f"column {twice[0]!r} appears twice")

    def number(self, line: int, column: str, cell: str, limit: float = math.inf, hint: str = "") -> float:
        """The number in a cell; where it is none below the limit in magnitude, NaN, and a mistake is collected.

        Args:
            line: of the cell, for the message.
            column: name of its column, for the message.
            cell: its text.
            limit: of the magnitude.
            hint: end of the message.
        """
        value = parsed(cell)
        if value is not None and abs(value) < limit:
            return value
        got = repr(cell) if cell else "an empty cell"
        self.wrong(line, f"column {column!r}: expected a finite number, got {got}{hint}")
        return math.nan

    def raise_mistakes(self) -> None:
        """Raises :class:`SchemenetError` with the first mistakes, each with its line, where there are any."""
        if not self.mistakes:
            return
        name, mistakes = os.fspath(self.path), sorted(self.mistakes)
        lines = [f"{name}, line {line}: {mistake}" for line, mistake in mistakes[:SHOWN]]
        if (more := len(mistakes) - SHOWN) > 0:
            lines.append(f"{name}: and {more} more mistake{'s' if more > 1 else ''}")
        raise SchemenetError("\n".join(lines))


def parsed(cell: str) -> float | None:
    """The number in a cell, None where there is none; Python's ``1_000`` is none."""
    try:
        return None if "_" in cell else float(cell)
    except ValueError:
        return None
