"""The axis of pictures along the depth of a network."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from matplotlib.axes import Axes

from lightning_modules.plotting.style import GREY, font, readable_ticks

LABEL = "step along depth (transitions between flows not counted)"


def number(steps: Sequence[int], flow: int, step: int) -> int:
    """The number of a step in the whole network, from 1.

    Args:
        steps: how many steps each flow has.
        flow: the number of the step's flow, from 0.
        step: its number in this flow, from 0.
    """
    return sum(steps[:flow]) + step + 1


def mark_flows(ax: Axes, steps: Sequence[int]) -> None:
    """Dotted lines between the flows, whose numbers stand on top."""
    begins = [0, *itertools.accumulate(steps)]
    for flow, (begin, end) in enumerate(itertools.pairwise(begins)):
        middle = (begin + 1 + end) / 2
        ax.text(
            middle,
            1.01,
            f"flow {flow + 1}",
            transform=ax.get_xaxis_transform(),
            ha="center",
            color=GREY,
            fontsize=font(9),
        )
        if end < begins[-1]:
            ax.axvline(end + 0.5, color=GREY, ls=":", lw=1)
    ax.set_xlim(0.5, begins[-1] + 0.5)
    readable_ticks(ax.xaxis, whole=True)
