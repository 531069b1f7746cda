"""The learned vector field of a neural ODE against the true one, and the solutions of both."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from scipy.interpolate import CubicHermiteSpline
from torch import Tensor

from architectures.dynamics.neural_ode import NeuralODE, constants
from architectures.dynamics.systems import System
from architectures.observations import SeriesBatch
from lightning_modules.data.dynamics.simulated import TrajectoryData
from lightning_modules.plotting.style import COLOURS, GREY, font, legend, literal, new_figure, run_name, tidy
from lightning_modules.training.loading import load_run
from schemes.errors import SchemenetError

SERIES = 16  # of the test set, whose states say where to look
DRAWN = 2  # of these, against time, at most
MOMENTS = 400  # at which solutions are drawn
LATTICE = 48  # points in each direction
ARROWS = 250  # where the state is no plane
TRUE, LEARNED = "black", COLOURS[1]


class Learned(NamedTuple):
    """A trained model in double precision, its data with one batch of the test set, and a description of the run.

    ``span`` is the time that the training series span.
    """

    network: NeuralODE
    data: TrajectoryData
    batch: SeriesBatch
    span: float
    description: str


def draw(folder: Path) -> Figure:
    """Above the true field, the learned one and their distance; below test series against time."""
    run = learned(folder)
    fields = _Fields(run)
    figure = new_figure(9.6, 3.2 + 1.5 * len(run.data.channels))
    parts: Any = figure.subfigures(2, 1, height_ratios=[3.2, 1.5 * len(run.data.channels)])
    above, below = parts
    if run.data.system is None:
        fields.draw(above.subplots(1, 1), fields.by_model, "learned field", LEARNED)
    else:
        panels = above.subplots(1, 3, sharex=True, sharey=True)
        fields.draw(panels[0], fields.by_system, "true field", TRUE)
        fields.draw(panels[1], fields.by_model, "learned field", LEARNED)
        fields.draw_distance(panels[2])
    _draw_series(below, run)
    learned_constants = _learned_constants(run.network, run.data.system)
    figure.suptitle(f"Vector field of {run.description}, run {run_name(folder)}{learned_constants}", fontsize=font(9))
    known = run.data.system is not None
    handles: list[Any] = [
        Line2D([], [], c=TRUE, lw=1.2, ls="-" if known else "", marker=".", label="true" if known else "observed"),
        Line2D([], [], c=LEARNED, lw=1.2, label="learned, from the first state on"),
        Patch(color=GREY, alpha=0.15, lw=0, label="span of the training series"),
    ]
    legend(figure, handles)
    return figure


def learned(folder: Path) -> Learned:
    """The trained model of a run folder. Raises SchemenetError where it has no vector field to be drawn."""
    run = load_run(folder, NeuralODE)
    module, data = run.module.double().eval(), run.test_data(TrajectoryData)
    if len(data.channels) < 2:
        raise SchemenetError(f"{folder}: a field is drawn in a plane; expected two channels or more, got one")
    batch = data.first(SERIES)
    doubled = [type(part)(*(tensor.double() for tensor in part)) for part in (batch.observed, batch.targets)]
    return Learned(run.network, data, SeriesBatch(*doubled), float(cast(Tensor, module.span)), run.description)


def drawn(run: Learned) -> int:
    """The number of series that are drawn."""
    return min(DRAWN, len(run.batch.targets.values))


@torch.no_grad()
def solutions(run: Learned, y: Tensor) -> tuple[Tensor, Tensor]:
    """The learned solution at equal times.

    Args:
        run: the trained model.
        y: states to begin with, (series, state).

    Returns:
        The times, (times,), and the states, (times, series, state).
    """
    start = run.batch.observed.times[0]
    times = start + (run.batch.targets.times[-1] - start) * torch.linspace(0, 1, MOMENTS + 1, dtype=y.dtype)
    return times, torch.cat((y[None], run.network.states(y, start, times[1:])))


def true_path(run: Learned, series: int) -> tuple[Tensor, Tensor]:
    """The observed solution of a test series; where the system is known, with cubic Hermite interpolation between.

    Args:
        run: the trained model.
        series: its number in the batch.

    Returns:
        The times, (times,), and the states, (times, channels).
    """
    observed, targets = run.batch.observed, run.batch.targets
    seen = targets.mask[series].amin(-1) > 0
    times = torch.cat((observed.times, targets.times[seen]))
    states = torch.cat((observed.values[series], targets.values[series, seen]))
    if run.data.system is None or len(times) < 2:
        return times, states
    with torch.no_grad():
        slopes = run.data.system(times[0], states)
    curve = CubicHermiteSpline(times.numpy(), states.numpy(), slopes.numpy())
    dense = times[0] + (times[-1] - times[0]) * torch.linspace(0, 1, MOMENTS + 1, dtype=times.dtype)
    return dense, torch.from_numpy(curve(dense.numpy()))


class _Fields:
    """Both fields in the plane of the first and the last channel: on a lattice, or at points of the model's series."""

    def __init__(self, run: Learned) -> None:
        self.run, channels = run, run.data.channels
        self.shown = (0, len(channels) - 1)
        self.names = [literal(channels[i]) for i in self.shown]
        y = run.network.initial(run.batch)
        self.times, self.paths = solutions(run, y)
        self.plane = y.shape[1] == 2
        self.seen = run.batch.targets.values[run.batch.targets.mask.amin(-1) > 0]
        whole = torch.cat((self.seen, run.batch.observed.values[:, 0]))
        low, high = (end[list(self.shown)] for end in (whole.amin(0), whole.amax(0)))
        margin = 0.08 * (high - low)
        self.box = torch.stack((low - margin, high + margin), 1)
        self.points = self._lattice() if self.plane else self._some(self._visited())

    def _lattice(self) -> Tensor:
        sides = [torch.linspace(low, high, LATTICE, dtype=torch.float64) for low, high in self.box.tolist()]
        return torch.stack(torch.meshgrid(*sides, indexing="xy"), -1).reshape(-1, 2)

    def _visited(self) -> Tensor:
        """The states of the series; with augmented channels, which are not observed, those of the model."""
        return self.paths.flatten(0, 1) if self.run.network.augment else self.seen

    def _some(self, points: Tensor) -> Tensor:
        return points[torch.linspace(0, len(points) - 1, ARROWS).long()]

    @torch.no_grad()
    def by_model(self, points: Tensor) -> Tensor:
        return self.run.network.rate(self.times[0], points)[:, : len(self.run.data.channels)]

    @torch.no_grad()
    def by_system(self, points: Tensor) -> Tensor:
        assert self.run.data.system is not None
        return self.run.data.system(self.times[0], points[:, : len(self.run.data.channels)])

    def distance(self, points: Tensor) -> Tensor:
        """The distance of both fields, over the size of the true one at the same place.

        Over its mean size, a field that points the wrong way where motion is slow would look right there.
        """
        true = self.by_system(points)
        return (self.by_model(points) - true).norm(dim=-1) / true.norm(dim=-1).clamp_min(1e-12)

    def draw(self, ax: Axes, field: Any, title: str, colour: str) -> None:
        x, y = self.shown
        rates, points = field(self.points).numpy(), self.points.numpy()
        if self.plane:
            grid = (LATTICE, LATTICE)
            at = [points[:, i].reshape(grid) for i in (x, y)]
            flow = [rates[:, i].reshape(grid) for i in (x, y)]
            ax.streamplot(at[0][0], at[1][:, 0], *flow, color=GREY, linewidth=0.6, arrowsize=0.6, density=1.1)
        else:
            ax.quiver(points[:, x], points[:, y], rates[:, x], rates[:, y], color=GREY, width=0.004)
        self._draw_paths(ax, colour)
        self._frame(ax, title)

    def _draw_paths(self, ax: Axes, colour: str) -> None:
        observed = self.run.batch.observed
        x, y = self.shown
        for series in range(drawn(self.run)):
            path = true_path(self.run, series)[1] if colour == TRUE else self.paths[:, series]
            ax.plot(path[:, x], path[:, y], c=colour, lw=0.9, zorder=3)
            ax.plot(observed.values[series, 0, x], observed.values[series, 0, y], c=colour, marker="o", ms=4, zorder=4)

    def draw_distance(self, ax: Axes) -> None:
        """A colour scale from 1%, where arrows look alike, to 200%, where the learned arrow points the opposite way."""
        colours = {"cmap": "viridis", "norm": LogNorm(0.01, 2.0)}
        points, (x, y), distance = self.points.numpy(), self.shown, self.distance(self.points).numpy()
        if self.plane:
            at = [points[:, i].reshape(LATTICE, LATTICE) for i in (x, y)]
            colours_of = ax.pcolormesh(*at, distance.reshape(LATTICE, LATTICE), shading="gouraud", **colours)
            ax.plot(self.seen[:, x], self.seen[:, y], ls="", marker=".", ms=1.5, c="white", alpha=0.6)
        else:
            colours_of = ax.scatter(points[:, x], points[:, y], c=distance, s=9, **colours)
        bar = ax.figure.colorbar(colours_of, ax=ax, shrink=0.85, extend="both")
        bar.ax.tick_params(labelsize=font(7))
        bar.set_label("|learned - true| / |true|", fontsize=font(8))
        bar.set_ticks([0.01, 0.1, 1, 2], labels=["1%", "10%", "100%", "200%"])
        bar.ax.minorticks_off()
        self._frame(ax, "relative error at each place" + ("; dots: data" if self.plane else ""))

    def _frame(self, ax: Axes, title: str) -> None:
        ax.set_title(title, loc="left", fontsize=font(9))
        ax.set_xlabel(self.names[0])
        ax.set_ylabel(self.names[1])
        ax.label_outer()
        ax.set(xlim=self.box[0].tolist(), ylim=self.box[1].tolist())
        ax.spines[["top", "right"]].set_visible(False)


def _draw_series(figure: Any, run: Learned) -> None:
    """The channels of some series against time, observed and predicted, the training series' span shaded."""
    panels = figure.subplots(len(run.data.channels), drawn(run), sharex=True, sharey="row", squeeze=False)
    times, paths = solutions(run, run.network.initial(run.batch))
    start, targets, first = run.batch.observed.times[0], run.batch.targets, run.batch.observed.values[:, 0]
    for (channel, series), ax in np.ndenumerate(panels):
        seen = targets.mask[series, :, channel] > 0
        moments = torch.cat((start[None], targets.times[seen]))
        values = torch.cat((first[series, channel, None], targets.values[series, seen, channel]))
        ax.axvspan(float(start), float(start) + run.span, color=GREY, alpha=0.15, lw=0)
        ax.plot(moments, values, c=TRUE, lw=0, marker=".", ms=3)
        if run.data.system is not None:
            along, states = true_path(run, series)
            ax.plot(along, states[:, channel], c=TRUE, lw=0.9)
        ax.plot(times, paths[:, series, channel], c=LEARNED, lw=1.1)
        if series == 0:
            ax.set_ylabel(literal(run.data.channels[channel]))
        if channel == 0:
            ax.set_title(f"test series {series}", loc="left", fontsize=font(9))
    for ax in panels[-1]:
        ax.set_xlabel("time")
    tidy(figure)


def _learned_constants(network: NeuralODE, true: System | None) -> str:
    """The learned constants of the known part, with the true values of the same names."""
    right = constants(true) if isinstance(true, type(network.system)) else {}
    learned_values = [
        f"{name} = {value.item():.4g}" + (f" (true {right[name].item():.4g})" if name in right else "")
        for name, value in constants(network.system).items()
        if value.requires_grad
    ]
    return "\nlearned " + ", ".join(learned_values) if learned_values else ""
