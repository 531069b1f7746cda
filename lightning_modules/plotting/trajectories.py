"""Trajectories of points of a two-dimensional set through a trained flow, and where its solver evaluates f."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from torch import Tensor, nn

from architectures.supervised.network import Network, Stage
from lightning_modules.plotting.style import COLOURS, GREY, font, legend, new_figure, run_name
from lightning_modules.plotting.supervised import NetworkWithSamples, load_with_samples
from lightning_modules.text import plural
from schemes.core.node import Node
from schemes.errors import SchemenetError
from schemes.flow import Flow
from schemes.ivp.solve import solve

POINTS = 200  # the first of the test set
TIMES = 61  # at which the paths are drawn on an adaptive grid
PANELS = 4
ARROWS = 15  # in each direction
FOLLOWED = 3  # points of each class, along whose paths the evaluations of f are drawn
COLOUR_OF_CLASS = (COLOURS[0], COLOURS[1], COLOURS[2], COLOURS[3])


RING: dict[str, Any] = {"marker": "o", "ms": 3.2, "mfc": "none", "mew": 0.6}


class Paths(NamedTuple):
    """The states at times: (times,) and (times, points, dimensions)."""

    times: np.ndarray
    states: np.ndarray


class Evaluations(NamedTuple):
    """Where a solve evaluates f, but for the searches of an implicit scheme and of the first step's size.

    Attributes:
        times: of the evaluations, (evaluations,), those of rejected steps included.
        states: f's arguments, (evaluations, points, dimensions).
        steps: the times at which accepted steps begin and end, (steps + 1,).
        rejected: the number of rejected steps.
    """

    times: np.ndarray
    states: np.ndarray
    steps: np.ndarray
    rejected: int


def draw(folder: Path) -> Figure:
    """The points, the vector field and the evaluations of f at a few times from 0 to T, and those against time."""
    run = load_with_samples(folder, POINTS)
    if (reason := refusal(run)) is not None:
        raise SchemenetError(f"{folder}: {reason}")
    stage = run.network.stages[0]
    assert isinstance(stage, Stage)
    flow = run.network.flows[0]
    solution, evaluated = paths(flow, start(run)), evaluations(flow, start(run))
    chosen = [round(i * (len(solution.times) - 1) / (PANELS - 1)) for i in range(PANELS)]
    labels = run.labels.numpy()
    followed = np.concatenate([np.flatnonzero(labels == label)[:FOLLOWED] for label in np.unique(labels)])
    figure = new_figure(6.8, 8.7)
    parts: Any = figure.subfigures(2, 1, height_ratios=(7.2, 1.9))
    panels = parts[0].subplots(2, 2, sharex=True, sharey=True)
    box = extent(solution.states[chosen, :, :2])
    for ax, index in zip(panels.flat, chosen, strict=True):
        _draw_points(ax, solution, index, labels)
        _draw_field(ax, flow, float(solution.times[index]), solution.states[index], box)
        _draw_evaluations(ax, solution, index, evaluated, followed)
        ax.set(xlim=box[0], ylim=box[1], aspect="equal")
        ax.set_title(f"t = {solution.times[index]:.3g}", loc="left", fontsize=font(9))
        ax.spines[["top", "right"]].set_visible(False)
    for ax in panels[-1]:
        ax.set_xlabel("$u_1$")
    for ax in panels[:, 0]:
        ax.set_ylabel("$u_2$")
    _draw_times(parts[1].subplots(1, 1), evaluated)
    handles = [
        Line2D([], [], ls="", marker="o", ms=5, c=COLOUR_OF_CLASS[label], label=f"class {label}")
        for label in sorted(set(run.labels.tolist()))
    ]
    if (line := boundary(run.network)) is not None:
        _draw_boundary(panels.flat[-1], line, box)
        handles.append(Line2D([], [], c="black", ls="--", lw=1.2, label="the classifier's boundary, at T"))
    handles.append(Line2D([], [], c=GREY, lw=0, marker=r"$\rightarrow$", ms=10, label="f(t, u), scaled for each panel"))
    handles.append(Line2D([], [], c="black", lw=0.6, label="evaluations of f, for a few points", **RING))
    legend(figure, handles)
    steps, h = flow.grid.described(flow.nodes)
    shown = f"\ntwo of {solution.states.shape[2]} dimensions, the others are augmented" if stage.augment else ""
    figure.suptitle(
        f"{run_name(folder)}: {len(run.labels)} test points, {type(flow.scheme).__name__}, "
        f"{f'steps by {h}' if flow.adaptive else f'{steps} steps of h = {float(h):.4g}'}{shown}",
        fontsize=font(9),
    )
    return figure


def refusal(run: NetworkWithSamples) -> str | None:
    """The reason why a run has no trajectories in the plane; None where it has."""
    network = run.network
    if run.inputs.dim() != 2 or not network.flows:
        return "trajectories are of points; expected a flow trained on data=circles, moons, spheres or spirals"
    flow, stage = network.flows[0], network.stages[0]
    assert isinstance(stage, Stage)
    if flow.scheme.components > 1:
        return f"{type(flow.scheme).__name__} moves a coupled state, whose parts have fields of their own"
    size = start(run).shape[1] - stage.augment
    if size != 2:
        return (
            f"its flow moves points in {size} dimensions, of which two would show shadows; expected one of the plane: "
            "architecture=mlp architecture.stem=none (with architecture.augment, if any)"
        )
    return None


@torch.no_grad()
def start(run: NetworkWithSamples) -> Tensor:
    """The initial state of the flow, (points, dimensions)."""
    entered = run.network.embed(run.inputs)
    stage = copy.copy(run.network.stages[0])
    assert isinstance(stage, Stage)
    stage._modules = {**stage._modules, "flow": None}
    return stage(entered)[0]


@torch.no_grad()
def paths(flow: Flow, y: Tensor) -> Paths:
    """The solution at equal times, with the scheme and tolerances of evaluation; on a uniform grid after each step.

    Args:
        flow: of the trained network.
        y: the initial state, (points, dimensions).
    """
    if flow.adaptive:
        grid: Any = copy.copy(flow.grid)
        grid.rtol, grid.atol = grid.tolerances(training=False)
        times = torch.linspace(0, flow.time, TIMES, dtype=torch.float64)
        states = solve(
            lambda t, u: flow.bank(Node(0, float(t), 0.0), u), y, times, scheme=flow.scheme, grid=grid
        ).values
        return Paths(times.numpy(), states.numpy())
    path = flow.trajectory(y)
    return Paths(np.array(path.times), torch.stack(path.states).numpy())


@torch.no_grad()
def evaluations(flow: Flow, y: Tensor) -> Evaluations:
    """Where f is evaluated on the way from 0 to T, with the scheme and tolerances of evaluation.

    Args:
        flow: of the trained network.
        y: the initial state, (points, dimensions).
    """
    times: list[float] = []
    states: list[Tensor] = []

    def record(_: nn.Module, arguments: tuple[Node, Tensor]) -> None:
        node, state = arguments
        if not node.trial:
            times.append(float(node.t))
            states.append(state.clone())

    handle = flow.bank.register_forward_pre_hook(record)
    try:
        steps = flow.trajectory(y).times
    finally:
        handle.remove()
    return Evaluations(np.array(times), torch.stack(states).numpy(), np.array(steps), flow.forward_counts.rejected)


@torch.no_grad()
def field(flow: Flow, t: float, states: Tensor) -> np.ndarray:
    """f at one time.

    Args:
        flow: of the trained network.
        t: on a uniform grid, the field is that of the step at or before this time.
        states: (points, dimensions).

    Returns:
        The rates, (points, dimensions).
    """
    node = (
        Node(0, t, 0.0) if flow.adaptive else max((node for node in flow.nodes if node.t <= t), key=lambda node: node.t)
    )
    return flow.bank(node, states).numpy()


def boundary(network: Network) -> tuple[float, float, float] | None:
    """(a, b, c): both classes are as likely where a u_1 + b u_2 + c = 0; None unless a classifier reads the plane."""
    classifier = network.classifier
    if not isinstance(network.finish, nn.Identity) or not isinstance(classifier, nn.Linear):
        return None
    if tuple(classifier.weight.shape) != (2, 2):
        return None
    a, b = (classifier.weight[1] - classifier.weight[0]).tolist()
    return a, b, (classifier.bias[1] - classifier.bias[0]).item()


def extent(states: np.ndarray) -> tuple[tuple[float, float], tuple[float, float]]:
    """A square that holds all points, with a margin: its limits in both directions."""
    low, high = states.min(axis=(0, 1)), states.max(axis=(0, 1))
    middle, half = (low + high) / 2, 0.54 * (high - low).max()
    (x, y) = middle
    return (x - half, x + half), (y - half, y + half)


# What is drawn -------------------------------------------------------------------------------------------------


def _draw_points(ax: Axes, solution: Paths, index: int, labels: np.ndarray) -> None:
    now = solution.states[index]
    for label in sorted(set(labels.tolist())):
        colour = COLOUR_OF_CLASS[label]
        members = labels == label
        ax.plot(*solution.states[: index + 1, members, :2].transpose(2, 0, 1), c=colour, lw=0.5, alpha=0.25)
        ax.plot(*now[members, :2].T, ls="", marker="o", ms=3.2, mew=0.3, mec="white", c=colour, zorder=3)


def _draw_field(
    ax: Axes, flow: Flow, t: float, states: np.ndarray, box: tuple[tuple[float, float], tuple[float, float]]
) -> None:
    """Arrows on a lattice where the state is the plane; with more dimensions, at some of the points."""
    if states.shape[1] == 2:
        lattice = np.stack(np.meshgrid(*(np.linspace(*ends, ARROWS) for ends in box)), -1).reshape(-1, 2)
    else:
        lattice = states[:: max(1, len(states) // 60)]
    arrows = field(flow, t, torch.from_numpy(lattice))
    ax.quiver(*lattice[:, :2].T, *arrows[:, :2].T, color=GREY, alpha=0.55, width=0.0035, zorder=1)


def _draw_evaluations(ax: Axes, solution: Paths, index: int, evaluated: Evaluations, points: np.ndarray) -> None:
    """Rings at f's arguments up to a time, along the paths of these points."""
    ax.plot(*solution.states[: index + 1, points, :2].transpose(2, 0, 1), c="black", lw=0.6, zorder=3)
    until = evaluated.times <= solution.times[index] * (1 + 1e-9)
    ax.plot(*evaluated.states[until][:, points, :2].reshape(-1, 2).T, c="black", ls="", zorder=4, **RING)


def _draw_times(ax: Axes, evaluated: Evaluations) -> None:
    """The evaluations of f and the ends of the steps against time."""
    ax.eventplot(
        [evaluated.times, evaluated.steps], lineoffsets=[0, 1], linelengths=0.8, lw=0.9, colors=["black", GREY]
    )
    ax.set(yticks=[0, 1], yticklabels=["f", "steps"], ylim=(-0.5, 1.5), xlabel="$t$")
    rejected = f", {evaluated.rejected} rejected" if evaluated.rejected else ""
    many = f"{len(evaluated.times)} evaluations of f in {plural(len(evaluated.steps) - 1, 'step')}{rejected}"
    ax.set_title(many, loc="left", fontsize=font(9))
    ax.spines[["top", "right"]].set_visible(False)


def _draw_boundary(
    ax: Axes, line: tuple[float, float, float], box: tuple[tuple[float, float], tuple[float, float]]
) -> None:
    a, b, c = line
    foot = -c * np.array([a, b]) / (a * a + b * b)
    along = np.array([-b, a]) / np.hypot(a, b) * 2 * (box[0][1] - box[0][0])
    ax.plot(*np.stack([foot - along, foot + along]).T, c="black", ls="--", lw=1.2, zorder=4)
