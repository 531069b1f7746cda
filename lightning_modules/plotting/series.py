"""Irregular series with the reconstructions and predictions of a trained network."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from architectures.observations import Observations, SeriesBatch
from architectures.series.base import SeriesModel
from architectures.series.latent_variable import Variational
from lightning_modules.data.series.base import SeriesData, TimeScale
from lightning_modules.plotting.style import COLOURS, GREY, font, legend, literal, new_figure, run_name
from lightning_modules.training.loading import load_run

SHOWN, CHANNELS = 6, 3
"""Series in the plane; of more channels half as many series, with so many of their channels."""

SAMPLES, SHARE = 100, 0.9
"""Draws from the posterior, and the share of them that a band holds."""

PATHS = 25
"""Samples of the posterior that are drawn in the plane."""

DENSE = 400

FURTHER = 1.25
"""How many times the last time predictions reach, where the targets end at the last observation."""

FIT, AHEAD, TRUTH = COLOURS[0], COLOURS[1], "#AAAAAA"


class Answer(NamedTuple):
    """The prediction for one series: ``times``, the ``mean`` (times, channels), and samples of it or None.

    ``shown`` and ``targets`` are times, values and mask of the observations and of the targets; ``last`` is the time of
    the last observation. A prediction is not meaningful before ``begins``: there was no observation yet, or training
    had no such targets.
    """

    times: np.ndarray
    mean: np.ndarray
    samples: np.ndarray | None
    shown: tuple[np.ndarray, np.ndarray, np.ndarray]
    targets: tuple[np.ndarray, np.ndarray, np.ndarray]
    last: float
    begins: float


def draw(folder: Path) -> Figure:
    """The first test series: in the plane if two channels are always observed together, else over time."""
    network, data, description = _load(folder)
    batch = data.first(SHOWN)
    plane = len(data.channels) == 2 and all(every_channel_known(points) for points in batch[:2])
    shown = len(batch.observed.values) if plane else min(SHOWN // 2, len(batch.observed.values))
    answers = [answer(network, batch, i, _reconstructs(data)) for i in range(shown)]
    figure = _in_the_plane(answers, data.channels) if plane else _over_time(answers, data)
    _explain(figure, network, answers, plane)
    figure.suptitle(f"Test series of {description}, run {run_name(folder)}", fontsize=font(9))
    return figure


def every_channel_known(points: Observations) -> bool:
    """Whether no point of any series lacks a channel."""
    return bool((points.mask.amin(2) == points.mask.amax(2)).all())


def _reconstructs(data: SeriesData) -> bool:
    """Whether training has targets at observed times as well, and not later ones alone."""
    assert data.train_set is not None
    batch = data.train_set[torch.arange(1)]
    return bool(batch.targets.times[0] < batch.observed.times[-1])


def _load(folder: Path) -> tuple[SeriesModel, SeriesData, str]:
    """A run's network in evaluation mode and double precision, its data set, and a description of both."""
    run = load_run(folder, SeriesModel)
    return run.network.double().eval(), run.test_data(SeriesData), run.description


@torch.no_grad()
def answer(network: SeriesModel, batch: SeriesBatch, i: int, reconstructs: bool = True) -> Answer:
    """The prediction for one series of a batch.

    Args:
        network: in evaluation mode.
        batch: of the test set.
        i: the number of the series.
        reconstructs: whether training has targets at observed times.

    Returns:
        The prediction at many times where the times are independent of each other, else at the series' times alone.
    """
    shown, targets = (_one_series(points, i) for points in (batch.observed, batch.targets))
    times = torch.cat((shown.times, targets.times)).unique()
    if network.independent_times:
        end = float(times[-1]) * (1.0 if times[-1] > shown.times[-1] else FURTHER)
        times = torch.cat((times, torch.linspace(0, end, DENSE, dtype=times.dtype))).unique()
    blank = torch.zeros(1, len(times), shown.values.shape[2], dtype=times.dtype)
    query = SeriesBatch(shown, Observations(times, blank, torch.ones_like(blank)))
    mean = network.predict(query).values[0, 0].numpy()
    samples = None
    if isinstance(network, Variational):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            samples = network.predict(query, samples=SAMPLES).values[:, 0].numpy()
    last, begins = float(shown.times[-1]), float(shown.times[0])
    if samples is not None:
        begins = -np.inf if reconstructs else last
    return Answer(times.numpy(), mean, samples, _arrays(shown), _arrays(targets), last, begins)


def _arrays(points: Observations) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Times, values and mask of the only series."""
    times, values, mask = (part.squeeze(0).numpy() for part in points)
    return times, values, mask


def _one_series(points: Observations, i: int) -> Observations:
    """One series alone, in double precision."""
    present = points.mask[i].any(1)
    values, mask = (part[i : i + 1, present].double() for part in points[1:])
    return Observations(points.times[present].double(), values, mask)


# What is drawn -------------------------------------------------------------------------------------------------


def _in_the_plane(answers: list[Answer], names: Sequence[str]) -> Figure:
    figure = new_figure(8.4, 6.2)
    panels = figure.subplots(2, SHOWN // 2)
    for ax in panels[-1]:
        ax.set_xlabel(literal(names[0]), fontsize=font(8))
    for ax in panels[:, 0]:
        ax.set_ylabel(literal(names[1]), fontsize=font(8))
    for ax, one in zip(panels.flat, answers, strict=False):
        behind, within = _sides(one)
        if (one.targets[0] > one.last).any():
            ax.plot(*one.targets[1].T, c=TRUTH, lw=5, solid_capstyle="round", zorder=1)
        for path in one.samples[:PATHS] if one.samples is not None else ():
            ax.plot(*path[behind].T, c=AHEAD, lw=0.5, alpha=0.3, zorder=2)
        ax.plot(*one.mean[within].T, c=FIT, lw=1.6, zorder=4)
        ax.plot(*one.mean[behind].T, c=AHEAD, lw=1.6, zorder=4)
        ax.plot(*one.shown[1].T, ls="", marker="o", ms=3, c="black", mec="white", mew=0.3, zorder=5)
        ax.set_aspect("equal", adjustable="datalim")
        ax.set_title(f"RMSE {_error(one):.3g}", loc="left", fontsize=font(8))
        ax.tick_params(labelsize=font(7))
        ax.spines[["top", "right"]].set_visible(False)
    return figure


def _over_time(answers: list[Answer], data: SeriesData) -> Figure:
    counts = sum(one.shown[2].sum(0) + one.targets[2].sum(0) for one in answers)
    chosen = np.argsort(-counts, kind="stable")[:CHANNELS]
    figure = new_figure(9.0, 2.1 * len(answers) + 0.6)
    panels = figure.subplots(len(answers), len(chosen), squeeze=False, sharex=True)
    for row, one in zip(panels, answers, strict=True):
        for ax, channel in zip(row, chosen, strict=True):
            _channel(ax, one, int(channel), data.time_scale)
    for ax, channel in zip(panels[0], chosen, strict=True):
        ax.set_title(literal(data.channels[channel]), loc="left", fontsize=font(9))
    for ax in panels[-1]:
        ax.set_xlabel(data.time_scale.label, fontsize=font(8))
    figure.supylabel(f"value, in {data.unit}" if data.unit else "value", fontsize=font(8))
    return figure


def _channel(ax: Axes, one: Answer, channel: int, scale: TimeScale) -> None:
    def place(times: np.ndarray) -> np.ndarray:
        return scale.begin + scale.length * times

    behind, within = _sides(one)
    for part, colour in ((within, FIT), (behind, AHEAD)):
        if one.samples is not None and part.any():
            tail = (1 - SHARE) / 2
            low, high = np.quantile(one.samples[:, part, channel], (tail, 1 - tail), axis=0)
            ax.fill_between(place(one.times[part]), low, high, color=colour, alpha=0.2, lw=0, zorder=1)
        ax.plot(place(one.times[part]), one.mean[part, channel], c=colour, lw=1.3, zorder=3)
    looks: tuple[dict[str, Any], ...] = ({"mfc": "white", "mec": GREY}, {"c": "black"})
    for (times, values, mask), look in zip((one.targets, one.shown), looks, strict=True):
        here = mask[:, channel] > 0
        ax.plot(place(times[here]), values[here, channel], ls="", marker="o", ms=3, zorder=4, **look)
    ax.tick_params(labelsize=font(7))
    ax.spines[["top", "right"]].set_visible(False)


def _sides(one: Answer) -> tuple[np.ndarray, np.ndarray]:
    """The times after the last observation, and those before, as masks."""
    return one.times >= one.last, (one.times > one.begins) & (one.times <= one.last)


def _error(one: Answer) -> float:
    """The root mean square error over the targets of a series."""
    _, values, mask = one.targets
    mean = one.mean[np.searchsorted(one.times, one.targets[0])]
    return float(np.sqrt((mask * (mean - values) ** 2).sum() / mask.sum()))


def _explain(figure: Figure, network: SeriesModel, answers: list[Answer], plane: bool) -> None:
    ahead = any((one.times > one.last).any() for one in answers)
    handles: list[Artist] = [Line2D([], [], ls="", marker="o", ms=4, c="black", label="observed")]
    kind = "reconstruction" if isinstance(network, Variational) else "one step ahead"
    if any(one.begins < one.last for one in answers):
        handles.append(Line2D([], [], c=FIT, lw=1.6, label=kind))
    if ahead:
        handles.append(Line2D([], [], c=AHEAD, lw=1.6, label="after the last observation"))
    if any((one.targets[0] > one.last).any() for one in answers):
        look = {"c": TRUTH, "lw": 5} if plane else {"ls": "", "marker": "o", "mfc": "white", "mec": GREY, "ms": 4}
        handles.append(Line2D([], [], label="target", **look))  # type: ignore[arg-type]
    if answers[0].samples is not None:
        drawn = f"{PATHS} draws" if plane else f"{SHARE:.0%} of {SAMPLES} draws"
        handles.append(Patch(color=AHEAD if ahead else FIT, alpha=0.3, label=f"{drawn} from the posterior"))
    legend(figure, handles)
