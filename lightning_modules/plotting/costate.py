"""Costates and Hamiltonians along the depth of a network, as its seed initialises it and as it was trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from architectures.model import Model
from architectures.supervised.network import Network
from lightning_modules.data.datamodule import SplitData
from lightning_modules.evaluation.costates import FlowCostates, costates_along_depth
from lightning_modules.plotting.depth_axis import mark_flows
from lightning_modules.plotting.style import (
    COLOURS,
    GREY,
    Look,
    caption,
    font,
    legend,
    mark,
    new_figure,
    readable_ticks,
    run_name,
    tidy,
)
from lightning_modules.training.loading import load_run
from schemes.errors import SchemenetError

SAMPLES = 128  # of the test set
MARGIN = 0.05  # of a flow's width, at both of its ends
LOOKS = (Look(COLOURS[0], "o", "white", ":"), Look(COLOURS[1], "o", COLOURS[1], "-"))
POINTS = 40  # with more states in a flow, lines have no markers

LABEL = "depth: the states of each flow, over t / T"

CAPTION = (
    "a_n is the gradient of a sample's loss with respect to the state u_n, by backprop through the steps as they were "
    "taken, and |a_n| its root mean square over {samples} samples of the test set; H_n = a_n . f(t_n, u_n) is a mean "
    "over them. Batch norm has the statistics of these samples. Transitions between flows are not drawn."
)

Curves = Sequence[tuple[str, Look, Sequence[FlowCostates]]]
"""Name, look and measured flows of each network in a picture."""


def draw(folder: Path) -> Figure:
    """|a_n| and H_n along depth for the network of a run: freshly initialised by its seed, and trained."""
    run = load_run(folder, Network)
    inputs, targets = run.test_data(SplitData).first(SAMPLES)
    networks: Mapping[str, Model] = {"as initialised": run.untrained().network, "trained": run.network}
    batch = inputs.double(), targets.double() if targets.is_floating_point() else targets
    try:
        measured = {name: costates_along_depth(network.double(), batch) for name, network in networks.items()}
    except SchemenetError as error:
        raise SchemenetError(f"{folder}: {error}") from error
    curves = [(name, look, flows) for (name, flows), look in zip(measured.items(), LOOKS, strict=True)]
    figure = figure_of(curves)
    figure.suptitle(f"Gradients along depth: {run_name(folder)}", fontsize=font(11))
    caption(CAPTION.format(samples=len(inputs)))
    for line in drifts(measured):
        print(line)
    return figure


def drifts(measured: Mapping[str, Sequence[FlowCostates]]) -> list[str]:
    """A line for each flow along which H is constant but for the error of the scheme.

    Args:
        measured: the flows of each network, by the words for it.
    """
    return [
        f"drift of H along flow {i + 1}, {name}: {flow.drift:.3g} (max - min over mean |H|; 0 for the exact solution)"
        for name, flows in measured.items()
        for i, flow in enumerate(flows)
        if flow.drift is not None
    ]


def figure_of(curves: Curves) -> Figure:
    """A panel for |a_n|, and one for H_n where a network has any; networks have the same number of flows.

    Args:
        curves: of the networks.
    """
    has_hamiltonians = any(flow.hamiltonians for *_, flows in curves for flow in flows)
    figure = new_figure(8.4, 6.6 if has_hamiltonians else 3.9)
    panels = figure.subplots(1 + has_hamiltonians, 1, sharex=True, squeeze=False)[:, 0]
    draw_norms(panels[0], curves)
    if has_hamiltonians:
        _mark(panels[1], curves)
        for _, look, flows in curves:
            for i, flow in enumerate(flows):
                _line(panels[1], i, flow.times, flow.hamiltonians or (), look)
        panels[1].set_ylabel(r"$H_n = a_n \cdot f_n$")
        panels[1].axhline(0, color=GREY, lw=0.8)
    panels[-1].set_xlabel(LABEL)
    legend(figure, [handle(name, look) for name, look, _ in curves])
    tidy(figure)
    return figure


def draw_norms(ax: Axes, curves: Curves) -> None:
    """|a_n| along depth on a logarithmic axis.

    Args:
        ax: the panel.
        curves: of the networks.
    """
    _mark(ax, curves)
    ax.set_yscale("log")
    for _, look, flows in curves:
        for i, flow in enumerate(flows):
            _line(ax, i, flow.times, flow.norms, look)
    ax.set_ylabel(r"$|a_n|$")
    readable_ticks(ax.yaxis, "{:.0e}".format if _spans_decades(curves) else "{:.3g}".format)


def _mark(ax: Axes, curves: Curves) -> None:
    mark_flows(ax, [1] * len(curves[0][2]))
    ax.set_xticks([])


def _spans_decades(curves: Curves) -> bool:
    norms = [norm for *_, flows in curves for flow in flows for norm in flow.norms if norm > 0]
    return bool(norms) and (max(norms) >= 1e4 or min(norms) <= 1e-4)


def _line(ax: Axes, flow: int, times: Sequence[float], values: Sequence[float], look: Look) -> None:
    """Values at the first of these times, in the flow's part of the axis."""
    xs = [flow + 0.5 + MARGIN + (1 - 2 * MARGIN) * t for t, _ in zip(times, values, strict=False)]
    points: dict[str, Any] = mark(look) | {"markersize": 5} if len(values) <= POINTS else {}
    ax.plot(xs, values, c=look.colour, ls=look.line, lw=1.4, **points)


def handle(name: str, look: Look) -> Line2D:
    """The entry of a network in the legend."""
    points: dict[str, Any] = mark(look) | {"markersize": 5}
    return Line2D([], [], c=look.colour, ls=look.line, label=name, **points)
