"""The style of the pictures of a comparison: looks and legend of the arms, curves over the seeds, axes of costs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from lightning_modules.comparing.records import Comparison, Run
from lightning_modules.comparing.report.figures.interactive import Interactive, Row
from lightning_modules.comparing.statistics.summary import Summary
from lightning_modules.plotting.style import GREY, Look, legend, literal, look_of, mark, readable_ticks, tidy

OFF_SCALE = 1.5  # times the worst arm: a control beyond it would squeeze all arms together
BANDS = 8  # more arms than that would hide one another behind their bands


Curve = Mapping[Any, float]
Looks = Mapping[str, Look]


class Drawn(NamedTuple):
    """A figure, its caption, and its numbers with their interactive form where it has one."""

    figure: Figure
    caption: str
    interactive: Interactive | None = None


def looks_of(summaries: Sequence[Summary]) -> dict[str, Look]:
    """The baseline is black, controls are grey and hollow, all others differ in colour, marker and line."""
    looks, arms, controls = {}, 0, 0
    for s in summaries:
        if s.verdict == "baseline":
            looks[s.arm.name] = Look("black", "o", "black", "-")
        elif s.arm.control:
            marker = "sv^Do"[controls % 5]
            looks[s.arm.name] = Look(GREY, marker, "white", ("--", ":", "-.")[controls % 3])
            controls += 1
        else:
            looks[s.arm.name] = look_of(arms)
            arms += 1
    return looks


def done(comparison: Comparison, arm: str) -> list[Run]:
    """The runs of an arm that finished, in the order of the seeds."""
    return [run for run in comparison.of(arm) if run.status == "done"]


def off_scale(shown: Sequence[Summary]) -> list[Summary]:
    """The controls that lose by so much that showing them would squeeze all arms together."""
    worst = max((s.mean for s in shown if s.mean is not None and not s.arm.control), default=float("inf"))
    return [s for s in shown if s.arm.control and s.mean is not None and s.mean > OFF_SCALE * worst]


def arm_legend(figure: Figure, shown: Sequence[Summary], looks: Looks, lines: bool = True) -> None:
    """A legend below the panels, so that it covers no point.

    Args:
        figure: that gets it.
        shown: the arms.
        looks: by the names of the arms.
        lines: whether the picture has lines as well as markers.
    """
    handles = []
    for s in shown:
        look = looks[s.arm.name]
        kind = " (baseline)" if s.verdict == "baseline" else " (control)" if s.arm.control else ""
        line = look.line if lines else "none"
        handles.append(Line2D([], [], c=look.colour, ls=line, label=literal(s.arm.name) + kind, **mark(look)))
    legend(figure, handles)
    tidy(figure)


# Curves -----------------------------------------------------------------------------------------------------


def draw_curves(
    ax: Axes, shown: Sequence[Summary], curves: Mapping[str, Sequence[Curve]], looks: Looks, marked: bool = False
) -> None:
    """The mean over the seeds of each arm, with a band of one standard deviation where there are few arms.

    Args:
        ax: the panel.
        shown: the arms.
        curves: of each arm, one for each seed.
        looks: by the names of the arms.
        marked: whether the points have markers.
    """
    lows, highs = [], []
    drawn = [s for s in shown if any(curves[s.arm.name])]
    for s in drawn:
        xs, means, sds = over_seeds(curves[s.arm.name])
        if not len(xs):
            continue
        look = looks[s.arm.name]
        points = mark(look) | {"markersize": 4, "markeredgecolor": look.colour} if marked or len(xs) == 1 else {}
        ax.plot(xs, means, c=look.colour, ls=look.line, lw=1.5, **points)
        if len(drawn) <= BANDS:
            ax.fill_between(xs, means - sds, means + sds, color=look.colour, alpha=0.13, lw=0)
        lows, highs = [*lows, means.min()], [*highs, means.max()]
    if lows and 0 < 5 * min(lows) < max(highs):
        bottom, top = 0.8 * min(lows), 1.25 * max(highs)
        ax.set_yscale("log")
        ax.set_ylim(bottom, top)
        readable_ticks(ax.yaxis)


def curve_rows(panel: str, shown: Sequence[Summary], curves: Mapping[str, Sequence[Curve]]) -> list[Row]:
    """The numbers that :func:`draw_curves` draws, ``panel`` saying where."""
    rows: list[Row] = []
    for s in shown:
        for x, mean, sd in zip(*over_seeds(curves[s.arm.name]), strict=True):
            rows.append({"panel": panel, "arm": s.arm.name, "x": float(x), "mean": float(mean), "sd": float(sd)})
    return rows


def describe_bands(comparison: Comparison, shown: Sequence[Summary]) -> str:
    """A phrase for the lines and bands of :func:`draw_curves`."""
    if len(comparison.seeds) == 1:
        return "one seed"
    return "means over finished seeds" + ("; bands: one standard deviation" if len(shown) <= BANDS else "")


def over_seeds(curves: Sequence[Curve]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean and sd (zero for one seed) at the points that all seeds logged."""
    curves = [curve for curve in curves if curve]
    xs = sorted(set.intersection(*(set(curve) for curve in curves))) if curves else []
    values = np.array([[curve[x] for x in xs] for curve in curves]).reshape(len(curves), len(xs))
    if not xs:
        return np.array([]), np.array([]), np.array([])
    sds = values.std(axis=0, ddof=1) if len(curves) > 1 else np.zeros(len(xs))
    return np.array(xs), values.mean(axis=0), sds


def smooth(curve: Curve) -> dict[float, float]:
    """Running mean over a twentieth of the points.

    It stays centred at the start, where a loss falls steeply, and turns one-sided at the end.
    """
    steps = sorted(curve)
    values = np.array([curve[step] for step in steps])
    half = len(values) // 40
    sums = np.concatenate([[0.0], np.cumsum(values)])
    means = {}
    for i, step in enumerate(steps):
        before = min(half, i)
        after = min(before, len(values) - 1 - i)
        means[step] = float(sums[i + after + 1] - sums[i - before]) / (before + after + 1)
    return means


# Axes -------------------------------------------------------------------------------------------------------


def cost_axis(ax: Axes, xs: Sequence[float], text: Callable[[float], str]) -> None:
    """An axis of costs: logarithmic if they differ by more than a factor of three, else linear, at least 10% wide.

    Args:
        ax: the panel.
        xs: the costs.
        text: writes one of them.
    """
    if not xs:
        return
    low, high = min(xs), max(xs)
    if low > 0 and high > 3 * low:
        margin = (high / low) ** 0.08
        low, high = low / margin, high * margin
        ax.set_xscale("log")
        ax.set_xlim(low, high)
    else:
        margin = max(0.08 * (high - low), 0.05 * high, 1e-9)
        ax.set_xlim(low - margin, high + margin)
    readable_ticks(ax.xaxis, text)
