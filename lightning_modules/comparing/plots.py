"""Pictures of a comparison: test error against each cost, and learning curves."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from lightning_modules.comparing.report import human, seconds
from lightning_modules.comparing.runs import Comparison, Run, read_metrics
from lightning_modules.comparing.statistics import Summary, mean_and_sd
from lightning_modules.plotting.style import GREY, Look, log_ticks, look_of, mark, new_figure, plain, tidy

OFF_SCALE = 1.5  # times the worst arm: a control beyond it would squeeze all arms together


def write(comparison: Comparison, summaries: Sequence[Summary]) -> list[Path]:
    """Draw what there is to draw into the comparison's folder; the paths written."""
    looks = _looks(summaries)
    figures = {
        "error_against_costs.png": error_against_costs(summaries, looks),
        "learning_curves.png": learning_curves(comparison, summaries, looks),
    }
    written = []
    for name, figure in figures.items():
        if figure is not None:
            figure.savefig(comparison.folder / name, dpi=150)
            written.append(comparison.folder / name)
    return written


def error_against_costs(summaries: Sequence[Summary], looks: Mapping[str, Look]) -> Figure | None:
    """Small multiples: test error against each cost; error bars are standard deviations over seeds."""
    finished = [s for s in summaries if s.mean is not None]
    if not finished:
        return None
    beyond = _off_scale(finished)
    shown = [s for s in finished if s not in beyond]
    figure = new_figure(11, 7.2)
    axes = figure.subplots(2, 3, sharey=True)
    panels: tuple[tuple[str, str, Callable[[float], str]], ...] = (
        ("parameters", "parameters", human),
        ("macs", "MACs per sample, forward", human),
        ("nfe_forward", "NFE: evaluations of f, forward", human),
        ("bytes_kept", "bytes kept for backward", lambda x: human(x, "B")),
        ("peak_bytes", "peak bytes, forward + backward", lambda x: human(x, "B")),
        ("step_time", "time of a training step", seconds),
    )
    for ax, (name, label, told) in zip(axes.flat, panels, strict=True):
        points = [(s, _cost(s, name)) for s in shown]
        points = [(s, x) for s, x in points if x is not None]
        for s, x in points:
            look = looks[s.arm.name]
            bar = None if s.sd is None else 100 * s.sd
            ax.errorbar(x, 100 * s.mean, bar, c=look.colour, lw=0, elinewidth=1.2, capsize=2.5, **mark(look))
        ax.set_xlabel(label)
        _cost_axis(ax, [x for _, x in points], told)
        if not points:
            ax.text(0.5, 0.5, "not measured", transform=ax.transAxes, ha="center", color=GREY)
            ax.set_xticks([])
    _error_axis(axes[0, 0], shown)
    for ax in axes[:, 0]:
        ax.set_ylabel("test error, %")
    _legend(figure, shown, looks, lines=False)
    most = max(len(s.errors) for s in shown)
    spread = "points: mean of one seed, no spread known" if most == 1 else "points: mean over finished seeds; bars: sd"
    left_out = ", ".join(f"{s.arm.name} {100 * s.mean:.1f}%" for s in beyond)
    note = f"\ncontrols off the scale and not drawn: {left_out}" if beyond else ""
    figure.suptitle(f"Test error against costs ({spread}){note}", fontsize=11)
    return figure


def learning_curves(comparison: Comparison, summaries: Sequence[Summary], looks: Mapping[str, Look]) -> Figure | None:
    """Test error per epoch and smoothed training loss, mean over finished seeds with a band of one sd."""
    tests, losses = {}, {}
    for s in summaries:
        done = [run for run in comparison.of(s.arm.name) if run.status == "done"]
        tests[s.arm.name] = [_epochs(run) for run in done]
        losses[s.arm.name] = [_smooth(read_metrics(run, "train/loss")) for run in done]
    shown = [s for s in summaries if any(tests[s.arm.name]) or any(losses[s.arm.name])]
    if not shown:
        return None
    figure = new_figure(11, 5.2)
    left, right = figure.subplots(1, 2)
    last = max((epoch for curves in tests.values() for curve in curves for epoch in curve), default=0)
    if last > 1:
        _draw_curves(left, shown, tests, looks, scale=100, marked=last <= 40)
        left.set(xlabel="epoch", ylabel="test error, %")
        left.xaxis.set_major_locator(MaxNLocator(integer=True))
    else:
        _draw_single_epoch(left, shown, tests, looks)
    _draw_curves(right, shown, losses, looks)
    right.set(xlabel="training step", ylabel="training loss, smoothed")
    for ax, measured in ((left, tests), (right, losses)):
        if not any(curve for curves in measured.values() for curve in curves):
            ax.text(0.5, 0.5, "not logged", transform=ax.transAxes, ha="center", color=GREY)
    _legend(figure, shown, looks)
    spread = "mean over finished seeds, band: ± sd" if len(comparison.seeds) > 1 else "one seed"
    figure.suptitle(f"Learning curves ({spread})", fontsize=11)
    return figure


def _draw_curves(
    ax: Axes,
    shown: Sequence[Summary],
    curves: Mapping[str, Sequence[Mapping[int, float]]],
    looks: Mapping[str, Look],
    scale: float = 1.0,
    marked: bool = False,
) -> None:
    low = []
    for s in shown:
        xs, means, sds = _over_seeds(curves[s.arm.name])
        if not len(xs):
            continue
        means, sds, look = scale * means, scale * sds, looks[s.arm.name]
        points = mark(look) | {"markersize": 4, "markeredgecolor": look.colour} if marked or len(xs) == 1 else {}
        ax.plot(xs, means, c=look.colour, ls=look.line, lw=1.5, **points)
        ax.fill_between(xs, means - sds, means + sds, color=look.colour, alpha=0.13, lw=0)
        low += [(means.min(), means.max())]
    if low and min(a for a, _ in low) > 0 and max(b for _, b in low) > 5 * min(a for a, _ in low):
        ax.set_yscale("log")
        bottom, top = 0.8 * min(a for a, _ in low), 1.25 * max(b for _, b in low)
        ax.set_ylim(bottom, top)
        log_ticks(ax.yaxis, bottom, top, lambda y: f"{y:g}")


def _draw_single_epoch(
    ax: Axes,
    shown: Sequence[Summary],
    tests: Mapping[str, Sequence[Mapping[int, float]]],
    looks: Mapping[str, Look],
) -> None:
    """After one epoch there is no curve: one row per arm, small dots for the seeds."""
    beyond, extremes = _off_scale([s for s in shown if s.mean is not None]), []
    for row, s in enumerate(shown):
        values = [100 * value for curve in tests[s.arm.name] for value in curve.values()]
        if not values:
            continue
        look, (mean, sd) = looks[s.arm.name], mean_and_sd(values)
        if s in beyond:
            ax.text(0.99, row, f"{mean:.2f} →", transform=ax.get_yaxis_transform(), ha="right", va="center")
            continue
        ax.plot(values, [row] * len(values), ".", c=look.colour, alpha=0.45, markersize=5)
        ax.errorbar(mean, row, xerr=sd, c=look.colour, lw=0, elinewidth=1.2, capsize=2.5, **mark(look))
        extremes += values
    ax.set_yticks(range(len(shown)), [s.arm.name for s in shown])
    ax.set_ylim(len(shown) - 0.5, -0.5)
    ax.set_xlabel("test error after one epoch, %")
    if extremes and min(extremes) > 0 and max(extremes) > 5 * min(extremes):
        ax.set_xscale("log")
        ax.set_xlim(0.8 * min(extremes), 1.25 * max(extremes))
        log_ticks(ax.xaxis, 0.8 * min(extremes), 1.25 * max(extremes), lambda x: f"{x:g}")


def _off_scale(shown: Sequence[Summary]) -> list[Summary]:
    """The controls that lose by so much that showing them would squeeze all arms together."""
    worst = max((s.mean for s in shown if not s.arm.control), default=float("inf"))
    return [s for s in shown if s.arm.control and s.mean > OFF_SCALE * worst]


def _epochs(run: Run) -> dict[int, float]:
    """Test error by epoch, counted from one; without a log, the last epoch's from the result."""
    logged = read_metrics(run, "test/error", against="epoch")
    if logged:
        return {epoch + 1: error for epoch, error in logged.items()}
    return {run.epochs: run.test_error} if run.epochs and run.test_error is not None else {}


def _smooth(curve: Mapping[int, float]) -> dict[int, float]:
    """Running mean over a twentieth of the points.

    It stays centred at the start, where the loss falls steeply, and turns one-sided at the end.
    """
    steps = sorted(curve)
    values = np.array([curve[step] for step in steps])
    half = len(values) // 40
    sums = np.concatenate([[0.0], np.cumsum(values)])
    smooth = {}
    for i, step in enumerate(steps):
        before = min(half, i)
        after = min(before, len(values) - 1 - i)
        smooth[step] = float(sums[i + after + 1] - sums[i - before]) / (before + after + 1)
    return smooth


def _over_seeds(curves: Sequence[Mapping[int, float]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean and sd (zero for one seed) at the points that all seeds logged."""
    curves = [curve for curve in curves if curve]
    xs = sorted(set.intersection(*(set(curve) for curve in curves))) if curves else []
    values = np.array([[curve[x] for x in xs] for curve in curves]).reshape(len(curves), len(xs))
    if not xs:
        return np.array([]), np.array([]), np.array([])
    sds = values.std(axis=0, ddof=1) if len(curves) > 1 else np.zeros(len(xs))
    return np.array(xs), values.mean(axis=0), sds


def _looks(summaries: Sequence[Summary]) -> dict[str, Look]:
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


def _cost(s: Summary, name: str) -> float | None:
    if name == "step_time":
        return s.arm.step_time.median_s if s.arm.step_time else None
    return s.costs[name].mean if name in s.costs else None


def _cost_axis(ax: Axes, xs: Sequence[float], told: Callable[[float], str]) -> None:
    """Logarithmic where the largest is more than three times the smallest, else linear, at least 10% wide."""
    if not xs:
        return
    low, high = min(xs), max(xs)
    if low > 0 and high > 3 * low:
        margin = (high / low) ** 0.08
        low, high = low / margin, high * margin
        ax.set_xscale("log")
        ax.set_xlim(low, high)
        log_ticks(ax.xaxis, low, high, told)
        return
    margin = max(0.08 * (high - low), 0.05 * high, 1e-9)
    ax.set_xlim(low - margin, high + margin)
    ax.xaxis.set_major_locator(MaxNLocator(4))
    ax.xaxis.set_major_formatter(plain(told))


def _error_axis(ax: Axes, shown: Sequence[Summary]) -> None:
    low, high = 100 * min(s.mean for s in shown), 100 * max(s.mean + (s.sd or 0) for s in shown)
    if low > 0 and high > 5 * low:
        bars = [100 * (s.mean - (s.sd or 0)) for s in shown]
        bottom, top = 0.85 * max(min(bars), low / 2), 1.2 * high
        ax.set_yscale("log")
        ax.set_ylim(bottom, top)
        log_ticks(ax.yaxis, bottom, top, lambda y: f"{y:g}")


def _legend(figure: Figure, shown: Sequence[Summary], looks: Mapping[str, Look], lines: bool = True) -> None:
    """Below the panels, so that it covers no point."""
    handles = []
    for s in shown:
        look = looks[s.arm.name]
        kind = " (baseline)" if s.verdict == "baseline" else " (control)" if s.arm.control else ""
        handles.append(
            Line2D(
                [],
                [],
                c=look.colour,
                ls=look.line if lines else "none",
                label=s.arm.name + kind,
                **mark(look),
            )
        )
    figure.legend(handles=handles, loc="outside lower center", ncols=min(5, len(handles)), frameon=False)
    tidy(figure)
