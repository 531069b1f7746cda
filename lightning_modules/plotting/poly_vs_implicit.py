"""The distance of PolyNet's sums from the backward Euler step that they truncate, along a trained network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from torch import Tensor

from architectures.supervised.network import Network
from lightning_modules.plotting.depth_axis import LABEL, mark_flows, number
from lightning_modules.plotting.style import (
    GREY,
    caption,
    font,
    legend,
    look_of,
    mark,
    new_figure,
    readable_ticks,
    run_name,
    tidy,
)
from lightning_modules.plotting.supervised import load_with_samples
from schemes.core.node import Node
from schemes.core.state import VectorField
from schemes.errors import SchemenetError
from schemes.nonlinear.newton_krylov import NoConvergence
from schemes.registry import SCHEMES, single_step

DEGREES = (1, 2, 3, 4, 5)
IMAGES = 8  # the first of the test set; each is solved on its own
ITERATIONS = 30  # of the power method
BACKWARD = "backward_euler"
BAND = 0.15


CAPTION = (
    "P_d(u) = u + F(u) + F(F(u)) + ..., with d powers of F = h f, against backward Euler's B(u) = u + F(B(u)), whose "
    "series it is for linear f only, and surely converges where the norm of h f' is below 1; above distance 1 the sum "
    "is farther from B(u) than no step at all. Medians over the images; bars from the least norm to the largest."
)


class Step(NamedTuple):
    """One step of a trained network: distances (degrees, images), NaN where not solved; norms of h f' (images)."""

    flow: int
    step: int
    distances: np.ndarray
    norms: np.ndarray


def draw(folder: Path) -> Figure:
    """Distance of P_1 .. P_5 from backward Euler's step for every step of a run, and the norm of h f' below it."""
    network, images = load(folder)
    steps = measure(network, images)
    counts = [len(flow.nodes) for flow in network.flows]
    x = [number(counts, step.flow, step.step) for step in steps]
    figure = new_figure(8.4, 7.6)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    for ax in (upper, lower):
        mark_flows(ax, counts)
        ax.set_yscale("log")
        ax.axhline(1, color=GREY, lw=0.8)
    handles = _draw_distances(upper, counts, steps)
    handles += _draw_norms(lower, counts, steps)
    unsolved = [n for n, step in zip(x, steps, strict=True) if np.isnan(step.distances).all()]
    if unsolved:
        upper.plot(unsolved, [0.04] * len(unsolved), "x", c="black", transform=upper.get_xaxis_transform())
        handles.append(Line2D([], [], c="black", marker="x", ls="", label="solved for no image"))
    if any(0 < np.isnan(step.distances[0]).sum() < len(images) for step in steps):
        hollow: dict[str, Any] = mark(look_of(0)) | {"markerfacecolor": "white", "markeredgecolor": GREY}
        handles.append(Line2D([], [], c=GREY, ls="", label="hollow: solved for some", **hollow))
    upper.set_ylabel(r"$\|P_d(u) - B(u)\| \,/\, \|B(u) - u\|$")
    lower.set(xlabel=LABEL, ylabel=r"$\|h f'(u)\|$")
    for ax in (upper, lower):
        readable_ticks(ax.yaxis)
    legend(figure, handles)
    figure.suptitle(
        "PolyNet's sums of $d$ powers of $hf$ against the backward Euler step\n"
        f"{run_name(folder)}: median over {len(images)} test images",
        fontsize=font(10),
    )
    caption(CAPTION)
    tidy(figure)
    return figure


def load(folder: Path) -> tuple[Network, Tensor]:
    """The trained network in evaluation mode and the first images of its data's test set, in double precision."""
    network, images, _ = load_with_samples(folder, IMAGES)
    if (reason := refusal(network)) is not None:
        raise SchemenetError(f"{folder}: {reason}")
    return network, images


def refusal(network: Network) -> str | None:
    """The reason why a network's steps cannot be compared with backward Euler; None where they can."""
    if not network.flows:
        return "a network without flows has no steps to compare"
    for flow in network.flows:
        if flow.adaptive:
            return "the steps of an adaptive grid are found for each batch anew; expected a run on grid=uniform"
        if flow.scheme.components > 1 or flow.sharing.of_stages:
            return (
                f"a step of {type(flow.scheme).__name__} is not of one function f of the whole state, so there is no "
                "backward Euler step beside it; expected one component, and sharing per_step or shared"
            )
    return None


def measure(network: Network, images: Tensor) -> list[Step]:
    """Every step of every flow, at the states that the network passes through.

    Args:
        network: in evaluation mode.
        images: (batch, channels, height, width).
    """
    states = _trajectory(network, images)
    steps = []
    for i, (flow, passed) in enumerate(zip(network.flows, states, strict=True)):
        for node, y in zip(flow.nodes, passed, strict=True):
            # One function: of several sets of running statistics (and affine weights) those of the first evaluation.
            f = flow.bank.function(node)
            with torch.no_grad():
                distances = np.array([_distances(f, node, image[None]) for image in y]).T
            norms = spectral_norms(lambda u, f=f, node=node: node.h * f(node.at(0, 1.0), u), y)
            steps.append(Step(i, node.step, distances, norms.numpy()))
    return steps


def _trajectory(network: Network, images: Tensor) -> list[list[Tensor]]:
    """The states before the steps of each flow: where f is first evaluated in a step."""
    states: list[dict[int, Tensor]] = [{} for _ in network.flows]

    def watching(first: dict[int, Tensor]) -> Callable[[Any, tuple[Node, Tensor]], None]:
        def watch(_: Any, arguments: tuple[Node, Tensor]) -> None:
            node, y = arguments
            first.setdefault(node.step, y)

        return watch

    hooks = [
        flow.bank.register_forward_pre_hook(watching(first)) for flow, first in zip(network.flows, states, strict=True)
    ]
    with torch.no_grad():
        network(images)
    for hook in hooks:
        hook.remove()
    return [list(first.values()) for first in states]


def _distances(f: VectorField, node: Node, y: Tensor) -> list[float]:
    """|| P_d(u) - B(u) || / || B(u) - u || for every degree d; NaN where B's equation was not solved.

    Where ||h f'|| > 1 it may have several solutions: B is the one that the solver reaches from u.
    """
    try:
        backward, _ = SCHEMES.build(single_step(BACKWARD)).step(f, node, y, ())
    except NoConvergence:
        return [float("nan")] * len(DEGREES)
    polys = [SCHEMES.build({"name": "backward_euler_poly", "degree": degree}) for degree in DEGREES]
    moved = (backward - y).norm()
    return [float((poly.step(f, node, y, ())[0] - backward).norm() / moved) for poly in polys]


def spectral_norms(function: Callable[[Tensor], Tensor], y: Tensor) -> Tensor:
    """A lower estimate of the spectral norm of the Jacobian for each sample, by the power method.

    Args:
        function: (batch, ...) -> (batch, ...), of each sample alone.
        y: where the Jacobian is taken, (batch, ...).

    Returns:
        The norms, (batch,).
    """
    y = y.detach().requires_grad_()
    value = function(y)
    cotangent = torch.zeros_like(value, requires_grad=True)
    (pulled,) = torch.autograd.grad(value, y, cotangent, create_graph=True)  # linear in the cotangent
    v = torch.randn(y.shape, dtype=y.dtype, generator=torch.Generator().manual_seed(0))
    for _ in range(ITERATIONS):
        v = v / _lengths(v).clamp_min(torch.finfo(y.dtype).tiny)
        (pushed,) = torch.autograd.grad(pulled, cotangent, v, retain_graph=True)
        (v,) = torch.autograd.grad(value, y, pushed, retain_graph=True)
    return _lengths(v).flatten().sqrt()


def _lengths(v: Tensor) -> Tensor:
    """The norm of each sample, in a shape that divides it."""
    return v.flatten(1).norm(dim=1).view(-1, *[1] * (v.dim() - 1))


def _draw_distances(ax: Axes, counts: Sequence[int], steps: Sequence[Step]) -> list[Line2D]:
    handles = []
    for row, degree in enumerate(DEGREES):
        look = look_of(row)
        points: dict[str, Any] = mark(look) | {"markersize": 6}
        for flow in range(len(counts)):
            solved = [s for s in steps if s.flow == flow and not np.isnan(s.distances[row]).all()]
            xs = [number(counts, s.flow, s.step) for s in solved]
            ax.plot(xs, [np.nanmedian(s.distances[row]) for s in solved], c=look.colour, lw=1.5, **points)
            partly = [(x, np.nanmedian(s.distances[row])) for x, s in zip(xs, solved, strict=True)
                      if np.isnan(s.distances[row]).any()]  # fmt: skip
            hollow: dict[str, Any] = points | {"markerfacecolor": "white", "markeredgecolor": look.colour}
            ax.plot([x for x, _ in partly], [d for _, d in partly], ls="", **hollow)
        name = f"$d = {degree}$" + (", forward Euler" if degree == 1 else "")
        handles.append(Line2D([], [], c=look.colour, lw=1.5, label=name, **points))
    handles.append(Line2D([], [], c=GREY, lw=0.8, label="1: as far as no step"))
    return handles


def _draw_norms(ax: Axes, counts: Sequence[int], steps: Sequence[Step]) -> list[Line2D | Patch]:
    for flow in range(len(counts)):
        here = [s for s in steps if s.flow == flow]
        xs = [number(counts, s.flow, s.step) for s in here]
        lows, middles, highs = np.quantile([s.norms for s in here], (0, 0.5, 1), axis=1)
        ax.vlines(xs, lows, highs, color="black", lw=5, alpha=BAND)
        ax.plot(xs, middles, c="black", lw=1.2, marker="o", ms=4)
    bar = Patch(color="black", alpha=BAND, lw=0, label="least to largest")
    return [Line2D([], [], c="black", lw=1.2, marker="o", ms=4, label="norm of $hf'$"), bar]
