"""Plain text for terminals."""

from __future__ import annotations

import itertools
import os
import re
import shutil
import sys
import textwrap
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

NARROWEST = 40
"""Columns below which no table is readable."""


def terminal_width() -> int | None:
    """Columns of the terminal, or of $COLUMNS; None where the output goes elsewhere and lines may be long."""
    if not sys.stdout.isatty() and "COLUMNS" not in os.environ:
        return None
    return max(NARROWEST, shutil.get_terminal_size().columns)


def columns_of(text: str) -> int:
    """The columns of a terminal that a text takes: two for each East Asian letter."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)


def wrapped(text: str, width: int, indent: str = "", further: str = "", **options: Any) -> list[str]:
    """Lines of at most ``width`` columns, as of ``textwrap.wrap``, which counts letters.

    Args:
        text: to wrap.
        width: columns of a terminal.
        indent: before the first line.
        further: before the others.
        **options: of ``textwrap.wrap``.
    """
    counted = "".join(letter + "\0" * (columns_of(letter) - 1) for letter in text) if not text.isascii() else text
    lines = textwrap.wrap(counted, width, initial_indent=indent, subsequent_indent=further, **options)
    return [line.replace("\0", "") for line in lines]


def fitted(text: str, width: int | None) -> str:
    """A text whose lines are wrapped to a width; None for any.

    The rest of a line stands below its description, where two spaces or more set one off, else below its beginning.
    """
    lines: list[str] = []
    for line in text.splitlines():
        if width is None or columns_of(line) <= width:
            lines.append(line)
            continue
        starts = [match.end() for match in re.finditer(r"^\s*|\s{2,}", line) if match.end() <= width / 2]
        further = " " * max(starts, default=0)
        lines += wrapped(line, width, further=further, break_long_words=False, break_on_hyphens=False)
    return "\n".join(lines)


def aligned(rows: Sequence[Sequence[str]], width: int | None = None) -> str:
    """Rows of text as columns, a rule under the first, within a width where one is given.

    Where the rows are too long, words go to a next line inside their column; where even so they do not fit, the last
    columns go to a line of their own under each row.
    """
    below: list[list[str]] = [[] for _ in rows]
    widths = [max(columns_of(row[i]) for row in rows) for i in range(len(rows[0]))]
    if width is not None:
        kept = len(rows[0])
        while kept > 1 and _least(rows, kept) > width:
            kept -= 1
        rest = [[cell for cell in row[kept:] if cell not in ("", "-")] for row in rows]
        below = [wrapped("; ".join(cells), width, "    ", "    ") for cells in rest]
        rows = [row[:kept] for row in rows]
        widths = fitted_widths(
            [max(columns_of(row[i]) for row in rows) for i in range(kept)], _longest_words(rows, kept), width
        )
    gap = "  " if width is None or sum(widths) + 2 * len(widths) - 2 <= width else " "
    texts = []
    for row, more in zip(rows, below, strict=True):
        cells = [wrapped(cell, column, break_on_hyphens=False) for cell, column in zip(row, widths, strict=True)]
        lines = itertools.zip_longest(*cells, fillvalue="")
        placed = (gap.join(map(_padded, line, widths)) for line in lines)
        texts.append([line.rstrip() for line in placed] + more)
    rule = "-" * max(columns_of(line) for lines in texts for line in lines)
    return "\n".join([*texts[0], rule, *(line for lines in texts[1:] for line in lines)])


def _padded(text: str, width: int) -> str:
    return text + " " * (width - columns_of(text))


def _longest_words(rows: Sequence[Sequence[str]], columns: int) -> list[int]:
    return [max(columns_of(word) for row in rows for word in row[i].split() or [""]) for i in range(columns)]


def _least(rows: Sequence[Sequence[str]], columns: int) -> int:
    """How narrow the first columns can be, a sign between two of them."""
    return sum(_longest_words(rows, columns)) + columns - 1


def fitted_widths(widths: list[int], least: list[int], width: int) -> list[int]:
    """Widths of columns that fit: the widest is reduced first, none below its longest word.

    Args:
        widths: characters of each column.
        least: the longest word of each column.
        width: characters of a line, with one between two columns.
    """
    widths = list(widths)
    while sum(widths) + len(widths) - 1 > width:
        spare = [(have, i) for i, (have, need) in enumerate(zip(widths, least, strict=True)) if have > need]
        if not spare:
            break
        widths[max(spare)[1]] -= 1
    return widths


class Progress:
    """Reports the progress of a long computation on the error stream: first what it does, then a line at intervals.

    Args:
        what: the computation, in words.
        every: seconds between two lines.
    """

    def __init__(self, what: str, every: float = 10.0) -> None:
        self.every, self._last = every, time.monotonic()
        print(what, file=sys.stderr, flush=True)

    def __call__(self, done: int, total: int, of: str) -> None:
        if (now := time.monotonic()) - self._last >= self.every:
            self._last = now
            print(f"  {done} of {total} {of}", file=sys.stderr, flush=True)


@contextmanager
def waiting(what: str) -> Iterator[None]:
    """Show on the error stream, where that is a terminal, what a wait is for; when it is over, the line is erased.

    Args:
        what: the computation, in words.
    """
    from rich.console import Console

    with Console(stderr=True, highlight=False, force_jupyter=False).status(what):
        yield


def plural(n: int, word: str) -> str:
    """ "1 seed", "3 seeds"."""
    return f"{n} {word}{'' if n == 1 else 's'}"


def short(number: float) -> str:
    """Two digits of a large number, as papers name their networks: 272474 -> "0.27M", 46010 -> "46k"."""
    power, letter = (1e6, "M") if number >= 1e5 else (1e3, "k") if number >= 1e3 else (1.0, "")
    return f"{float(f'{number / power:.2g}'):g}{letter}"


def printable(text: str, most: int = 500) -> str:
    """A text of unknown origin, at most ``most`` characters, without those that move a terminal's cursor."""
    shown = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
    return shown if len(shown) <= most else shown[: most - 1] + "…"
