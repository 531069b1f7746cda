"""Polygons of schemes: few large steps beside the exact solution, and the places where f is evaluated."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from torch import Tensor

from lightning_modules.plotting.style import GREY, font, legend, literal, look_of, new_figure, tidy
from schemes.analysis.reference_problems import TIME, exact_at, linear_system, polygon, problem_of
from schemes.core.node import Node
from schemes.core.scheme import Scheme
from schemes.core.state import State

STEPS = 8
COLUMNS = 3


class Polygon(NamedTuple):
    """One scheme's steps.

    Attributes:
        vertices: u at the start and after each step, (steps + 1,).
        times: of the evaluations of f, but for those by which an implicit scheme searches.
        evaluated: u in their arguments; NaN where an argument is another component of a coupled state.
        linear: whether the problem is the linear one.
    """

    vertices: np.ndarray
    times: np.ndarray
    evaluated: np.ndarray
    linear: bool


@torch.no_grad()
def measure(scheme: Scheme) -> Polygon:
    """The polygon of a scheme on the problem for which its order is stated."""
    f, start = problem_of(scheme)
    points: list[tuple[float, float]] = []

    def recorded(node: Node, y: State) -> State:
        if not node.trial:
            first = y if isinstance(y, Tensor) and y.dim() else None
            points.append((float(node.t), float("nan") if first is None else float(first[0])))
        return f(node, y)

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        states = polygon(scheme, recorded, start, TIME, STEPS)
    vertices = np.array([float(state[0]) for state in states])
    times, evaluated = np.array(points).T
    return Polygon(vertices, times, evaluated, f is linear_system)


def draw(schemes: Mapping[str, Scheme]) -> Figure:
    """A panel for each scheme: u against t."""
    polygons = {label: measure(scheme) for label, scheme in schemes.items()}
    columns = min(COLUMNS, len(polygons))
    rows = -(-len(polygons) // columns)
    figure = new_figure(max(5.5, 3.6 * columns), 2.9 * rows + 0.9)
    axes = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    for i, (ax, (label, drawn)) in enumerate(zip(axes.flat, polygons.items(), strict=False)):
        _draw_panel(ax, drawn, look_of(i).colour)
        problem = " (linear problem)" if drawn.linear else ""
        remark = " (no method for $u' = f$)" if schemes[label].order is None else problem
        ax.set_title(literal(label) + remark, loc="left", fontsize=font(9))
    for ax in axes.flat[len(polygons) :]:
        ax.set_axis_off()
    for ax in axes.flat[max(0, len(polygons) - columns) : len(polygons)]:  # the lowest of each column
        ax.set_xlabel("$t$")
        ax.tick_params(labelbottom=True)
    for ax in axes[:, 0]:
        ax.set_ylabel("$u$")
    handles = [
        Line2D([], [], c=GREY, lw=2.5, label="exact"),
        Line2D([], [], c="black", marker="o", ms=4, label=f"{STEPS} steps of h = {TIME / STEPS:g}"),
        Line2D([], [], c="black", lw=0, marker="o", ms=5, mfc="none", label="evaluations of f"),
    ]
    legend(figure, handles)
    pendulum = r"$u'' = -\sin u + \frac{1}{2}\cos 2t$"
    linear = r"$u' = A(t)\,u$" if any(drawn.linear for drawn in polygons.values()) else ""
    figure.suptitle(f"Polygons on {pendulum}{', or ' + linear if linear else ''}", fontsize=font(11))
    tidy(figure)
    return figure


def _draw_panel(ax: Axes, drawn: Polygon, colour: str) -> None:
    fine = np.linspace(0, TIME, 201)
    ax.plot(fine, exact_at(drawn.linear, tuple(fine.tolist()))[:, 0], c=GREY, lw=2.5, alpha=0.6)
    ax.plot(drawn.times, drawn.evaluated, "o", c=colour, mfc="none", ms=5, alpha=0.8)
    ax.plot(np.linspace(0, TIME, STEPS + 1), drawn.vertices, c=colour, lw=1.2, marker="o", ms=4)
    ax.spines[["top", "right"]].set_visible(False)
