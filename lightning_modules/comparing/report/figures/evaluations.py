"""Evaluations of f in the course of the training, where they vary: on adaptive grids, and under implicit schemes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lightning_modules.comparing.records import Comparison, Run, read_metrics
from lightning_modules.comparing.report.figures import interactive
from lightning_modules.comparing.report.figures.arms import (
    BANDS,
    Curve,
    Drawn,
    Looks,
    arm_legend,
    curve_rows,
    describe_bands,
    done,
    draw_curves,
    smooth,
)
from lightning_modules.comparing.report.figures.interactive import Field
from lightning_modules.comparing.statistics.summary import Summary
from lightning_modules.plotting.style import font, new_figure, readable_ticks

PANELS = (
    ("nfe/forward", "evaluations of f, forward"),
    ("nfe/backward", "evaluations of f, backward"),
    ("steps/rejected", "steps rejected"),
)


def draw(comparison: Comparison, summaries: Sequence[Summary], looks: Looks) -> Drawn | None:
    """NFE of a batch, mean of each epoch; of a single epoch batch by batch, smoothed."""
    runs = {s.arm.name: done(comparison, s.arm.name) for s in summaries}
    long = any(len(_epochs(run, PANELS[0][0])) > 1 for of_arm in runs.values() for run in of_arm)
    read = _epochs if long else _batches
    panels = [(label, {arm: [read(run, name) for run in of_arm] for arm, of_arm in runs.items()})
              for name, label in PANELS]  # fmt: skip
    panels = [(label, curves) for label, curves in panels if _moves(curves)]
    shown = [s for s in summaries if any(any(curves[s.arm.name]) for _, curves in panels)]
    if not shown:
        return None
    figure = new_figure(max(5.5, 3.9 * len(panels)), 4.4)
    look = interactive.looks_of_arms(shown, looks)
    views = []
    for ax, (label, curves) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        draw_curves(ax, shown, curves, looks, marked=long)
        ax.set(xlabel="epoch" if long else "training step", ylabel=label)
        readable_ticks(ax.xaxis, whole=True)
        if ax.get_yscale() == "linear":
            ax.set_ylim(0, 1.08 * ax.get_ylim()[1])
        fields = Field.of("x", ax.get_xlabel(), ax.xaxis), Field.of("mean", label, ax.yaxis)
        views.append(interactive.curves(label, *fields, look, bands=len(shown) <= BANDS))
    arm_legend(figure, shown, looks)
    figure.suptitle("Evaluations of f over the training", fontsize=font(11))
    each = "mean over the batches of an epoch" if long else "of single batches, smoothed"
    return Drawn(
        figure,
        f"What solving a batch takes, {each}; {describe_bands(comparison, shown)}. Drawn are the networks whose "
        "batches differ in it: adaptive grids and implicit schemes.",
        interactive.figure(
            views, [row for label, curves in panels for row in curve_rows(label, shown, curves)], shown, looks
        ),
    )


def _moves(curves: Mapping[str, Sequence[Curve]]) -> bool:
    return any(any(curve.values()) for of_arm in curves.values() for curve in of_arm)


def _epochs(run: Run, name: str) -> dict[float, float]:
    return {epoch + 1: value for epoch, value in read_metrics(run, f"{name}/epoch", against="epoch").items()}


def _batches(run: Run, name: str) -> dict[float, float]:
    return smooth(read_metrics(run, name))
