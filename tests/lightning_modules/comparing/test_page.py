"""The report as one HTML file: nothing of it comes from elsewhere, and nothing that it tells becomes markup."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html import escape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from lightning_modules.comparing.report import html as page
from lightning_modules.comparing.report import markdown
from lightning_modules.comparing.report.markdown import code, inline, listed, paragraph, table

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


def read(*blocks: str, title: str = "A title", folder: Path = Path()) -> Reader:
    return Reader(page.render("\n\n".join([f"# {markdown.inline(title)}", *blocks]), folder))


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    from matplotlib.figure import Figure

    Figure(figsize=(3, 2)).savefig(tmp_path / "p.png", dpi=100)
    return tmp_path / "p.png"


def test_what_others_have_named_appears_as_text(picture: Path) -> None:
    found = read(
        f"## {inline(HOSTILE)}", paragraph(f"{HOSTILE} `{HOSTILE}` **{HOSTILE}**"), code(HOSTILE), listed([HOSTILE]),
        table([HOSTILE, HOSTILE], [[HOSTILE, f"**{HOSTILE}**"]] * 2), f"![{inline(HOSTILE)}]({picture.name})",
        title=HOSTILE, folder=picture.parent,
    )  # fmt: skip
    assert len(found.of("script")) == 1, "the page's own"
    assert not found.of("b")
    assert not any(name.startswith("on") for _, attributes, _ in found.elements for name in attributes)
    for tag, times in (("title", 1), ("h1", 1), ("h2", 1), ("p", 3), ("pre", 1), ("li", 1), ("th", 1), ("td", 1)):
        assert found.of(tag)[-1][1].count(HOSTILE) == times, tag
    assert found.of("figcaption")[0][1] == found.of("img")[0][0]["alt"] == HOSTILE


ODD = [
    "<img src=x onerror=alert(1)>", "[a](javascript:alert(1))", "![a](http://example.com/a.png)", "a | b", "a_b_c",
    "<http://example.com>", "[a]: http://example.com", "# a", "- a", "1. a", "> a", "~~~", "---", "===", "``` a", "_a_",
    "*a*", "&lt;b&gt; &#60;b>", "`<b>", "``<b>`", "`<b>`", "\\`<b>`", "a\\", "</details><b>", "<!-- a", "\t<b>",
    "a\n\n<b>", "    a",
]  # fmt: skip


@pytest.mark.parametrize("name", ODD)
def test_no_name_is_markup(name: str) -> None:
    row = [["arm", name], [f"**{name}**", name]]
    found = read(paragraph(name), listed([name]), table(row[0], row[1:]), f"## {inline(name)}", title=name)
    for tag in ("title", "h1", "p", "li", "td", "h2"):
        assert " ".join(found.of(tag)[-1][1].replace("`", "").split()) == " ".join(name.replace("`", "").split()), tag
    tags = {tag for tag, _, _ in found.elements}
    assert not tags & {"b", "em", "blockquote", "hr", "pre", "img", "details"}
    assert all(attributes["href"].startswith("#") for attributes, _ in found.of("a"))


def test_nothing_is_fetched_and_only_the_pages_own_style_and_script_run(picture: Path) -> None:
    found = read("## One", f"![caption]({picture.name})", folder=picture.parent)
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


def test_interactive_plots_are_data_and_the_policy_stays_strict(picture: Path) -> None:
    hostile = f"</script>{HOSTILE}<!--"
    spec = {"data": {"values": [{"arm": hostile}]}, "concat": []}
    text = f"# t\n\n![caption]({picture.name})\n\n![caption]({picture.name})"
    rendered = Reader(page.render(text, picture.parent, {picture.name: spec}))
    data = [content for attributes, content in rendered.of("script") if attributes.get("type") == "application/json"]
    assert [json.loads(content) for content in data] == [spec, spec]
    policy = next(a["content"] for a, _ in rendered.of("meta") if a.get("http-equiv") == "Content-Security-Policy")
    assert "unsafe" not in policy
    allowed = dict(rule.split(" ", 1) for rule in policy.split("; "))
    programs = [content for attributes, content in rendered.of("script") if "type" not in attributes]
    digests = [base64.b64encode(hashlib.sha256(content.encode()).digest()).decode() for content in programs]
    assert allowed["script-src"].split() == [f"'sha256-{digest}'" for digest in digests]
    assert len(programs) == 3, "the library of plots and the page's own"
    assert "ast: true" in programs[1], "expressions are interpreted, not evaluated"
    assert not rendered.of("b")
    assert rendered.of("img")[0][0]["src"].startswith("data:"), "for those who run no script, and for paper"


def test_csv_files_are_inside_the_page_where_they_are_short(picture: Path) -> None:
    folder = picture.parent
    (folder / "summary.csv").write_text("arm\na\n")
    (folder / "results.csv").write_text("x" * (page.LONGEST_CSV + 1))
    names = ("summary.csv", "results.csv", "none.csv", "../summary.csv", "p.png")
    short, *others = read(*map(markdown.Link.to, names), folder=folder).of("a")
    assert short[0]["download"] == short[1] == "summary.csv"
    assert base64.b64decode(short[0]["href"].removeprefix("data:text/csv;base64,")) == b"arm\na\n"
    assert [attributes for attributes, _ in others] == [{"href": name} for name in names[1:]]


def test_cells_say_what_they_are_sorted_by() -> None:
    rows = [
        ["a", "219.9 k", "3", "-", "2.35 ± 0.24 (8)", "1 diverged, 2 failed", "120 ms [116 ms, 126 ms]"],
        ["**b**", "**1.2 M**", "-1,200", "−0.5", "10.00 ± 1 (7/8)", "-", "1.20 s"],
        ["c", "-", "1e-3", "", "- (0/8)", "-", "0.95×"],
    ]
    found = read(table(["arm", "parameters", "n", "x", "error", "not done", "time"], rows))
    values = [a.get("data-value") for a, _ in found.of("td")]
    assert values[:6] == ["219900.0", "3.0", None, "2.35", "3.0", "0.12"]
    assert values[6:12] == ["1200000.0", "-1200.0", "-0.5", "10.0", None, "1.2"]
    assert values[12:] == [None, "0.001", None, None, None, "0.95"]
    assert [a.get("class") for a, _ in found.of("th")[:7]] == [None, *["number"] * 6]
    assert [a.get("scope") for a, _ in found.of("th")] == ["col"] * 7 + ["row"] * 3
    assert [text for _, text in found.of("strong")] == ["b", "1.2 M"]
    assert found.of("table")[0][0]["class"] == "sortable"
    sizes = read(table(["arm", "steps", "p"], [["a", "3-2-2", "0.0078"], ["rk2", "6", "1"]]))
    assert [a.get("data-value") for a, _ in sizes.of("td")] == ["3-2-2", "0.0078", "6.0", "1.0"]
    assert [a.get("class") for a, _ in sizes.of("td")] == [None, "number"] * 2


def test_a_table_without_a_head_keeps_its_order_and_an_empty_one_is_not_there() -> None:
    found = read(table(["", ""], [["data", "mnist"], ["seeds", "0, 1"]]), table(["arm"], []))
    assert [a["class"] for a, _ in found.of("table")] == ["plain"]
    assert not found.of("thead")
    assert read(table(["arm", "verdict"], [["a", "b"]])).of("table")[0][0]["class"] == "sortable"


def test_headings_are_entered_by_names_of_their_own() -> None:
    found = read("## Costs", "### in `MACs`", "## Costs", "## †")
    names = [a["id"] for tag in ("h2", "h3") for a, _ in found.of(tag)]
    assert names == ["costs", "costs-2", "part", "in-macs"]
    assert [a["href"] for a, _ in found.of("a")] == ["#costs", "#costs-2", "#part"]
    assert not read("none").of("nav")


def test_folded_parts_are_text_too_and_arms_lead_to_their_runs() -> None:
    fold = f"<details><summary>{escape(HOSTILE)}</summary>"
    runs = table(["arm", "seed"], [[HOSTILE, "0"], [HOSTILE, "1"], ["b", "0"]])
    arms = table(["arm", "n"], [["b", "1"], [f"**{HOSTILE}**", "2"]])
    found = read(arms, table(["key"], [["b"]]), fold, paragraph(HOSTILE), runs, "</details>")
    assert found.of("summary")[0][1] == found.of("p")[0][1] == HOSTILE
    assert [(a["id"], text) for a, text in found.of("th") if "id" in a] == [
        ("runs-of-arm-1", HOSTILE),
        ("runs-of-arm-2", "b"),
    ]
    assert found.of("a") == [({"href": "#runs-of-arm-2"}, "b"), ({"href": "#runs-of-arm-1"}, HOSTILE)]
    assert not found.of("b")
    assert len(found.of("details")) == 1


def test_marks_are_understood_where_they_are_closed() -> None:
    found = read(paragraph("`a*b` and **bold `c`**, 2 ** 3, ` alone"), listed(["`x`"]), code("`as` **is**"))
    assert found.of("p")[0][1] == "a*b and bold c, 2 ** 3, ` alone"
    assert [text for _, text in found.of("code")] == ["a*b", "c", "x", "`as` **is**"]
    assert [text for _, text in found.of("strong")] == ["bold c"]
