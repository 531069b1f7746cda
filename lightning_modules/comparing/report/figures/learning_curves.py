"""Learning curves: the measure on the test set and training loss, against epochs and against cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes

from lightning_modules.comparing.records import Comparison, Run, finite, read_metrics
from lightning_modules.comparing.report.figures import interactive
from lightning_modules.comparing.report.figures.arms import (
    BANDS,
    Curve,
    Drawn,
    Looks,
    arm_legend,
    cost_axis,
    curve_rows,
    describe_bands,
    done,
    draw_curves,
    off_scale,
    smooth,
)
from lightning_modules.comparing.report.figures.interactive import Field, Row
from lightning_modules.comparing.statistics.summary import Summary, mean_and_sd
from lightning_modules.metrics import Measure
from lightning_modules.plotting.style import count, font, literal, mark, new_figure, readable_ticks

MARKED = 40  # epochs, up to which each has a marker

Curves = Mapping[str, Sequence[Curve]]


def draw(comparison: Comparison, summaries: Sequence[Summary], looks: Looks) -> Drawn | None:
    """A row for the measure and one for the loss, where they were logged; against FLOPs where these are known."""
    runs = {s.arm.name: done(comparison, s.arm.name) for s in summaries}
    measure = comparison.measure
    errors = {arm: [_by_epoch(run, measure) for run in of_arm] for arm, of_arm in runs.items()}
    losses = {arm: [smooth(read_metrics(run, "train/loss")) for run in of_arm] for arm, of_arm in runs.items()}
    if not any(len(curve) > 1 for of_arm in losses.values() for curve in of_arm):
        losses = {arm: [] for arm in losses}  # logged once: no course to be seen
    by_flops = {
        arm: curves_by_flops(of_arm, [read_metrics(run, f"test/{measure.key}") for run in of_arm], measure.scale)
        for arm, of_arm in runs.items()
    }
    losses_by_flops = {arm: curves_by_flops(of_arm, losses[arm]) for arm, of_arm in runs.items()}
    last = max((epoch for curves in errors.values() for curve in curves for epoch in curve), default=0)
    if not last and not _any(losses):
        return None
    rows = [(errors, by_flops, measure.axis)] if last else []
    rows += [(losses, losses_by_flops, "training loss, smoothed")] if _any(losses) else []
    columns = 1 + (_any(by_flops) or _any(losses_by_flops))
    shape = (len(rows), columns) if columns > 1 else (1, len(rows))
    figure = new_figure(11, 0.9 + 4.2 * shape[0])
    axes = figure.subplots(*shape, squeeze=False).reshape(len(rows), columns)
    shown = [s for s in summaries if any(errors[s.arm.name]) or any(losses[s.arm.name])]
    look = interactive.looks_of_arms(shown, looks)
    numbers: list[Row] = []
    views: list[Row] = []

    def add(ax: Axes, curves: Curves, marked: bool, unit: str | None = None) -> None:
        x, y = ax.get_xlabel(), ax.get_ylabel()
        panel = f"{y} by {x}"
        numbers.extend(curve_rows(panel, shown, curves))
        fields = Field.of("x", x, ax.xaxis, unit), Field.of("mean", y, ax.yaxis)
        views.append(interactive.curves(panel, *fields, look, len(shown) <= BANDS, marked))

    for row, (curves, against_flops, label) in zip(axes, rows, strict=True):
        single, marked = curves is errors and last == 1, curves is errors and last <= MARKED
        if single:
            _draw_single_epoch(row[0], summaries, errors, looks, measure)
            numbers.extend(curve_rows(measure.axis, shown, errors))
            means = Field.of("mean", row[0].get_xlabel(), row[0].xaxis)
            views.append(interactive.rows_of_arms(measure.axis, means, look))
        else:
            draw_curves(row[0], summaries, curves, looks, marked)
            row[0].set(xlabel="epoch" if curves is errors else "training step", ylabel=label)
            readable_ticks(row[0].xaxis, whole=True)
            add(row[0], curves, marked)
        if columns > 1:
            draw_curves(row[1], summaries, against_flops, looks, marked)
            row[1].set(xlabel="FLOPs of training", ylabel=label)
            cost_axis(row[1], [x for of_arm in against_flops.values() for curve in of_arm for x in curve], count)
            if not single:
                add(row[1], against_flops, marked, "")
    arm_legend(figure, shown, looks)
    figure.suptitle("Learning curves", fontsize=font(11))
    bands = describe_bands(comparison, shown)
    caption = f"Test {measure.words} after the epochs that measured it, and training loss: {bands}."
    if columns > 1:
        caption += " FLOPs of training: those of one sample's forward and backward pass times the samples seen."
    return Drawn(figure, caption, interactive.figure(views, numbers, shown, looks))


def _any(curves: Curves) -> bool:
    return any(curve for of_arm in curves.values() for curve in of_arm)


def _by_epoch(run: Run, measure: Measure) -> dict[float, float]:
    """The measure in its unit by epoch, counted from one; without a log, the last epoch's from the result."""
    if logged := read_metrics(run, f"test/{measure.key}", against="epoch"):
        return {epoch + 1: measure.scale * value for epoch, value in logged.items()}
    return {run.epochs: measure.scale * run.value} if run.epochs and run.value is not None else {}


def curves_by_flops(runs: Sequence[Run], curves: Sequence[Curve], scale: float = 1.0) -> list[dict[float, float]]:
    """Curves by training step over what the training had cost until then; empty where that is not known.

    The cost of a step is the mean over the runs: on adaptive grids each has its own, and their curves would have no
    point in common.
    """
    costs = [_cost_of_a_step(run) for run in runs]
    known = [cost for cost in costs if cost is not None]
    if not known or len(known) < len(costs):
        return [{} for _ in curves]
    each = sum(known) / len(known)
    return [{(step + 1) * each: scale * value for step, value in curve.items()} for curve in curves]


def _cost_of_a_step(run: Run) -> float | None:
    flops, samples = finite(run.ledger.get("train_flops")), run.samples_per_step
    return flops * samples if flops and samples and flops > 0 and samples > 0 else None


def _draw_single_epoch(ax: Axes, shown: Sequence[Summary], errors: Curves, looks: Looks, measure: Measure) -> None:
    """After one epoch there is no curve: one row per arm, small dots for the seeds."""
    beyond, extremes = off_scale(shown), []
    shown = [s for s in shown if any(errors[s.arm.name])]
    for row, s in enumerate(shown):
        values = [value for curve in errors[s.arm.name] for value in curve.values()]
        look, (mean, sd) = looks[s.arm.name], mean_and_sd(values)
        assert mean is not None
        if s in beyond:
            ax.text(0.99, row, f"{mean:.2f} →", transform=ax.get_yaxis_transform(), ha="right", va="center")
            continue
        ax.plot(values, [row] * len(values), ".", c=look.colour, alpha=0.45, markersize=5)
        ax.errorbar(mean, row, xerr=sd, c=look.colour, lw=0, elinewidth=1.2, capsize=2.5, **mark(look))
        extremes += values
    ax.set_yticks(range(len(shown)), [literal(s.arm.name) for s in shown])
    ax.set_ylim(len(shown) - 0.5, -0.5)
    ax.set_xlabel(f"{measure.axis}, after one epoch")
    if extremes and 0 < 5 * min(extremes) < max(extremes):
        ax.set_xscale("log")
        ax.set_xlim(0.8 * min(extremes), 1.25 * max(extremes))
        readable_ticks(ax.xaxis)
