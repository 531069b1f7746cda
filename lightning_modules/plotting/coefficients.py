"""The learned coefficients of linear multistep along depth."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean as mean

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from architectures.arguments import name_of
from lightning_modules.plotting.depth_axis import LABEL, mark_flows, number
from lightning_modules.plotting.style import GREY, Look, font, legend, literal, look_of, mark, new_figure, tidy
from lightning_modules.storage.run_files import labels, read_columns, read_config
from schemes.core.scheme import Scheme
from schemes.errors import SchemenetError
from schemes.registry import SCHEMES

COLUMN = re.compile(r"k/flow(\d+)/step(\d+)")
SHADE = "#009E73"

Place = tuple[int, int]  # flow, step


@dataclass(frozen=True)
class Learned:
    """Learned k by flow and step, first and last logged, and the training steps of these two logs.

    Of several runs of one network the mean; ``between`` are the least and the greatest of the last.
    """

    label: str
    first: dict[Place, float]
    last: dict[Place, float]
    between: dict[Place, tuple[float, float]]
    trained: tuple[int, int]
    zero_stable: tuple[float, float]

    @property
    def steps(self) -> tuple[int, ...]:
        """Steps of each flow. The last step of a flow has a k, but for a flow of one step with no state before it."""
        flows = range(1 + max(flow for flow, _ in self.last))
        return tuple(1 + max((step for f, step in self.last if f == flow), default=0) for flow in flows)


def draw(folders: Sequence[Path]) -> Figure:
    """Learned k_n along depth, a line for each run."""
    runs = [learned([folder], label) for folder, label in zip(folders, labels(folders), strict=True)]
    return figure_of(runs, [look_of(i) for i in range(len(runs))])


def figure_of(runs: Sequence[Learned], looks_of_runs: Sequence[Look]) -> Figure:
    """k_n against the number of the step in the whole network; networks of the same depth share a panel.

    Args:
        runs: the coefficients of each run, or of each arm.
        looks_of_runs: how each of them is drawn.
    """
    looks = {id(run): look for run, look in zip(runs, looks_of_runs, strict=True)}
    depths = list(dict.fromkeys(run.steps for run in runs))
    figure = new_figure(8.4, 1.4 + 3.6 * len(depths))
    panels = figure.subplots(len(depths), 1, sharey=True, squeeze=False)[:, 0]
    for ax, steps in zip(panels, depths, strict=True):
        mark_flows(ax, steps)
        for run in runs:
            if run.steps == steps:
                _draw(ax, run, looks[id(run)])
        ax.set(xlabel=LABEL, ylabel=r"$k_n$")
    low, high = runs[0].zero_stable
    values = [k for run in runs for k in (*run.first.values(), *(k for ends in run.between.values() for k in ends))]
    bottom, top = min(0.0, *values), max(0.0, *values)
    margin = max(0.1 * (top - bottom), 0.02)
    panels[0].set_ylim(bottom - margin, top + margin)
    handles: list[Artist] = [
        Line2D([], [], c=looks[id(run)].colour, ls=looks[id(run)].line, label=_label(run), **_points(looks[id(run)]))
        for run in runs
    ]
    hollow = Look(GREY, "o", "white", ":")
    start = "before training" if all(run.trained[0] == 0 for run in runs) else "as first logged"
    handles.append(Line2D([], [], c=GREY, ls=":", lw=0.8, label=f"hollow: {start}", **_points(hollow)))
    handles.append(Patch(color=SHADE, alpha=0.1, lw=0, label=f"zero-stable: {low:g} < k <= {high:g}"))
    if any((flow, 0) not in run.last for run in runs for flow in range(len(run.steps))):
        handles.append(Line2D([], [], ls="", label="no point: a step without a state before it has no k"))
    legend(figure, handles)
    figure.suptitle(
        r"Learned $k_n$ in $u_{n+1} = (1 - k_n)\,u_n + k_n\,u_{n-1} + \ldots$ ($k_n = 0$: ResNet)", fontsize=font(11)
    )
    tidy(figure)
    for ax in panels:  # below the grid, which tidy draws
        ax.axhspan(low, high, color=SHADE, alpha=0.1, lw=0, zorder=0)
        ax.axhline(0, color=GREY, lw=0.8, zorder=1)
    return figure


def learned(folders: Sequence[Path], label: str) -> Learned:
    """The learned coefficients of runs of one network.

    Args:
        folders: run folders.
        label: for the legend.

    Raises:
        SchemenetError: where a run learns no k, or has not logged it.
    """
    limits = [_limits(folder) for folder in folders]
    logs = [_logged(folder) for folder in folders]
    first, last = ([_placed(rows[at][1]) for rows in logs] for at in (0, -1))
    return Learned(
        label,
        {place: mean(values) for place, values in _by_place(first).items()},
        {place: mean(values) for place, values in _by_place(last).items()},
        {place: (min(values), max(values)) for place, values in _by_place(last).items()},
        (max(rows[0][0] for rows in logs), max(rows[-1][0] for rows in logs)),
        limits[0],
    )


def _limits(folder: Path) -> tuple[float, float]:
    """The range in which a run's scheme is zero-stable."""
    config = read_config(folder)
    spec = config.get("scheme")
    limits = {c.name: (c.low, c.high) for c in _prepared(spec).coefficients()} if spec else {}
    if "k" not in limits:
        architecture = name_of(config.get("architecture") or "")
        configured = f"scheme {name_of(spec)!r}" if spec else f"architecture {architecture!r}"
        having = ", ".join(name for name in SCHEMES if any(c.name == "k" for c in _prepared(name).coefficients()))
        raise SchemenetError(
            f"{folder}: no k is learned with {configured} as configured; with its defaults it is by: {having}"
        )
    return limits["k"]


def _logged(folder: Path) -> list[tuple[int, dict[str, float]]]:
    rows = read_columns(folder, COLUMN)
    if not rows:
        raise SchemenetError(
            f"{folder}: metrics.csv holds no k/flow.../step...; the run has not begun, or is older than their logging"
        )
    return rows


def _by_place(runs: Sequence[dict[Place, float]]) -> dict[Place, list[float]]:
    """The values of all runs at the places that each of them has."""
    return {place: [run[place] for run in runs] for place in runs[0] if all(place in run for run in runs)}


def _prepared(spec: str | dict) -> Scheme:
    scheme = SCHEMES.build(spec)
    scheme.allocate(2)
    return scheme


def _placed(row: dict[str, float]) -> dict[Place, float]:
    places = ((COLUMN.fullmatch(key), value) for key, value in row.items())
    values = {(int(match[1]), int(match[2])): value for match, value in places if match}
    return dict(sorted(values.items()))


def _draw(ax: Axes, run: Learned, look: Look) -> None:
    hollow = Look(look.colour, look.marker, "white", ":")
    for flow in range(len(run.steps)):
        for values, style, width in ((run.first, hollow, 0.8), (run.last, look, 1.5)):
            here = {number(run.steps, f, step): k for (f, step), k in values.items() if f == flow}
            ax.plot(list(here), list(here.values()), c=look.colour, ls=style.line, lw=width, **_points(style))
        ends = {number(run.steps, f, step): ends for (f, step), ends in run.between.items() if f == flow}
        ax.vlines(list(ends), *zip(*ends.values(), strict=True) if ends else ([], []), colors=look.colour, lw=1.2)


def _points(look: Look) -> dict:
    return mark(look) | {"markersize": 5.5}


def _label(run: Learned) -> str:
    return f"{literal(run.label)}, after {run.trained[1]} training steps"
