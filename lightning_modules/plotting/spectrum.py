"""The stability region of a trained network's scheme, and the spectrum of h df/dy of its blocks in it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, LinearSegmentedColormap
from matplotlib.figure import Figure

from lightning_modules.evaluation.jacobian_spectrum import CAPTION, DRAWN, Spectrum, measured
from lightning_modules.plotting.stability import Box, Region, frame_around, locate, outline
from lightning_modules.plotting.style import GREY, Look, caption, font, literal, new_figure, tidy
from lightning_modules.storage.run_files import read_config
from schemes.analysis.stability import refusal
from schemes.core.scheme import Scheme
from schemes.errors import SchemenetError
from schemes.registry import SCHEMES

DEPTH: Colormap = LinearSegmentedColormap.from_list("depth", ["#56B4E9", "#0072B2", "#7A4FA3", "#D55E00", "#8C2D04"])
EDGES = tuple(Look("#222222", "", "", line) for line in ("-", "--"))
COLUMNS = 3


class Panel(NamedTuple):
    """A network: its spectrum where it could be measured, and the regions of its scheme, named below its title."""

    title: str
    spectrum: Spectrum | None
    regions: tuple[tuple[Region, Box | None], ...]
    scheme: str


def draw(folder: Path) -> Figure:
    """The picture of one run, its full caption on the error stream.

    Raises SchemenetError where the spectrum cannot be measured.
    """
    try:
        of_run = measured(folder)
    except SchemenetError as error:
        raise SchemenetError(f"{folder}: {error}") from error
    panel = panel_of(folder.name, read_config(folder).get("scheme"), of_run)
    figure = figure_of([panel])
    figure.supxlabel(DRAWN, fontsize=font(8), color=GREY)
    caption(f"{CAPTION}.")
    return figure


def panel_of(title: str, spec: Any, spectrum: Spectrum | None) -> Panel:
    """The panel of a network.

    Args:
        title: of the panel.
        spec: the scheme as its config names it; None for the architecture's default.
        spectrum: None where it could not be measured.
    """
    schemes, words = _schemes(spec, spectrum)
    return Panel(title, spectrum, tuple(locate(title, scheme) for scheme in schemes), words)


def _schemes(spec: Any, spectrum: Spectrum | None) -> tuple[list[Scheme], str]:
    """The scheme as configured, or frozen at the least and at the greatest coefficient that was learned, in words."""
    if spec is None:
        return [], "a scheme of its own"
    options = {"name": spec} if isinstance(spec, str) else dict(spec)
    scheme, name = SCHEMES.build(options), options["name"]
    if refusal(scheme) is None:
        return [scheme], name
    if spectrum is None or not spectrum.coefficients:
        return [], f"{name}: no stability function"
    coefficient, (low, high) = next(iter(spectrum.coefficients.items()))
    try:
        ends = [SCHEMES.build({**options, coefficient: value}) for value in (low, high)]
    except SchemenetError:  # one has left the range in which the scheme is zero-stable
        return [], f"{name}, {coefficient} from {low:.2g} to {high:.2g}: no region"
    return ends, f"{name}, {coefficient} = {low:.2g} (solid) to {high:.2g} (dashed)"


def figure_of(panels: Sequence[Panel]) -> Figure:
    """A panel for each network, with a colour bar for the depth of the points."""
    columns = min(COLUMNS, len(panels))
    rows = math.ceil(len(panels) / columns)
    width, height = (3.7, 3.4) if columns > 1 else (6.0, 5.3)  # a single panel has the bar at its side
    figure = new_figure(width * columns, height * rows + 0.9)
    axes = figure.subplots(rows, columns, squeeze=False)
    for ax, panel in zip(axes.flat, panels, strict=False):
        _draw(ax, panel)
    for ax in axes.flat[len(panels) :]:
        ax.remove()
    for ax in axes[-1]:
        ax.set_xlabel(r"Re $z$")
    for ax in axes[:, 0]:
        ax.set_ylabel(r"Im $z$")
    tidy(figure)
    if any(panel.spectrum is not None and panel.spectrum.values for panel in panels):
        bar = figure.colorbar(ScalarMappable(cmap=DEPTH), ax=list(figure.axes), shrink=0.5, aspect=30, pad=0.02)
        bar.set_ticks([0, 1], labels=["first\nstep", "last\nstep"])
        bar.outline.set_visible(False)
    title = [r"Stability regions in the plane of $z = h\lambda$,", r"and the spectrum of $h\,\partial f/\partial y$"]
    figure.suptitle(("\n" if len(panels) == 1 else " ").join(title), fontsize=font(11))
    return figure


def _draw(ax: Axes, panel: Panel) -> None:
    boxes = [box for _, box in panel.regions if box is not None]
    values = np.array(panel.spectrum.values if panel.spectrum else [], dtype=np.complex128)
    if len(values):
        boxes.append(Box(values.real.min(), values.real.max(), values.imag.min(), values.imag.max()))
    frame = _square(frame_around(boxes))
    for axis in (ax.axhline, ax.axvline):
        axis(0, color=GREY, lw=0.8)
    for (region, _), look in zip(panel.regions, EDGES, strict=False):
        outline(ax, region, look, frame)
    for block in panel.spectrum.blocks if panel.spectrum else ():
        z = np.array(block.values, dtype=np.complex128)
        ax.scatter(z.real, z.imag, s=9, color=DEPTH(block.depth), alpha=0.75, lw=0, zorder=5)
    ax.set(xlim=frame[:2], ylim=frame[2:], aspect="equal")
    ax.set_title(literal(panel.title), fontsize=font(10), pad=18)
    ax.text(0.5, 1.025, panel.scheme, transform=ax.transAxes, ha="center", fontsize=font(8), color=GREY)


def _square(box: Box) -> Box:
    """The box made as high as it is wide, or as wide as it is high, so that panels have one size."""
    more = (box.right - box.left - box.top + box.bottom) / 2
    wider, higher = max(-more, 0.0), max(more, 0.0)
    return Box(box.left - wider, box.right + wider, box.bottom - higher, box.top + higher)
