"""A report as one HTML file that asks nobody for anything: style, script and pictures are inside.

Names in a report come from run folders, and run folders come from other people: all text is escaped, and the page's
own policy lets no script and no style run but the two of this package, told by their hashes, and nothing be fetched.
"""

from __future__ import annotations

import base64
import hashlib
import math
import re
from collections.abc import Iterable, Sequence
from functools import cache
from html import escape
from pathlib import Path

from lightning_modules.comparing.report.document import Bullets, Cell, Code, Folded, Heading, Part, Picture, Table, Text

MARKS = re.compile(r"`([^`]+)`|\*\*(.+?)\*\*")
NUMBER = re.compile(r"[-+−]?\d[\d,]*\.?\d*(e[-+]?\d+)?")
ABSENT = ("", "-", "–")  # sorted behind everything, whichever way


def render(title: str, parts: Sequence[Part]) -> str:
    """The whole page. Headings of level 2 are listed beside it; tables are sorted by a click on a head."""
    names = _names(parts)
    body = "\n".join(_part(part, names) for part in parts)
    style, script = _beside("page.css"), _beside("page.js")
    policy = (
        f"default-src 'none'; img-src data:; style-src {_hash(style)}; script-src {_hash(script)}; "
        "base-uri 'none'; form-action 'none'"
    )
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{escape(_unmarked(title))}</title>
<style>{style}</style>
</head>
<body>
<header><h1>{_marked(title)}</h1></header>
{_contents(parts, names)}
<main>
{body}
</main>
<script>{script}</script>
</body>
</html>
"""


@cache
def _beside(name: str) -> str:
    return Path(__file__).with_name(name).read_text(encoding="utf-8")


def _hash(content: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"


# Text -------------------------------------------------------------------------------------------------------


def _marked(text: str) -> str:
    """Escaped, with ``code`` and **strong** as elements; a mark that is not closed is a sign like others."""
    pieces, end = [], 0
    for found in MARKS.finditer(text):
        code, strong = found.groups()
        inside = f"<code>{escape(code)}</code>" if code else f"<strong>{_marked(strong)}</strong>"
        pieces += [escape(text[end : found.start()]), inside]
        end = found.end()
    return "".join([*pieces, escape(text[end:])])


def _unmarked(text: str) -> str:
    return MARKS.sub(lambda found: found[1] or found[2], text)


# Headings ---------------------------------------------------------------------------------------------------


def _names(parts: Iterable[Part]) -> dict[int, str]:
    """The name by which the page is entered at each heading, by the heading's identity; no two are the same."""
    names: dict[int, str] = {}
    for part in parts:
        if isinstance(part, Heading):
            stem = re.sub(r"\W+", "-", part.text.lower()).strip("-") or "part"
            taken = set(names.values())
            following = (f"{stem}-{i}" for i in range(2, len(names) + 3))
            names[id(part)] = stem if stem not in taken else next(name for name in following if name not in taken)
    return names


def _contents(parts: Iterable[Part], names: dict[int, str]) -> str:
    chapters = [part for part in parts if isinstance(part, Heading) and part.level == 2]
    items = "".join(f'<li><a href="#{names[id(c)]}">{_marked(c.text)}</a></li>' for c in chapters)
    return f'<nav aria-label="Contents"><ol>{items}</ol></nav>' if items else ""


# Parts ------------------------------------------------------------------------------------------------------


def _part(part: Part, names: dict[int, str]) -> str:
    match part:
        case Heading(text, level):
            tag = f"h{min(max(level, 2), 6)}"
            return f'<{tag} id="{names[id(part)]}">{_marked(text)}</{tag}>'
        case Text(text):
            return f"<p>{_marked(text)}</p>"
        case Code(text):
            return f'<pre tabindex="0"><code>{escape(text)}</code></pre>'
        case Bullets(items):
            return f"<ul>{''.join(f'<li>{_marked(item)}</li>' for item in items)}</ul>" if items else ""
        case Table(head, rows):
            return _table(head, rows)
        case Picture(path, caption):
            return _picture(path, caption)
        case Folded(summary, parts):
            inside = "\n".join(_part(inner, names) for inner in parts)
            return f"<details><summary>{_marked(summary)}</summary>\n{inside}\n</details>"


def _table(head: Sequence[str], rows: Sequence[Sequence[Cell]]) -> str:
    """Columns of numbers stand to the right. A head without words is none, and such a table keeps its order."""
    if not rows:
        return ""
    keys = [[_key(cell) for cell in row] for row in rows]
    numbers = [_numeric([row[i] for row in keys if i < len(row)]) for i in range(len(head))]
    marks = [' class="number"' if number else "" for number in numbers]
    titles = "".join(f'<th scope="col"{mark}>{_marked(title)}</th>' for title, mark in zip(head, marks, strict=True))
    top = f"<thead><tr>{titles}</tr></thead>" if any(head) else ""
    lines = (_row(row, row_keys, marks) for row, row_keys in zip(rows, keys, strict=True))
    kind = "sortable" if top else "plain"
    return (
        f'<div class="table" tabindex="0" role="group"><table class="{kind}">{top}<tbody>\n'
        + "\n".join(lines)
        + "\n</tbody></table></div>"
    )


def _row(row: Sequence[Cell], keys: Sequence[float | str | None], marks: Sequence[str]) -> str:
    """The first cell names the row."""
    cells = []
    for i, (cell, key, mark) in enumerate(zip(row, keys, marks, strict=True)):
        tag, scope = ("th", ' scope="row"') if i == 0 else ("td", "")
        value = "" if key is None else f' data-value="{escape(str(key))}"'
        name = f' id="{escape(cell.name)}"' if cell.name else ""
        text = f"<strong>{_marked(cell.text)}</strong>" if cell.strong else _marked(cell.text)
        text = f'<a href="#{escape(cell.link)}">{text}</a>' if cell.link else text
        cells.append(f"<{tag}{scope}{name}{mark}{value}>{text}</{tag}>")
    return f"<tr>{''.join(cells)}</tr>"


def _key(cell: Cell) -> float | str | None:
    """What a cell is sorted by: its value, the number that its text is, or the text; None where there is nothing."""
    if cell.value is not None:
        return cell.value if math.isfinite(cell.value) else None
    text = _unmarked(cell.text).strip()
    if text in ABSENT:
        return None
    return float(text.replace(",", "").replace("−", "-")) if NUMBER.fullmatch(text) else text


def _numeric(keys: Sequence[float | str | None]) -> bool:
    return not any(isinstance(key, str) for key in keys)


def _picture(path: Path, caption: str) -> str:
    """On a card, in the proportions that its head tells; the style turns light and dark about on a dark page."""
    content = path.read_bytes()
    width, height = (int.from_bytes(content[at : at + 4]) for at in (16, 20))  # where every PNG has them
    source = base64.b64encode(content).decode()
    alternative = escape(_unmarked(caption))
    return (
        f'<figure><div class="card" tabindex="0" role="group"><img src="data:image/png;base64,{source}" '
        f'width="{width}" height="{height}" alt="{alternative}"></div>'
        f"<figcaption>{_marked(caption)}</figcaption></figure>"
    )
