"""What a report is made of, whatever it is written in: Markdown, or a page of HTML."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Heading:
    text: str
    level: int = 2


@dataclass(frozen=True)
class Text:
    """A paragraph; ``code`` and **strong** are marked as in Markdown."""

    text: str


@dataclass(frozen=True)
class Code:
    """Lines that are shown as they are."""

    text: str


@dataclass(frozen=True)
class Bullets:
    items: Sequence[str]


@dataclass(frozen=True)
class Cell:
    """A cell of a table; ``value`` is what a sortable table sorts by, where the text is no number.

    ``link`` is the name of the place on the page that the cell leads to, ``name`` that of the cell itself.
    """

    text: str
    value: float | None = None
    strong: bool = False
    link: str = ""
    name: str = ""


@dataclass(frozen=True)
class Table:
    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]


@dataclass(frozen=True)
class Picture:
    """A PNG file in the folder of the report."""

    path: Path
    caption: str


@dataclass(frozen=True)
class Folded:
    """Parts that are shown when their summary is opened; no headings."""

    summary: str
    parts: Sequence[Text | Code | Bullets | Table]


Part = Heading | Text | Code | Bullets | Table | Picture | Folded
