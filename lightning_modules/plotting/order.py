"""Measured order: the error against the step size, with the slope that each scheme declares."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullLocator

from lightning_modules.plotting.style import font, legend, look_of, mark, new_figure, tidy
from schemes.analysis.reference_problems import FLOOR, TIME, error
from schemes.core.scheme import Scheme

STEPS = (16, 32, 64, 128, 256, 512)
OFFSET = 0.55  # where a declared slope is drawn, as a multiple of the error


@dataclass(frozen=True)
class Convergence:
    """Errors of a scheme by step size; ``slope`` between the two smallest errors that are more than rounding."""

    label: str
    order: int | None
    problem: str
    h: tuple[float, ...]
    errors: tuple[float, ...]

    @property
    def used(self) -> list[tuple[float, float]]:
        """The two smallest steps whose error is a number and no rounding, the larger first."""
        return [(h, e) for h, e in zip(self.h, self.errors, strict=True) if e > FLOOR][-2:]

    @property
    def slope(self) -> float | None:
        if len(self.used) < 2:
            return None
        (h, e), (finer, smaller) = self.used
        return math.log(e / smaller) / math.log(h / finer)

    def describe(self) -> str:
        """The legend's line."""
        kind = {"linear": " (linear problem)", "separable": " (separable system)"}.get(self.problem, "")
        declared = "no order declared" if self.order is None else f"order {self.order}"
        measured = "not measured" if self.slope is None else f"measured {self.slope:.2f}"
        return f"{self.label}: {declared}{kind}, {measured}"


def measure(label: str, scheme: Scheme) -> Convergence:
    """The errors of a scheme on the problem for which its order is stated, without those that overflow.

    Args:
        label: for the legend.
        scheme: to be measured.
    """
    with torch.random.fork_rng(devices=[]):
        errors = []
        for steps in STEPS:
            torch.manual_seed(0)  # learnable coefficients are drawn again for each number of steps
            errors.append((TIME / steps, error(scheme, steps)))
    finite = [(h, e) for h, e in errors if math.isfinite(e)]
    return Convergence(label, scheme.order, scheme.problem, tuple(h for h, _ in finite), tuple(e for _, e in finite))


def draw(schemes: Mapping[str, Scheme]) -> Figure:
    """Error at the end against h, both logarithmic; a thin line at each curve has the declared slope."""
    curves = [measure(label, scheme) for label, scheme in schemes.items()]
    figure = new_figure(7.6, 6.4)
    ax = figure.subplots()
    handles = []
    for i, curve in enumerate(curves):
        look = look_of(i)
        points: dict[str, Any] = mark(look) | {"markersize": 6}
        ax.plot(curve.h, curve.errors, c=look.colour, ls=look.line, lw=1.5, **points)
        handles.append(Line2D([], [], c=look.colour, ls=look.line, label=curve.describe(), **points))
        if curve.order is not None and curve.used:
            h, e = curve.used[-1]
            xs = (curve.h[0], curve.h[-1])
            ax.plot(xs, [OFFSET * e * (x / h) ** curve.order for x in xs], c=look.colour, lw=0.7)
    if any(curve.order is not None for curve in curves):
        handles.append(Line2D([], [], c="black", lw=0.7, label="thin: the declared slope"))
    ax.set(xscale="log", yscale="log", xlabel=r"step size $h$", ylabel=f"error at $t$ = {TIME:g}, Euclidean norm")
    ax.set_xticks([TIME / n for n in STEPS], [f"1/{n / TIME:g}" for n in STEPS])
    ax.xaxis.set_minor_locator(NullLocator())
    legend(figure, handles)
    figure.suptitle(_title(curves), fontsize=font(11))
    tidy(figure)
    return figure


def _title(curves: Sequence[Convergence]) -> str:
    pendulum = r"the forced pendulum $u'' = -\sin u + \frac{1}{2}\cos 2t$"
    linear = r"linear: $u' = A(t)\,u$"
    kinds = {curve.problem == "linear" for curve in curves}
    where = linear if kinds == {True} else pendulum + (f"\n({linear})" if True in kinds else "")
    return f"Order of convergence on {where}"
