"""A trained density: samples and log density against the data, and the states from noise to data."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from architectures.density.base import DensityModel
from lightning_modules.data.density.base import DensityData
from lightning_modules.data.density.energy import Energy
from lightning_modules.plotting.style import COLOURS, font, literal, new_figure, run_name
from lightning_modules.training.loading import load_run
from schemes.errors import SchemenetError

POINTS = 5000  # samples, as many as there are of the data where it has so many
STOPS = 5  # on the way from noise to data
LATTICE = 140  # points in each direction
BINS = 90  # in each direction, of so many points
DEPTH = 10.0  # nats below the highest density that differ in colour
IMAGES = 10  # in a row
MAP = "magma"


def draw(folder: Path) -> Figure:
    """Samples, log density and states from noise to data of a run; of a set of images, images."""
    run = load_run(folder, DensityModel)
    network, data = run.network.double().eval(), run.test_data(DensityData)
    if network.dims < 2:
        raise SchemenetError(f"{folder}: figure density is of the plane; expected two columns or more, got 1")
    with torch.no_grad():
        figure = _images(network, data) if data.picture is not None else _points(network, data)
    figure.suptitle(f"{run_name(folder)}: {run.description}, {describe_steps(network)}", fontsize=font(9))
    figure.draw_without_rendering()  # panels of equal axes make room for their labels at the second drawing only
    return figure


def describe_steps(network: DensityModel) -> str:
    """The steps of the map from noise to data, in words."""
    layout = network.layout
    if layout["scheme"] == "none":
        return f"{layout['steps'][0]} steps"
    many = f"{len(layout['steps'])} flows, " if len(layout["steps"]) > 1 else ""
    return f"{many}{layout['scheme']}, {layout['steps'][0]} steps"


def way(network: DensityModel, z: Tensor) -> list[tuple[str, Tensor]]:
    """At most ``STOPS`` states from noise to data.

    Args:
        network: the trained density.
        z: noise, (batch, dims).

    Returns:
        Pairs of a label and a state, (batch, dims).
    """
    states = network.along(z, STOPS)
    chosen = sorted({round(i * (len(states) - 1) / (STOPS - 1)) for i in range(STOPS)})
    return [states[i] for i in chosen]


def _points(network: DensityModel, data: DensityData) -> Figure:
    stream = torch.Generator().manual_seed(0)
    z = torch.randn(POINTS, network.dims, generator=stream, dtype=torch.float64)
    states = way(network, z)
    samples = states[-1][1]
    target = data if isinstance(data, Energy) else None
    known = samples if target else data.first(POINTS).double()
    box = square(torch.cat([known, samples[: len(known)]]))
    figure = new_figure(9.6, 5.5)
    parts: Any = figure.subfigures(2, 1, height_ratios=(1.5, 1))
    above, below = parts
    first, second, third = above.subplots(1, 3)
    if target is not None:
        _surface(first, -target.energy(lattice(box)) - target.log_normaliser, box)
        first.set_title("log density to be matched", loc="left", fontsize=font(9))
    else:
        _histogram(first, known, box)
        first.set_title(f"data: {len(known)} test points", loc="left", fontsize=font(9))
    _histogram(second, samples[: len(known)], box)
    second.set_title(f"{len(known)} samples", loc="left", fontsize=font(9))
    if network.dims == 2:
        density = network.log_density(lattice(box))
        bar = _surface(third, density, box)
        above.colorbar(bar, ax=third, shrink=0.8, label="log p (nats)")
        third.set_title("log density of the model", loc="left", fontsize=font(9))
    else:
        _densities(third, network.log_density(known), network.log_density(samples[: len(known)]))
    for ax, (word, state) in zip(below.subplots(1, len(states)), states, strict=True):
        around = square(state)
        wide = around[1] - around[0] > 1.5 * (box[1] - box[0])  # layers may lead far away and back
        _histogram(ax, state[: len(known)], around if wide or network.dims > 2 else box)
        ax.tick_params(labelsize=font(7))
        ax.set_title(f"{word}, {around[1] - around[0]:.3g} wide" if wide else word, loc="left", fontsize=font(9))
    unit = f", in {data.unit}" if data.unit else ""
    names = [f"{literal(name)}{unit}" for name in data.columns[:2]]
    planar = [first, second, third] if network.dims == 2 else [first, second]
    for ax in (*planar, *below.axes):
        ax.set_xlabel(names[0], fontsize=font(8))
    for ax in (first, below.axes[0]):
        ax.set_ylabel(names[1], fontsize=font(8))
    if network.dims > 2:
        below.suptitle(f"the first two of {network.dims} columns, on the way", fontsize=font(9))
    return figure


def square(points: Tensor) -> tuple[float, float, float, float]:
    """Left, right, bottom and top of a square around all but the outermost of the points."""
    low, high = (torch.quantile(points[:, :2], q, dim=0) for q in (0.002, 0.998))
    (x, y), half = ((low + high) / 2).tolist(), 0.58 * float((high - low).max())
    return x - half, x + half, y - half, y + half


def lattice(box: tuple[float, float, float, float]) -> Tensor:
    """Points of a lattice in a square, row after row from the bottom."""
    x, y = torch.linspace(*box[:2], LATTICE), torch.linspace(*box[2:], LATTICE)
    return torch.cartesian_prod(y, x).flip(1).double()


def _surface(ax: Axes, values: Tensor, box: tuple[float, float, float, float]) -> Any:
    top = math.ceil(float(values.max()))
    grid = values.reshape(LATTICE, LATTICE).numpy()
    ax.set_aspect("equal")
    return ax.imshow(grid, extent=box, origin="lower", cmap=MAP, vmin=top - DEPTH, vmax=top, interpolation="bilinear")


def _histogram(ax: Axes, points: Tensor, box: tuple[float, float, float, float]) -> None:
    x, y = points[:, :2].T.numpy()
    ax.hist2d(x, y, bins=bins_for(len(points), BINS), range=[box[:2], box[2:]], cmap=MAP)
    ax.set_aspect("equal")


def bins_for(count: int, most: int) -> int:
    """The number of bins for ``count`` points: ``most`` for ``POINTS`` of them, fewer for fewer points."""
    return max(10, min(most, round(most * math.sqrt(count / POINTS))))


def _densities(ax: Axes, of_data: Tensor, of_samples: Tensor) -> None:
    """Histograms of the log densities of the data and of the network's samples."""
    low = float(torch.quantile(torch.cat([of_data, of_samples]), 0.005))
    edges = np.linspace(low, float(torch.cat([of_data, of_samples]).max()), bins_for(len(of_data), 50))
    for values, colour, word in ((of_data, COLOURS[0], "data"), (of_samples, COLOURS[1], "samples")):
        ax.hist(values.numpy(), list(edges), density=True, histtype="step", color=colour, lw=1.6, label=word)
    ax.set(yticks=[], xlabel="nats, of what the network sees")
    ax.spines[["top", "right", "left"]].set_visible(False)
    ax.legend(frameon=False, fontsize=font(9), loc="upper left")
    ax.set_title("log density of each", loc="left", fontsize=font(9))


def _images(network: DensityModel, data: DensityData) -> Figure:
    stream = torch.Generator().manual_seed(0)
    z = torch.randn(2 * IMAGES, network.dims, generator=stream, dtype=torch.float64)
    states = way(network, z)
    rows = [("data", part) for part in data.original(data.first(2 * IMAGES).double()).split(IMAGES)]
    rows += [("samples", part) for part in data.original(states[-1][1]).split(IMAGES)]
    rows += [(word, data.original(state[:IMAGES])) for word, state in states]
    assert data.picture is not None
    figure = new_figure(7.2, 0.72 * len(rows) + 0.5)
    for (word, images), axes in zip(rows, figure.subplots(len(rows), IMAGES), strict=True):
        for image, ax in zip(images, axes, strict=True):
            ax.imshow(image.reshape(data.picture).numpy(), cmap="gray_r", vmin=0, vmax=17)
            ax.set(xticks=[], yticks=[])
            ax.spines[:].set_visible(False)
        axes[0].set_ylabel(word, fontsize=font(9), rotation=0, ha="right", va="center")
    return figure
