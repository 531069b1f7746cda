"""A report as Markdown, with tables as GitHub reads them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape

from lightning_modules.comparing.report.document import Bullets, Cell, Code, Folded, Heading, Part, Picture, Table, Text


def render(title: str, parts: Sequence[Part]) -> str:
    """The whole report; pictures are named as files beside it."""
    return "\n\n".join([f"# {_text(title)}", *map(_part, parts)]) + "\n"


def _part(part: Part) -> str:
    match part:
        case Heading(text, level):
            return f"{'#' * level} {_text(text)}"
        case Text(text):
            return _text(text)
        case Code(text):
            fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
            return f"{fence}\n{text}\n{fence}"
        case Bullets(items):
            return "\n".join(f"- {_text(item)}" for item in items)
        case Table(head, rows):
            lines = [list(map(_text, head)), ["---"] * len(head), *(list(map(_cell, row)) for row in rows)]
            return "\n".join("| " + " | ".join(_line(cell) for cell in line) + " |" for line in lines)
        case Picture(path, caption):
            return f"![{_text(caption)}]({path.name})"
        case Folded(summary, parts):
            inside = "\n\n".join(map(_part, parts))
            return f"<details><summary>{escape(summary)}</summary>\n\n{inside}\n\n</details>"


def _cell(cell: Cell) -> str:
    return f"**{_text(cell.text)}**" if cell.strong else _text(cell.text)


def _line(text: str) -> str:
    return re.sub(r"\s+", " ", text).replace("|", "\\|")


def _text(text: str) -> str:
    """A star alone marks a verdict and opens no emphasis; names from elsewhere bring neither HTML nor links."""
    text = re.sub(r"(?<!\*)\*(?!\*)", r"\\*", text)
    return text.replace("<", "&lt;").replace("](", "]\\(")
