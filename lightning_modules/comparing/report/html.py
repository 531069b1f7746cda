"""A report as one HTML page, rendered from its Markdown: style, scripts, pictures and csv files are inside.

Text was escaped when the Markdown was written; markup in it that no template wrote is shown as text. The page's own
policy lets no script and no style run but those of this package and its library of plots, named by their hashes, and
nothing be fetched. Interactive plots are data, which the library interprets without evaluating text as a program.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from html import escape
from itertools import count, pairwise
from pathlib import Path
from typing import Any, NamedTuple

from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token
from markdown_it.utils import EnvType, OptionsDict
from markupsafe import Markup

from lightning_modules.comparing.report.templates import templates

FOLD = re.compile(r"\s*(<details><summary>[^<>]*</summary>|</details>)\s*")
NUMBER = re.compile(r"([-+−]?\d[\d,]*\.?\d*(?:e[-+]?\d+)?)(?: ?(k|M|G|T)?(B|ms|s|×)?)(?= [±(\[]|$)")
CSV = re.compile(r"[a-z_]+\.csv")
LONGEST_CSV = 200_000  # bytes
COUNT = re.compile(r"(\d+) (?:diverged|failed|missing)\b")
SCALE = {"k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "ms": 1e-3}
ABSENT = ("", "-", "–")  # sorted behind everything, whichever way


class Page(RendererHTML):
    """The elements of the page that are not the usual ones of Markdown."""

    def html_block(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: EnvType) -> str:
        """Only what folds a part is markup; anything else is text."""
        content = tokens[idx].content
        return content if FOLD.fullmatch(content) else f"<p>{escape(content)}</p>"

    def html_inline(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: EnvType) -> str:
        return escape(tokens[idx].content)

    def fence(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: EnvType) -> str:
        return f'<pre tabindex="0"><code>{escape(tokens[idx].content.removesuffix(chr(10)))}</code></pre>\n'

    def table_open(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: EnvType) -> str:
        return '<div class="table" tabindex="0" role="group">' + self.renderToken(tokens, idx, options, env)

    def table_close(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: EnvType) -> str:
        return "</table></div>\n"

    def link_open(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: EnvType) -> str:
        """A csv file, where it is not long, is inside the page, and can be saved from a page that is sent alone."""
        token = tokens[idx]
        name = str(token.attrs["href"])
        path = env["folder"] / name
        if CSV.fullmatch(name) and path.is_file() and path.stat().st_size <= LONGEST_CSV:
            content = base64.b64encode(path.read_bytes()).decode()
            token.attrs = {"href": f"data:text/csv;base64,{content}", "download": name}
        return self.renderToken(tokens, idx, options, env)

    def image(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: EnvType) -> str:
        """On a card, in its proportions; the style turns light and dark about on a dark page.

        The interactive form of a figure, where it has one, is its data, drawn by the page's script in the picture's
        place.
        """
        name = Path(str(tokens[idx].attrs["src"])).name
        content = (env["folder"] / name).read_bytes()
        width, height = (int.from_bytes(content[at : at + 4]) for at in (16, 20))  # where every PNG has them
        caption = self.renderInline(tokens[idx].children or [], options, env)
        return (
            f'<figure>{_data(env["specs"].get(name))}<div class="card" tabindex="0" role="group">'
            f'<img src="data:image/png;base64,{base64.b64encode(content).decode()}" width="{width}" height="{height}"'
            f' alt="{escape(_plain(tokens[idx]))}"></div><figcaption>{caption}</figcaption></figure>\n'
        )


def _data(spec: Mapping[str, Any] | None) -> str:
    """A specification as data of the page: no sign in it ends its element."""
    if spec is None:
        return ""
    text = json.dumps(spec, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    return f'<script type="application/json">{text}</script>'


def render(text: str, folder: Path, specs: Mapping[str, Mapping[str, Any]] | None = None) -> str:
    """The whole page. Headings of level 2 are listed at its side; tables are sorted by a click on a head.

    Args:
        text: the report in Markdown, which begins with its title.
        folder: where the pictures and csv files lie that it names.
        specs: the interactive forms of pictures, by the pictures' names.
    """
    parser = MarkdownIt("commonmark", renderer_cls=Page).enable("table")
    tokens = parser.parse(text)
    chapters = _name_headings(tokens)
    _let_figures_stand_alone(tokens)
    tokens = _with_tables_marked(tokens)
    style, scripts = _file("page.css"), [_file("page.js")]
    if specs:
        from lightning_modules.comparing.report.figures.interactive import library  # imports matplotlib

        scripts = [library(), _file("plots.js"), *scripts]
    policy = (
        f"default-src 'none'; img-src data:; style-src {_hash(style)}; script-src {' '.join(map(_hash, scripts))}; "
        "base-uri 'none'; form-action 'none'"
    )

    def html(part: Sequence[Token]) -> Markup:
        return Markup(parser.renderer.render(part, parser.options, {"folder": folder, "specs": specs or {}}))

    return templates().get_template("page.html.j2").render(
        policy=Markup(policy), style=Markup(style), scripts=list(map(Markup, scripts)), title=_plain(tokens[1]),
        header=html(tokens[:3]), body=html(tokens[3:]),
        chapters={name: html([part]) for name, part in chapters.items()},
    )  # fmt: skip


@cache
def _file(name: str) -> str:
    return Path(__file__).with_name(name).read_text(encoding="utf-8")


def _hash(content: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"


def _plain(inline: Token) -> str:
    """The text of an inline token without its marks."""
    return "".join(child.content for child in inline.children or ())


class Cell(NamedTuple):
    """The tokens of a cell of a table."""

    opening: Token
    content: Token
    closing: Token


Row = list[Cell]


# Headings and tables ----------------------------------------------------------------------------------------


def _name_headings(tokens: Sequence[Token]) -> dict[str, Token]:
    """Give each heading below the title a name of its own; the texts of level 2 by these names."""
    chapters: dict[str, Token] = {}
    taken: set[str] = set()
    for opening, inline in pairwise(tokens):
        if opening.type != "heading_open" or opening.tag == "h1":
            continue
        stem = re.sub(r"\W+", "-", _plain(inline).lower()).strip("-") or "part"
        name = next(name for i in count(1) if (name := stem if i == 1 else f"{stem}-{i}") not in taken)
        taken.add(name)
        opening.attrSet("id", name)
        if opening.tag == "h2":
            chapters[name] = inline
    return chapters


def _let_figures_stand_alone(tokens: Sequence[Token]) -> None:
    for before, inline, after in zip(tokens, tokens[1:], tokens[2:], strict=False):
        if inline.type == "inline" and [child.type for child in inline.children or ()] == ["image"]:
            before.hidden = after.hidden = True


def _with_tables_marked(tokens: Sequence[Token]) -> list[Token]:
    """Say what cells are sorted by and which columns hold numbers, and link arms to their runs."""
    marked, table, folded = [], [], False
    tables: list[tuple[bool, list[Row]]] = []
    for token in tokens:
        if token.type == "html_block":
            folded = token.content.startswith("<details>")
        if token.type == "table_open" or table:
            table.append(token)
        else:
            marked.append(token)
        if token.type == "table_close":
            rows = list(_rows(table))
            head = [_plain(inline) for _, inline, _ in rows[0]]
            if len(rows) > 1:
                table[0].attrSet("class", "sortable" if any(head) else "plain")
                _mark_numbers(rows)
                tables.append((folded, rows))
                end = next(i for i, t in enumerate(table) if t.type == "thead_close")
                marked += table if any(head) else [table[0], *table[end + 1 :]]
            table = []
    _link_arms(tables)
    return marked


def _rows(table: Sequence[Token]) -> Iterator[Row]:
    """The rows of a table with the tokens of each cell: opening, content and closing."""
    row: Row = []
    for i, token in enumerate(table):
        if token.type in ("th_open", "td_open"):
            row.append(Cell(token, table[i + 1], table[i + 2]))
        elif token.type == "tr_close":
            yield row
            row = []


def _mark_numbers(rows: Sequence[Row]) -> None:
    keys = [[_key(_plain(inline)) for _, inline, _ in row] for row in rows[1:]]
    numeric = [not any(isinstance(key, str) for key in column) for column in zip(*keys, strict=True)]
    for i, row in enumerate(rows):
        for j, (opening, _, closing) in enumerate(row):
            if i == 0:
                opening.attrSet("scope", "col")
            elif j == 0:  # the first cell names the row
                opening.tag = closing.tag = "th"
                opening.attrSet("scope", "row")
            if numeric[j]:
                opening.attrSet("class", "number")
            if i and (key := keys[i - 1][j]) is not None:
                opening.attrSet("data-value", str(key))


def _key(text: str) -> float | str | None:
    """What a cell is sorted by: the number that it begins with, in its unit, or its text; None where it is empty."""
    text = text.strip()
    if text in ABSENT or text.startswith("- ("):
        return None
    if counts := COUNT.findall(text):
        return float(sum(map(int, counts)))
    match = NUMBER.match(text[1:].partition(",")[0] if text.startswith("[") else text)
    if match is None:
        return text
    return float(match[1].replace(",", "").replace("−", "-")) * SCALE.get(match[2] or match[3] or "", 1.0)


def _link_arms(tables: Sequence[tuple[bool, Sequence[Row]]]) -> None:
    places: dict[str, str] = {}
    of_arms = [(folded, rows[1:]) for folded, rows in tables if _plain(rows[0][0][1]) == "arm"]
    for opening, inline, _ in (row[0] for folded, rows in of_arms if folded for row in rows):
        if (name := _plain(inline)) not in places:
            places[name] = f"runs-of-arm-{len(places) + 1}"
            opening.attrSet("id", places[name])
    for _, inline, _ in (row[0] for folded, rows in of_arms if not folded for row in rows):
        if (place := places.get(_plain(inline))) is not None:
            link = Token("link_open", "a", 1, attrs={"href": f"#{place}"})
            inline.children = [link, *(inline.children or ()), Token("link_close", "a", -1)]
