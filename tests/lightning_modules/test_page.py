"""The report as one HTML file: nothing of it comes from elsewhere, and nothing that it tells becomes markup."""

from __future__ import annotations

import base64
import hashlib
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from lightning_modules.comparing.report import html as page
from lightning_modules.comparing.report.document import Bullets, Cell, Code, Folded, Heading, Picture, Table, Text

HOSTILE = """<script>alert(1)</script>"onload='x' & <b>"""
VOID = {"meta", "img"}


class Reader(HTMLParser):
    """Elements with their attributes and own text, in order; refuses tags that are not closed in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, Any], list[str]]] = []
        self._open: list[tuple[str, dict[str, Any], list[str]]] = []
        self.feed(html)
        assert not self._open

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        element = (tag, dict(attributes), [])
        self.elements.append(element)
        if tag not in VOID:
            self._open.append(element)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop()[0] == tag

    def handle_data(self, data: str) -> None:
        for _, _, text in self._open:
            text.append(data)

    def of(self, tag: str) -> list[tuple[dict[str, Any], str]]:
        return [(attributes, "".join(text)) for name, attributes, text in self.elements if name == tag]


def read(*parts: Any, title: str = "A title") -> Reader:
    return Reader(page.render(title, parts))


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    from matplotlib.figure import Figure

    Figure(figsize=(3, 2)).savefig(tmp_path / "p.png", dpi=100)
    return tmp_path / "p.png"


def test_what_others_have_named_appears_as_text(picture: Path) -> None:
    row = [Cell(HOSTILE), Cell(HOSTILE, value=1.0, strong=True)]
    parts = (
        Heading(HOSTILE), Text(f"{HOSTILE} `{HOSTILE}` **{HOSTILE}**"), Code(HOSTILE), Bullets([HOSTILE]),
        Table([HOSTILE, HOSTILE], [row, row]), Picture(picture, HOSTILE),
    )  # fmt: skip
    found = read(*parts, title=HOSTILE)
    assert len(found.of("script")) == 1, "the page's own"
    assert not found.of("b")
    assert not any(name.startswith("on") for _, attributes, _ in found.elements for name in attributes)
    for tag, times in (("title", 1), ("h1", 1), ("h2", 1), ("p", 3), ("pre", 1), ("li", 1), ("th", 1), ("td", 1)):
        assert found.of(tag)[-1][1].count(HOSTILE) == times, tag
    assert found.of("figcaption")[0][1] == found.of("img")[0][0]["alt"] == HOSTILE


def test_nothing_is_fetched_and_only_the_pages_own_style_and_script_run(picture: Path) -> None:
    found = read(Heading("One"), Picture(picture, "caption"))
    policy = next(a["content"] for a, _ in found.of("meta") if a.get("http-equiv") == "Content-Security-Policy")
    allowed = dict(rule.split(" ", 1) for rule in policy.split("; "))
    assert allowed["default-src"] == "'none'"
    assert allowed["img-src"] == "data:"
    for tag in ("style", "script"):
        ((attributes, content),) = found.of(tag)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert (attributes, allowed[f"{tag}-src"]) == ({}, f"'sha256-{digest}'")
    addresses = [a[key] for _, a, _ in found.elements for key in ("src", "href", "srcset", "action") if key in a]
    assert all(address.startswith(("data:image/png;base64,", "#")) for address in addresses)
    assert not any("style" in attributes for _, attributes, _ in found.elements), "the policy would forbid it"
    assert not re.search(r"url\(|@import", found.of("style")[0][1])
    image = found.of("img")[0][0]
    assert base64.b64decode(image["src"].split(",")[1]) == picture.read_bytes()
    assert (image["width"], image["height"]) == ("300", "200")


def test_cells_say_what_they_are_sorted_by() -> None:
    rows = [
        [Cell("a"), Cell("219.9 k", 219873.0), Cell("3"), Cell("-")],
        [Cell("b", strong=True), Cell("**1.2 M**", 1.2e6), Cell("-1,200"), Cell("−0.5")],
        [Cell("c"), Cell("-"), Cell("1e-3"), Cell("", float("nan"))],
    ]
    found = read(Table(["arm", "parameters", "n", "x"], rows))
    values = [a.get("data-value") for a, _ in found.of("td")]
    assert values == ["219873.0", "3.0", None, "1200000.0", "-1200.0", "-0.5", None, "0.001", None]
    assert [a.get("class") for a, _ in found.of("th")[:4]] == [None, "number", "number", "number"]
    assert [a.get("scope") for a, _ in found.of("th")] == ["col"] * 4 + ["row"] * 3
    assert [text for _, text in found.of("strong")] == ["b", "1.2 M"]
    assert found.of("table")[0][0]["class"] == "sortable"


def test_a_table_without_a_head_keeps_its_order_and_an_empty_one_is_not_there() -> None:
    found = read(Table(["", ""], [[Cell("data"), Cell("mnist")], [Cell("seeds"), Cell("0, 1")]]), Table(["arm"], []))
    assert [a["class"] for a, _ in found.of("table")] == ["plain"]
    assert not found.of("thead")
    assert read(Table(["arm", "verdict"], [[Cell("a"), Cell("b")]])).of("table")[0][0]["class"] == "sortable"


def test_headings_are_entered_by_names_of_their_own() -> None:
    found = read(Heading("Costs"), Heading("in `MACs`", 3), Heading("Costs"), Heading("†", 2))
    names = [a["id"] for tag in ("h2", "h3") for a, _ in found.of(tag)]
    assert names == ["costs", "costs-2", "part", "in-macs"]
    assert [a["href"] for a, _ in found.of("a")] == ["#costs", "#costs-2", "#part"]
    assert not read(Text("none")).of("nav")


def test_folded_parts_are_text_too_and_cells_lead_to_places() -> None:
    row = [Cell(HOSTILE, name=HOSTILE), Cell("to", link=HOSTILE)]
    found = read(Folded(HOSTILE, [Text(HOSTILE), Table(["a", "b"], [row])]))
    assert found.of("summary")[0][1] == found.of("p")[0][1] == HOSTILE
    assert found.of("th")[-1][0]["id"] == HOSTILE
    assert found.of("a")[0] == ({"href": f"#{HOSTILE}"}, "to")
    assert not found.of("b")
    assert len(found.of("details")) == 1


def test_marks_are_understood_where_they_are_closed() -> None:
    found = read(Text("`a*b` and **bold `c`**, 2 ** 3, ` alone"), Bullets(["`x`"]), Code("`as` **is**"))
    assert found.of("p")[0][1] == "a*b and bold c, 2 ** 3, ` alone"
    assert [text for _, text in found.of("code")] == ["a*b", "c", "x", "`as` **is**"]
    assert [text for _, text in found.of("strong")] == ["bold c"]
