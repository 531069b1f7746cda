"""Test error against each cost, and the arms that no other one beats in both."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from matplotlib.axes import Axes

from lightning_modules.comparing.records import Comparison
from lightning_modules.comparing.report.figures import interactive
from lightning_modules.comparing.report.figures.arms import Drawn, Looks, arm_legend, cost_axis, off_scale
from lightning_modules.comparing.report.figures.interactive import Field, Row
from lightning_modules.comparing.statistics.summary import Summary
from lightning_modules.plotting.style import GREY, count, font, in_bytes, in_seconds, mark, new_figure, readable_ticks

COLUMNS = 3
DETAILS = (
    {"field": "sd", "type": "quantitative", "title": "standard deviation", "format": ".3~g"},
    {"field": "seeds", "type": "quantitative"},
    {"field": "verdict", "type": "nominal"},
)
"""What a point of the interactive figure shows besides its place."""

SAME = 0.01
"""Costs of all arms within this share of the least are one cost, without a budget with a tolerance."""


class Amount(NamedTuple):
    """What an arm costs, and how far that varies: over seeds on adaptive grids, quartiles for times."""

    value: float
    low: float
    high: float


UNITS = {"bytes_kept": "B", "peak_bytes": "B", "step_time": "s"}

PANELS: tuple[tuple[str, str, Callable[[float], str]], ...] = (
    ("parameters", "parameters", count),
    ("flow_parameters", "parameters in flows", count),
    ("macs", "multiply-adds (MACs), forward, a sample", count),
    ("train_flops", "FLOPs of training, a sample", count),
    ("nfe_forward", "NFE: evaluations of f, forward", count),
    ("nfe_backward", "NFE, backward", count),
    ("bytes_kept", "memory kept for backward", in_bytes),
    ("peak_bytes", "peak memory, forward + backward", in_bytes),
    ("step_time", "time of a training step", in_seconds),
)


def draw(comparison: Comparison, summaries: Sequence[Summary], looks: Looks) -> Drawn | None:
    """Small multiples, one for each cost that was measured and differs between arms."""
    same = comparison.budget.tolerance if comparison.budget is not None else SAME
    finished = [s for s in summaries if s.mean is not None]
    beyond = off_scale(finished)
    shown = [s for s in finished if s not in beyond]
    measured = [(panel, _points(shown, panel[0])) for panel in PANELS]
    panels = [(panel, points) for panel, points in measured if tells([x for s, x in points if not s.arm.control], same)]
    if not panels:
        return None
    rows, columns = math.ceil(len(panels) / COLUMNS), min(COLUMNS, len(panels))
    figure = new_figure(max(5.5, 11 * columns / COLUMNS), 3.1 * rows + 0.9)
    axes = figure.subplots(rows, columns, sharey=True, squeeze=False)
    for ax, ((_, label, format_cost), points) in zip(axes.flat, panels, strict=False):
        _front(ax, [(s, x) for s, x in points if not s.arm.control])
        for s, x in points:
            look, spread = looks[s.arm.name], [[x.value - x.low], [x.high - x.value]]
            assert s.mean is not None
            bar = None if s.sd is None else s.measure.scale * s.sd
            ax.errorbar(x.value, s.measure.scale * s.mean, bar, spread, c=look.colour, lw=0, elinewidth=1.2,
                        capsize=2.5, zorder=3, **mark(look))  # fmt: skip
        ax.set_xlabel(label)
        cost_axis(ax, [end for _, x in points for end in (x.low, x.high)], format_cost)
    for ax in axes.flat[len(panels) :]:
        ax.set_axis_off()
    _error_axis(axes[0, 0], shown)
    for ax in axes[:, 0]:
        ax.set_ylabel(comparison.measure.axis)
    arm_legend(figure, shown, looks, lines=False)
    figure.suptitle(f"Test {comparison.measure.words} against costs", fontsize=font(11))
    left_out = [panel[1] for panel, points in measured if points and (panel, points) not in panels]
    rows = [_row(name, s, amount) for (name, _, _), points in panels for s, amount in points]
    look = interactive.looks_of_arms(shown, looks)
    views = [
        interactive.points(
            name,
            Field.of("value", label, ax.xaxis, UNITS.get(name, "")),
            Field.of("error", comparison.measure.axis, axes[0, 0].yaxis),
            look,
            DETAILS,
        )
        for ax, ((name, label, _), _) in zip(axes.flat, panels, strict=False)
    ]
    return Drawn(figure, _caption(shown, beyond, left_out), interactive.figure(views, rows, shown, looks))


def _row(panel: str, s: Summary, amount: Amount) -> Row:
    assert s.mean is not None
    row = {"panel": panel, "arm": s.arm.name, "control": s.arm.control}
    row |= {"value": amount.value, "low": amount.low, "high": amount.high}
    row |= {"error": s.measure.scale * s.mean, "sd": None if s.sd is None else s.measure.scale * s.sd}
    return row | {"seeds": len(s.errors), "verdict": s.verdict}


def tells(amounts: Sequence[Amount], same: float) -> bool:
    """Whether a cost sets arms apart, controls aside: not if all have it alike, or if most have none of it at all."""
    values = [amount.value for amount in amounts]
    least, zeros = min(values, default=0.0), sum(value <= 0 for value in values)
    return len(values) > 1 and max(values) > (1 + 2 * same) * least and zeros <= len(values) / 2


def pareto(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The (cost, error) pairs that no other one beats in one and equals in the other, in the order of cost."""
    front: list[tuple[float, float]] = []
    for cost, error in sorted(set(points)):
        if not front or error < front[-1][1]:
            front.append((cost, error))
    return front


def _front(ax: Axes, points: Sequence[tuple[Summary, Amount]]) -> None:
    """As a staircase: what is above and to the right of it is beaten."""
    front = pareto([(x.value, s.measure.scale * s.mean) for s, x in points if s.mean is not None])
    if len(front) > 1:
        xs, ys = zip(*front, strict=True)
        ax.step(xs, ys, where="post", c=GREY, lw=1, ls=(0, (4, 2)), alpha=0.8, zorder=1)


def _caption(shown: Sequence[Summary], beyond: Sequence[Summary], left_out: Sequence[str]) -> str:
    sentences = ["Points: means over finished seeds; bars: one standard deviation"]
    if max(len(s.errors) for s in shown) == 1:
        sentences = ["Points: one seed, no spread known"]
    sentences += [
        "Horizontal bars: quartiles of the step time; of other costs the least and most over seeds, where adaptive"
        " grids make them differ",
        "Dashed: the Pareto front of the means, controls aside; no arm has both less error and less cost than one on"
        " it, and within the bars it may be luck",
    ]
    if beyond:
        controls = ", ".join(f"{s.arm.name} {s.measure.format(s.mean)}" for s in beyond if s.mean is not None)
        sentences += [f"Controls off the scale and not drawn: {controls}"]
    if left_out:
        sentences += [f"Without a panel, since the arms are equal in it or most have none: {'; '.join(left_out)}"]
    return ". ".join(sentences) + "."


def _points(shown: Sequence[Summary], name: str) -> list[tuple[Summary, Amount]]:
    amounts = ((s, _amount(s, name)) for s in shown)
    return [(s, amount) for s, amount in amounts if amount is not None]


def _amount(s: Summary, name: str) -> Amount | None:
    if name == "step_time":
        if (time := s.arm.step_time) is None:
            return None
        quartiles = (time.quartile_1_s, time.quartile_3_s)
        low, high = (time.median_s if quartile is None else quartile for quartile in quartiles)
        return Amount(time.median_s, min(low, time.median_s), max(high, time.median_s))
    return Amount(*((c := s.costs[name]).mean, c.low, c.high)) if name in s.costs else None


def _error_axis(ax: Axes, shown: Sequence[Summary]) -> None:
    scale = shown[0].measure.scale
    ends = [(s.mean, s.sd or 0.0) for s in shown if s.mean is not None]
    low, high = scale * min(mean for mean, _ in ends), scale * max(mean + sd for mean, sd in ends)
    if low > 0 and high > 5 * low:
        bars = [scale * (mean - sd) for mean, sd in ends]
        bottom, top = 0.85 * max(min(bars), low / 2), 1.2 * high
        ax.set_yscale("log")
        ax.set_ylim(bottom, top)
        readable_ticks(ax.yaxis)
