"""Plain text for terminals."""

from __future__ import annotations


def aligned(rows: list[list[str]]) -> str:
    """Rows of text as columns, a rule under the first."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]])


def short(number: float) -> str:
    """Two digits of a large number, as papers name their networks: 272474 -> "0.27M", 46010 -> "46k"."""
    power, letter = (1e6, "M") if number >= 1e5 else (1e3, "k") if number >= 1e3 else (1.0, "")
    return f"{float(f'{number / power:.2g}'):g}{letter}"


def printable(text: str, most: int = 500) -> str:
    """What a file from elsewhere says, without characters that could move a terminal's cursor, and not without end."""
    shown = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
    return shown if len(shown) <= most else shown[: most - 1] + "…"
