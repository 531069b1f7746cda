"""The learned coefficients of linear multistep along depth."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from architectures.residual import name_of
from lightning_modules.plotting.depth import LABEL, mark_flows, number
from lightning_modules.plotting.runs import labels, read_columns, read_config
from lightning_modules.plotting.style import GREY, Look, legend, look_of, mark, new_figure, tidy
from schemes.base import Scheme
from schemes.errors import SchemenetError
from schemes.registry import SCHEMES

COLUMN = re.compile(r"k/flow(\d+)/step(\d+)")
SHADE = "#009E73"

Place = tuple[int, int]  # flow, step


@dataclass(frozen=True)
class Learned:
    """k of one run by flow and step, as first and as last logged, and the training steps at which that was."""

    label: str
    first: dict[Place, float]
    last: dict[Place, float]
    trained: tuple[int, int]
    zero_stable: tuple[float, float]

    @property
    def steps(self) -> tuple[int, ...]:
        """Steps of each flow. The last step of a flow has a k, but for a flow of one step with no state before it."""
        flows = range(1 + max(flow for flow, _ in self.last))
        return tuple(1 + max((step for f, step in self.last if f == flow), default=0) for flow in flows)


def draw(folders: Sequence[Path]) -> Figure:
    """k_n against the number of the step over the whole network; networks of the same depth share a panel."""
    runs = [_read(folder, label) for folder, label in zip(folders, labels(folders), strict=True)]
    looks = {id(run): look_of(i) for i, run in enumerate(runs)}
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
    values = [k for run in runs for k in (*run.first.values(), *run.last.values())]
    margin = 0.05 * (max(high, *values) - min(low, *values))
    panels[0].set_ylim(min(low, *values) - margin, max(high, *values) + margin)
    handles = [
        Line2D([], [], c=looks[id(run)].colour, ls=looks[id(run)].line, label=_told(run), **_points(looks[id(run)]))
        for run in runs
    ]
    hollow = Look(GREY, "o", "white", ":")
    start = "before training" if all(run.trained[0] == 0 for run in runs) else "as first logged"
    handles.append(Line2D([], [], c=GREY, ls=":", lw=0.8, label=f"hollow: {start}", **_points(hollow)))
    handles.append(Patch(color=SHADE, alpha=0.1, lw=0, label=f"zero-stable: {low:g} < k <= {high:g}"))
    legend(figure, handles)
    figure.suptitle(
        r"Learned $k_n$ in $u_{n+1} = (1 - k_n)\,u_n + k_n\,u_{n-1} + \ldots$ ($k_n = 0$: ResNet)", fontsize=11
    )
    tidy(figure)
    for ax in panels:  # below the grid, which tidy draws
        ax.axhspan(low, high, color=SHADE, alpha=0.1, lw=0, zorder=0)
        ax.axhline(0, color=GREY, lw=0.8, zorder=1)
    return figure


def _read(folder: Path, label: str) -> Learned:
    config = read_config(folder)
    spec = config.get("scheme")
    limits = {c.name: (c.low, c.high) for c in _prepared(spec).coefficients()} if spec else {}
    if "k" not in limits:
        own = f"scheme {name_of(spec)!r}" if spec else f"architecture {name_of(config.get('architecture') or '')!r}"
        having = ", ".join(name for name in SCHEMES if any(c.name == "k" for c in _prepared(name).coefficients()))
        raise SchemenetError(
            f"{folder}: no k is learned with {own} as configured; with its defaults it is by: {having}"
        )
    rows = read_columns(folder, COLUMN)
    if not rows:
        raise SchemenetError(
            f"{folder}: metrics.csv holds no k/flow.../step...; the run has not begun, or is older than their logging"
        )
    (before, first), (after, last) = rows[0], rows[-1]
    return Learned(label, _placed(first), _placed(last), (before, after), limits["k"])


def _prepared(spec: str | dict) -> Scheme:
    scheme = SCHEMES.build(spec)
    scheme.prepare(2)
    return scheme


def _placed(row: dict[str, float]) -> dict[Place, float]:
    found = {tuple(map(int, COLUMN.fullmatch(key).groups())): value for key, value in row.items()}
    return dict(sorted(found.items()))


def _draw(ax: Axes, run: Learned, look: Look) -> None:
    hollow = Look(look.colour, look.marker, "white", ":")
    for flow in range(len(run.steps)):
        for values, style, width in ((run.first, hollow, 0.8), (run.last, look, 1.5)):
            here = {number(run.steps, f, step): k for (f, step), k in values.items() if f == flow}
            ax.plot(list(here), list(here.values()), c=look.colour, ls=style.line, lw=width, **_points(style))


def _points(look: Look) -> dict:
    return mark(look) | {"markersize": 5.5}


def _told(run: Learned) -> str:
    return f"{run.label}, after {run.trained[1]} training steps"
