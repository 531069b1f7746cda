"""The report as Markdown and its single sentences, from the templates in this folder."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

import jinja2

from lightning_modules.comparing.recipe import settings
from lightning_modules.comparing.report import markdown, tables
from lightning_modules.comparing.report.facts import Facts
from lightning_modules.comparing.report.formatting import LABELS, amount, seed_list
from lightning_modules.text import plural

if TYPE_CHECKING:
    from lightning_modules.comparing.report.figures.draw_all import Picture


@cache
def templates() -> jinja2.Environment:
    """The templates in this folder. A value that is written by one stays on its line."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        autoescape=jinja2.select_autoescape(("html.j2",), default=False),
    )
    environment.filters |= {
        "plural": plural,
        "amount": amount,
        "seeds": seed_list,
        "md": markdown.inline,
        "html": _html,
    }
    environment.globals |= {"labels": LABELS}
    return environment


@cache
def _sentences() -> jinja2.Template:
    return templates().overlay(finalize=_on_one_line).get_template("sentences.j2")


def _html(text: str) -> str:
    return escape(" ".join(text.split()))


def _on_one_line(value: object) -> object:
    return re.sub(r"\s+", " ", value) if isinstance(value, str) else value


def sentences(name: str, facts: Facts) -> list[str]:
    """The sentences of a macro of sentences.j2, unescaped."""
    text = getattr(_sentences().module, name)(facts)
    return [" ".join(sentence.split()) for sentence in re.split(r"\n\s*\n", text) if sentence.strip()]


def sentence(name: str, facts: Facts) -> str:
    """The only sentence of a macro; "" where it has none."""
    return " ".join(sentences(name, facts))


def render(facts: Facts, pictures: Mapping[str, Picture] | None = None) -> str:
    """The whole report as Markdown.

    Args:
        facts: the comparison and how it was judged.
        pictures: by the names of their PNG files in the report's folder.
    """
    return (
        templates()
        .get_template("report.md.j2")
        .render(
            f=facts,
            settings=settings(facts.comparison.recipe),
            pictures=pictures or {},
            tables=tables,
            code=markdown.code,
            link=markdown.Link.to,
            plain=lambda name: sentence(name, facts),
            say=lambda name: markdown.paragraph(sentence(name, facts)),
            bullets=lambda name: markdown.listed(sentences(name, facts)),
            listed=markdown.listed,
        )
        .strip()
        + "\n"
    )
