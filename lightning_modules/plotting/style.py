"""The style of the project's pictures.

Figures are made without pyplot, so nothing global changes and the Agg canvas is used whatever backend is set.
"""

from __future__ import annotations

import itertools
import math
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import numpy as np
from matplotlib import rc_context, rcParams
from matplotlib.artist import Artist
from matplotlib.axis import Axis, XAxis, YAxis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextPath
from matplotlib.ticker import EngFormatter, FuncFormatter, Locator, NullFormatter

from lightning_modules.text import terminal_width

# Okabe and Ito's colours without the yellow, which is too pale on white; black is left for what all are compared with.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#7A4FA3", "#8C5A2B")
MARKERS = "sD^v<>ph*d"
LINES = ("-", "--", ":")
GREY = "#666666"


@dataclass(frozen=True)
class Look:
    """Colour, marker and line of one thing in a whole figure."""

    colour: str
    marker: str
    fill: str
    line: str


def look_of(index: int) -> Look:
    """The look of the index-th thing; colour and line repeat together after 24 of them only."""
    colour = COLOURS[index % len(COLOURS)]
    return Look(colour, MARKERS[index % len(MARKERS)], colour, LINES[index // len(COLOURS) % len(LINES)])


def mark(look: Look) -> dict[str, Any]:
    """A look's marker, as matplotlib's keywords."""
    return {
        "marker": look.marker,
        "markersize": 7.5,
        "markeredgewidth": 1.0 if look.fill == "white" else 0.6,
        "markerfacecolor": look.fill,
        "markeredgecolor": look.colour if look.fill == "white" else "white",  # parts overlapping markers
    }


FONT_SIZE = 10.0
"""The size of the letters for which the sizes of single texts are written down, in points: matplotlib's own default."""

_size: ContextVar[tuple[float, float] | None] = ContextVar("size", default=None)


@contextmanager
def formatted(size: tuple[float, float] | None = None, font_size: float | None = None) -> Iterator[None]:
    """Figures that are drawn inside have another size and other letters.

    Args:
        size: width and height in inches; None leaves each figure its own.
        font_size: of axis labels in points, all other texts in proportion; None for matplotlib's ``font.size``.
    """
    token = _size.set(size)
    try:
        with rc_context({} if font_size is None else {"font.size": font_size}):
            yield
    finally:
        _size.reset(token)


def font(size: float) -> float:
    """The size of a text in points that has ``size`` where the letters have ``FONT_SIZE``."""
    return size * rcParams["font.size"] / FONT_SIZE


def literal(name: str) -> str:
    """A name that others have given as text of a figure, in which no part is a formula."""
    return name.replace("$", r"\$")


def run_name(folder: Path) -> str:
    """The name of a run's folder as text of a figure."""
    return literal(folder.absolute().name)


def new_figure(width: float, height: float) -> Figure:
    """A figure of this size in inches, or of the one that :func:`formatted` names, with constrained layout."""
    figure = Figure(figsize=_size.get() or (width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def caption(text: str) -> None:
    """Print on the error stream a caption that is too long for the picture."""
    print(textwrap.fill(text, min(terminal_width() or 100, 100)), file=sys.stderr)


def tidy(figure: Figure) -> None:
    """No box around the panels, a faint grid behind what is drawn."""
    for ax in figure.axes:
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(alpha=0.25, lw=0.6)
        ax.set_axisbelow(True)


class ReadableTicks(Locator):
    """Ticks at round numbers whose labels do not overlap: as many as there is room for, at most ``most``.

    They are chosen whenever the figure is drawn, when the length of the axis is known.
    """

    GAP = 0.7  # least distance of two labels, in sizes of the letters

    def __init__(self, text: Callable[[float], str], whole: bool = False, most: int = 6) -> None:
        self._text, self._least, self._most = text, 1.0 if whole else 0.0, most

    def __call__(self) -> Sequence[float]:
        assert self.axis is not None
        return self.tick_values(*sorted(self.axis.get_view_interval()))

    def tick_values(self, vmin: float, vmax: float) -> Sequence[float]:
        by_decades = self._drawn_axis().get_scale() == "log" and vmax > 3 * vmin
        choices = [*(_decades(vmin, vmax) if by_decades else ()), *_multiples(vmin, vmax, self._least)]
        fitting = (ticks for ticks in choices if len(ticks) <= self._most and self._apart(ticks, vmin, vmax))
        return next(fitting, [])

    def _drawn_axis(self) -> XAxis | YAxis:
        """The axis; matplotlib's types also allow ones without a picture."""
        return cast(XAxis | YAxis, self.axis)

    def _apart(self, ticks: Sequence[float], vmin: float, vmax: float) -> bool:
        """Whether the labels of these ticks have different words and room between them."""
        axis = self._drawn_axis()
        labels = [self._text(tick) for tick in ticks]
        if len(set(labels)) < len(labels):
            return False
        upright = axis.axis_name == "y"
        ends = axis.get_transform().transform(np.array([vmin, vmax]))
        box = axis.axes.bbox
        length = (box.height if upright else box.width) * 72 / cast(Figure, axis.get_figure(root=True)).dpi  # in points
        places = (axis.get_transform().transform(np.array(ticks)) - ends[0]) / (ends[1] - ends[0]) * length
        size = axis.get_tick_params().get("labelsize", rcParams["ytick.labelsize" if upright else "xtick.labelsize"])
        height = FontProperties(size=size).get_size_in_points()
        sizes = [height if upright else _width(label, height) for label in labels]
        gaps = [b - a - (p + q) / 2 for (a, p), (b, q) in itertools.pairwise(zip(places, sizes, strict=True))]
        return all(gap >= self.GAP * height for gap in gaps)


@lru_cache(4096)
def _width(label: str, size: float) -> float:
    """How wide a line of text is when drawn, in points."""
    xs = TextPath((0, 0), label, prop=FontProperties(size=size)).vertices[:, 0]
    return float(xs.max() - xs.min()) if len(xs) else 0.0


def _decades(low: float, high: float) -> Iterator[list[float]]:
    """Ticks for a logarithmic axis, the densest first: parts of decades, decades, every second decade, ..."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    finest = ((1.0, 1.5, 2.0, 3.0, 5.0, 7.0), (1.0, 2.0, 5.0), (1.0, 3.0))
    choices = [*((parts, 1) for parts in finest), *(((1.0,), apart) for apart in range(1, last - first + 1))]
    for parts, apart in choices:
        decades = range(apart * math.ceil(first / apart), last + 1, apart)
        ticks = [part * 10.0**decade for decade in decades for part in parts]
        ticks = [tick for tick in ticks if low <= tick <= high]
        if len(ticks) > 1:
            yield ticks


def _multiples(low: float, high: float, least: float) -> Iterator[list[float]]:
    """Multiples of 1, 2 or 5 times a power of ten, and of nothing below ``least``, the densest first."""
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        return
    power = 10.0 ** math.floor(math.log10((high - low) / 10))
    for step in (part * scale for scale in (power, 10 * power, 100 * power) for part in (1.0, 2.0, 5.0)):
        if step >= least:
            numbers = range(math.ceil(low / step * (1 - 1e-12)), math.floor(high / step * (1 + 1e-12)) + 1)
            yield [number * step for number in numbers]


def plain(number: float) -> str:
    """A number of an axis without a unit."""
    return f"{number:.10g}"


# Unlike the tables, which round to a decimal: two ticks at 1.2 M and 1.25 M have to read so.
count, in_bytes = EngFormatter(), EngFormatter("B")
in_seconds = EngFormatter("s")


def readable_ticks(axis: Axis, text: Callable[[float], str] = plain, whole: bool = False) -> None:
    """Set labels that do not overlap, on a linear or a logarithmic axis.

    Args:
        axis: of the panel.
        text: of a number.
        whole: whether ticks are whole numbers, for counts.
    """
    axis.set_major_locator(ReadableTicks(text, whole))
    axis.set_major_formatter(FuncFormatter(lambda x, _: text(x)))
    axis.set_minor_formatter(NullFormatter())


def legend(figure: Figure, handles: Sequence[Artist]) -> None:
    """A legend below the panels, in as many columns as the longest label leaves room for."""
    longest = max(len(str(handle.get_label())) for handle in handles)
    columns = int(figure.get_figwidth() / font(0.075 * longest + 0.6))  # inches: of a character, of handle and gap
    columns = min(max(1, columns), len(handles))
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, frameon=False, fontsize=font(9))
