"""A comparison as text for a terminal."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence

from lightning_modules.comparing.records import Comparison
from lightning_modules.comparing.report.facts import Facts
from lightning_modules.comparing.report.formatting import (
    ABSENT,
    cost,
    difference,
    error,
    evaluations,
    probability,
    ratio,
    verdict,
)
from lightning_modules.comparing.report.templates import sentence, sentences
from lightning_modules.comparing.statistics.rule import NO_PAIR
from lightning_modules.comparing.statistics.summary import Summary
from lightning_modules.text import columns_of, fitted_widths, wrapped

WIDTH = 120
"""Columns where there is no terminal that has a width."""

ARM, SCHEME, P_HOLM = 0, 1, 5
RESULTS, COSTS = (2, 3, 4, P_HOLM), (SCHEME, 6, 7, 8, 9, 10)
"""Columns after the arm's name; where not all fit, several tables, in this order."""

SECTIONS = {
    "What can be concluded": ("standing", "verdicts", "limits"),
    "What the controls say": ("controls",),
    "Notes": ("notes", "unequal_costs"),
    "Runs that are not done": ("unfinished",),
}
"""Titles below the table, and the sentences under each."""

NARROW = 16
"""Signs below which a name is not folded."""


def screen_table(comparison: Comparison, width: int | None = None) -> str:
    """The comparison for a terminal: arms, then controls, then what can and cannot be concluded.

    Args:
        comparison: as read from its folders.
        width: columns of the terminal; None for ``WIDTH``.
    """
    width = width or WIDTH
    facts = Facts.of(comparison)
    measure, rule = facts.measure, facts.rule
    head = [
        "arm",
        "scheme",
        f"test {measure.head}",
        f"difference [{rule.level:.0%}]",
        "verdict",
        f"p {rule.correction}",
    ]
    head += ["params", "MACs", "NFE", "kept MB", "step"]
    arms, controls = [[_screen_row(s) for s in part] for part in (facts.arms, facts.controls)]
    lines = _wrapped(sentence("headline", facts), width)
    for columns in _tables([head, *arms, *controls], width):
        lines += ["", *_table(columns, head, arms, controls, width)]
    lines += ["", *_wrapped(sentence("screen_caption", facts), width)]
    for title, macros in SECTIONS.items():
        if texts := [text for macro in macros for text in sentences(macro, facts)]:
            lines += ["", title]
            lines += [line for text in texts for line in _wrapped(text, width, "  - ")]
    return "\n".join(lines)


def _screen_row(s: Summary) -> list[str]:
    kept = s.costs.get("bytes_kept")
    megabytes = ABSENT if kept is None else f"{kept.mean / 1e6:.1f}" if kept.mean >= 1e5 else f"{kept.mean / 1e6:.2g}"
    return [
        s.arm.name,
        s.arm.scheme or ABSENT,
        error(s),
        difference(s),
        verdict(s).replace(NO_PAIR, "no pair"),
        ABSENT if s.arm.control else probability(s.adjusted_p),
        cost(s, "parameters"),
        cost(s, "macs"),
        evaluations(s, "nfe_forward"),
        megabytes,
        ratio(s.step_ratio),
    ]


def _tables(rows: Sequence[Sequence[str]], width: int) -> list[list[int]]:
    """The columns of each table, which all begin with the arm: one, if all columns fit into it."""
    everything = list(range(len(rows[0])))
    if _least(rows, everything) <= width:
        return [everything]
    tables: list[list[int]] = []
    for together in (RESULTS, COSTS):
        tables.append([ARM])
        for column in together:
            if len(tables[-1]) > 1 and _least(rows, [*tables[-1], column]) > width:
                tables.append([ARM])
            tables[-1].append(column)
    return tables


def _least(rows: Sequence[Sequence[str]], columns: Sequence[int]) -> int:
    """How narrow a table of these columns can be, a sign between two of them."""
    return sum(_narrowest(rows, column) for column in columns) + len(columns) - 1


def _narrowest(rows: Sequence[Sequence[str]], column: int) -> int:
    """A name may be folded, a number may not."""
    widest = max(columns_of(row[column]) for row in rows)
    if column not in (ARM, SCHEME):
        return widest
    return min(widest, max(NARROW, *(columns_of(part) for row in rows for part in _parts(row[column]))))


def _table(
    columns: Sequence[int],
    head: Sequence[str],
    arms: Sequence[Sequence[str]],
    controls: Sequence[Sequence[str]],
    width: int,
) -> list[str]:
    rows = [head, *arms, *controls]
    widths = [max(columns_of(row[column]) for row in rows) for column in columns]
    widths = fitted_widths(widths, [_narrowest(rows, column) for column in columns], width)
    gap = "  " if sum(widths) + 2 * (len(widths) - 1) <= width else " "
    rule = "-" * (sum(widths) + len(gap) * (len(widths) - 1))

    def lines(rows: Sequence[Sequence[str]]) -> list[str]:
        return [line for row in rows for line in _aligned([row[column] for column in columns], columns, widths, gap)]

    titles = ("-- controls: not matched to the budget ", "-- controls ")
    title = next((title for title in titles if len(title) < len(rule)), titles[-1])
    return [
        *lines([head]), rule, *lines(arms),
        *([title.ljust(len(rule), "-"), *lines(controls)] if controls else []),
    ]  # fmt: skip


def _aligned(cells: Sequence[str], columns: Sequence[int], widths: Sequence[int], gap: str) -> list[str]:
    """Text to the left, measures to the right; the lines of a row, more than one where a name is folded."""
    folded = [_folded(cell, width) for cell, width in zip(cells, widths, strict=True)]
    return [
        gap.join(
            part + space if column < P_HOLM else space + part
            for part, column, width in zip(parts, columns, widths, strict=True)
            for space in [" " * (width - columns_of(part))]
        ).rstrip()
        for parts in itertools.zip_longest(*folded, fillvalue="")
    ]


def _folded(cell: str, width: int) -> list[str]:
    """The cell as lines of that width at most, broken after the signs that join the parts of a name."""
    if columns_of(cell) <= width:
        return [cell]
    lines = [""]
    for part in _parts(cell):
        if lines[-1] and columns_of(lines[-1] + part) > width:
            lines.append("")
        lines[-1] += part
    return lines


def _parts(name: str) -> list[str]:
    return re.findall(r"[^-_,= ]*[-_,= ]*", name)


def _wrapped(text: str, width: int, bullet: str = "") -> list[str]:
    return wrapped(text, width, bullet, " " * len(bullet), break_long_words=False, break_on_hyphens=False)
