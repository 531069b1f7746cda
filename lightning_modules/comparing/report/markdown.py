"""Text as Markdown, with tables as GitHub reads them.

Names come from run folders, and run folders come from other people: whatever is written into the Markdown is escaped,
so that it is text there and on the page that is rendered from it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from urllib.parse import quote

CODE = re.compile(r"(?<!`)(`[^`]+`)(?!`)")
SPECIAL = re.compile(
    r"""
    \\(?=[!-/:-@\[-`{-~]|$)                         # a backslash that would escape
    | ` | <
    | (?<!\*)\*(?!\*) | \*{3,}                      # one star, which marks a verdict
    | (?<![A-Za-z0-9])_ | _(?![A-Za-z0-9])          # an underscore that is not inside a name
    | (?<=\])[(:]                                   # what makes a link of brackets
    | &(?=\#?\w+;)
    """,
    re.VERBOSE,
)


def inline(text: str) -> str:
    """Text within a line; `code` and **strong** keep their marks, a mark that is not closed is a character."""
    if isinstance(text, Link):
        return text
    pieces = CODE.split(re.sub(r"\s+", " ", text))
    return "".join(piece if i % 2 else SPECIAL.sub(_escaped, piece) for i, piece in enumerate(pieces))


def paragraph(text: str) -> str:
    """Text that begins a line, where further characters have a meaning."""
    text = inline(text.strip())
    if (number := re.match(r"\d+(?=[.)](\s|$))", text)) is not None:
        return f"{number[0]}\\{text[number.end() :]}"
    return f"\\{text}" if re.match(r"#{1,6}(\s|$)|[-+](\s|$)|>|~~~|---|===", text) else text


def _escaped(match: re.Match[str]) -> str:
    return {"<": "&lt;", "&": "&amp;"}.get(match[0]) or "".join(f"\\{character}" for character in match[0])


def listed(items: Sequence[str]) -> str:
    return "\n".join(f"- {paragraph(item)}" for item in items)


def code(text: str) -> str:
    """Lines that are shown as they are."""
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence}\n{text}\n{fence}"


class Link(str):
    """A link in Markdown, which :func:`inline` leaves as it is."""

    __slots__ = ()

    @classmethod
    def to(cls, path: str, text: str | None = None) -> Link:
        """A link to a file or folder beside the report.

        Args:
            path: relative; no sign of it but letters, digits, "_.-~/" is left as it is.
            text: None for the path.
        """
        shown = re.sub(r"[\[\]]", r"\\\g<0>", inline(path if text is None else text))
        return cls(f"[{shown}]({quote(path)})")


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table; a cell that begins and ends with ** is strong."""
    lines = [list(head), ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(inline(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)
