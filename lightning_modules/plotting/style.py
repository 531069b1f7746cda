"""How the project's pictures look.

Figures are made without pyplot, so nothing global changes and the Agg canvas is used whatever backend is set.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.artist import Artist
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter

# Okabe and Ito's colours without the yellow, which is too pale on white; black is left for what all are compared with.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#7A4FA3", "#8C5A2B")
MARKERS = "sD^v<>ph*d"
LINES = ("-", "--", ":")
GREY = "#666666"


@dataclass(frozen=True)
class Look:
    """How one thing is drawn everywhere in a figure."""

    colour: str
    marker: str
    fill: str
    line: str


def look_of(index: int) -> Look:
    """Colour, marker and line of the index-th thing; only after 24 of them do colour and line come again together."""
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


def new_figure(width: float, height: float) -> Figure:
    """A figure of so many inches whose parts make room for one another."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def tidy(figure: Figure) -> None:
    """No box around the panels, a faint grid behind what is drawn."""
    for ax in figure.axes:
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(alpha=0.25, lw=0.6)
        ax.set_axisbelow(True)


def log_ticks(axis: Axis, low: float, high: float, told: Callable[[float], str]) -> None:
    """Plain numbers on a logarithmic axis, the fewer the more decades it spans."""
    # The first choice with two ticks at least; with one alone matplotlib would fill in linear ones, label over label.
    choices = ((1.0,), (1.0, 3.0), (1.0, 2.0, 5.0), (1.0, 1.5, 2.0, 3.0, 5.0, 7.0))
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for subs in choices[0 if high > 300 * low else 1 if high > 15 * low else 2 :]:
        ticks = [sub * 10.0**decade for decade in decades for sub in subs if low <= sub * 10.0**decade <= high]
        if len(ticks) > 1:
            break
    axis.set_major_locator(FixedLocator(ticks))
    axis.set_major_formatter(plain(told))
    axis.set_minor_formatter(NullFormatter())


def plain(told: Callable[[float], str]) -> FuncFormatter:
    """Tick labels as the tables write numbers, without a needless ".0"."""
    return FuncFormatter(lambda x, _: re.sub(r"\.0+(?=\s|$)", "", told(x)))


def legend(figure: Figure, handles: Sequence[Artist]) -> None:
    """Below the panels, so that it covers nothing, in as many columns as the longest label leaves room for."""
    longest = max(len(str(handle.get_label())) for handle in handles)
    columns = int(figure.get_figwidth() / (0.075 * longest + 0.6))  # inches: of a character, of handle and gap
    columns = min(max(1, columns), len(handles))
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, frameon=False, fontsize=9)
