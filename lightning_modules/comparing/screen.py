"""A comparison as text for a terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from lightning_modules.comparing.controls import what_controls_show
from lightning_modules.comparing.numbers import (
    ABSENT,
    cost,
    difference,
    error,
    evaluations,
    probability,
    ratio,
    verdict,
)  # fmt: skip
from lightning_modules.comparing.runs import Comparison
from lightning_modules.comparing.sentences import at_batch, conclusions, headline, notes, unfinished
from lightning_modules.comparing.sign_flips import LEVEL
from lightning_modules.comparing.statistics import Summary, summarise
from lightning_modules.comparing.verdicts import NO_PAIR

WIDTH = 120


def screen_table(comparison: Comparison) -> str:
    """The comparison for a terminal: arms, then controls, then what can and cannot be concluded."""
    summaries = summarise(comparison)
    measure = comparison.measure
    points = f" in {measure.points}" if measure.points else ""
    head = ["arm", "scheme", f"test {measure.head}", f"difference [{LEVEL:.0%}]", "verdict", "p Holm"]
    head += ["params", "MACs", "NFE", "kept MB", "step"]
    arms = [_screen_row(s) for s in summaries if not s.arm.control]
    controls = [_screen_row(s) for s in summaries if s.arm.control]
    widths, gap = _fit(head, arms + controls)
    lines = [headline(comparison), ""]
    lines += [_aligned(head, widths, gap), _rule(widths, gap)]
    lines += [_aligned(row, widths, gap) for row in arms]
    if controls:
        title = "-- controls: not matched to the budget "
        lines += [title + "-" * (len(_rule(widths, gap)) - len(title))]
        lines += [_aligned(row, widths, gap) for row in controls]
    lines += [
        "",
        *_wrapped(
            f"Test {measure.words} of the last epoch: mean ± sd (n finished seeds). Difference to"
            f" {comparison.baseline}{points}, paired by seed, with its sign-flip"
            " interval; the verdict rests on the Holm-adjusted p. MACs per sample, forward; NFE: evaluations of f in a"
            f" forward pass; kept: bytes kept for backward{at_batch(comparison)}; step: training step time relative to"
            f" {comparison.baseline}."
        ),
    ]
    for title, said in (
        ("What can be concluded", conclusions(comparison, summaries)),
        ("What the controls say", what_controls_show(summaries)),
        ("Notes", notes(comparison, summaries)),
        ("Runs that are not done", unfinished(comparison)),
    ):
        if said:
            lines += ["", title]
            lines += [line for text in said for line in _wrapped(text, "  - ")]
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


def _fit(head: Sequence[str], rows: Sequence[Sequence[str]]) -> tuple[list[int], str]:
    """Column widths and gap within WIDTH: a narrower gap first, then shorter scheme and arm names."""
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    gap = "  " if sum(widths) + 2 * (len(widths) - 1) <= WIDTH else " "
    for column in (1, 0, 4, 2, 3):
        over = sum(widths) + len(gap) * (len(widths) - 1) - WIDTH
        if over > 0:
            widths[column] = max(widths[column] - over, min(10, widths[column]))
    return widths, gap


def _aligned(cells: Sequence[str], widths: Sequence[int], gap: str) -> str:
    """Text to the left, measures to the right."""
    cut = [_cut(cell, width) for cell, width in zip(cells, widths, strict=True)]
    placed = [c.ljust(w) if i < 5 else c.rjust(w) for i, (c, w) in enumerate(zip(cut, widths, strict=True))]
    return gap.join(placed).rstrip()


def _cut(cell: str, width: int) -> str:
    """What fits of it, an ellipsis in the middle: the names of a sweep's arms differ at their ends."""
    if len(cell) <= width:
        return cell
    start = width // 2
    return f"{cell[:start]}…{cell[len(cell) - (width - start - 1) :]}"


def _rule(widths: Sequence[int], gap: str) -> str:
    return "-" * (sum(widths) + len(gap) * (len(widths) - 1))


def _wrapped(text: str, bullet: str = "") -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent=bullet, subsequent_indent=" " * len(bullet))
