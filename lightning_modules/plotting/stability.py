"""Stability regions, several schemes overlaid."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from lightning_modules.plotting.style import GREY, Look, font, legend, look_of, new_figure, tidy
from schemes.analysis.stability import amplification, refusal, stability_intervals
from schemes.core.scheme import Scheme
from schemes.errors import SchemenetError
from schemes.registry import SCHEMES

WINDOW = 10.0  # regions are looked for with |Re z|, |Im z| below it
COARSE, FINE = 161, 401  # points along a side: to find the extent, and to draw
FILLED = 2  # fills of more regions mix to a colour of none of them
STYLES = ("-", "--", "-.", ":")
INTERIOR = 1e-6  # inside a region solutions decay


class Box(NamedTuple):
    """A rectangle of the complex plane."""

    left: float
    right: float
    bottom: float
    top: float

    def grid(self, points: int) -> NDArray[np.complex128]:
        """So many points along the longer side, the rows along the imaginary axis."""
        width, height = self.right - self.left, self.top - self.bottom
        spacing = max(width, height) / (points - 1)
        x = np.linspace(self.left, self.right, round(width / spacing) + 1)
        y = np.linspace(self.bottom, self.top, round(height / spacing) + 1)
        return x + 1j * y[:, None]


class Region(NamedTuple):
    """A scheme and its part of the plane: with an interior, or a segment [-i end, i end] of the imaginary axis."""

    label: str
    scheme: Scheme
    end: float | None = None
    outside: bool = False
    """Whether it is the part outside of its curve."""


def draw(schemes: Mapping[str, Scheme]) -> Figure:
    """Where every step of u' = lambda u multiplies by at most 1.

    Raises:
        SchemenetError: with the names of the schemes that have no such region.
    """
    reasons = {label: refusal(scheme) for label, scheme in schemes.items()}
    if any(reasons.values()):
        wrong = [f"{label} has no stability function: {reason}" for label, reason in reasons.items() if reason]
        having = ", ".join(name for name in SCHEMES if refusal(SCHEMES.build(name)) is None)
        raise SchemenetError("\n".join([*wrong, f"schemes that have one: {having}"]))
    located = [locate(label, scheme) for label, scheme in schemes.items()]
    regions = [region for region, _ in located]
    boxes = [box for _, box in located if box is not None]
    frame = frame_around(boxes)
    figure = new_figure(7.2, 7.2)
    ax = figure.subplots()
    for axis in (ax.axhline, ax.axvline):
        axis(0, color=GREY, lw=0.8)
    looks = [replace(look_of(i), line=STYLES[i % len(STYLES)]) for i in range(len(regions))]
    for region, look in zip(regions, looks, strict=True):
        outline(ax, region, look, frame, filled=len(regions) <= FILLED)
    ax.set(xlim=frame[:2], ylim=frame[2:], aspect="equal", xlabel=r"Re $z$", ylabel=r"Im $z$")
    handles = [Line2D([], [], c=look.colour, ls=look.line, lw=_width(region), label=_label(region))
               for region, look in zip(regions, looks, strict=True)]  # fmt: skip
    legend(figure, handles)
    figure.suptitle(
        r"Stability regions: $|$amplification$| \leq 1$ for $u' = \lambda u$, $z = h\lambda$", fontsize=font(11)
    )
    tidy(figure)
    return figure


def locate(label: str, scheme: Scheme) -> tuple[Region, Box | None]:
    """A scheme's part of the plane, with the box of its boundary; the box is None where that is unbounded."""
    z = Box(-WINDOW, WINDOW, -WINDOW, WINDOW).grid(COARSE)
    if scheme.components > 1 or not ((factors := amplification(scheme, z)) < 1 - INTERIOR).any():
        end = stability_intervals(scheme).imaginary or 0.0
        return Region(label, scheme, end), Box(0.0, 0.0, -end, end) if math.isfinite(end) else None
    stable = factors <= 1
    for part in (stable, ~stable):  # the exterior of a disc is stable for backward Euler: then the disc is bounded
        if part.any() and not (part[0].any() or part[-1].any() or part[:, 0].any() or part[:, -1].any()):
            inside = z[part]
            box = Box(inside.real.min(), inside.real.max(), inside.imag.min(), inside.imag.max())
            return Region(label, scheme, outside=part is not stable), box
    return Region(label, scheme), None


def frame_around(boxes: Sequence[Box]) -> Box:
    """Around all boundaries with a margin; the neighbourhood of zero where all are unbounded."""
    if not boxes:
        return Box(-4.0, 4.0, -4.0, 4.0)
    left, right = min(b.left for b in boxes), max(b.right for b in boxes)
    height = max(b.top for b in boxes)
    margin = 0.12 * max(right - left, 2 * height, 1.0)
    left = min(left, right - 0.9 * height)  # no slit where segments of the imaginary axis are the largest
    return Box(left - margin, right + margin, -height - margin, height + margin)


def outline(ax: Axes, region: Region, look: Look, frame: Box, filled: bool = True) -> None:
    """Draw the region within a frame.

    Args:
        ax: the axes.
        region: of the scheme; a segment of the imaginary axis is drawn as a line.
        look: of its boundary.
        frame: the part of the plane that is drawn.
        filled: whether the region has a faint fill.
    """
    if region.end is not None:
        end = min(region.end, 2 * frame.top)
        above = 3 + 1 / (1 + end)  # a shorter segment lies on a longer one
        ax.plot([0, 0], [-end, end], c=look.colour, ls=look.line, lw=_width(region), marker="_", ms=9, zorder=above)
        return
    z = frame.grid(FINE)
    factors = np.minimum(amplification(region.scheme, z), 2)  # at poles it is infinite
    if filled:
        ax.contourf(z.real, z.imag, factors, levels=[0, 1], colors=[look.colour], alpha=0.1)
    ax.contour(z.real, z.imag, factors, levels=[1], colors=[look.colour], linestyles=[look.line], linewidths=1.6)


def _width(region: Region) -> float:
    return 1.6 if region.end is None else 3.5


def _label(region: Region) -> str:
    if region.end is None:
        return f"{region.label}: stable OUTSIDE its curve" if region.outside else region.label
    where = rf"$|$Im$\, z| \leq {region.end:.3g}$" if region.end else "$z = 0$"
    if region.scheme.components > 1:
        return rf"{region.label}: coupled; the oscillator, $z = \pm i h \omega$: {where}"
    return f"{region.label}: only {where} on the imaginary axis"
