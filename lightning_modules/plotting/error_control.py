"""Error control of a trained network: figure 3 of the Neural ODE paper.

Reference: Chen, Rubanova, Bettencourt, Duvenaud, "Neural Ordinary Differential Equations", NeurIPS 2018,
arXiv:1806.07366, figure 3.
"""

from __future__ import annotations

import copy
import re
import statistics
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch.nn import functional

from architectures.supervised.network import Network
from lightning_modules.plotting.style import GREY, font, look_of, mark, new_figure, readable_ticks, run_name, tidy
from lightning_modules.plotting.supervised import NetworkWithSamples, load_with_samples
from lightning_modules.storage.run_files import read_columns
from lightning_modules.text import Progress
from schemes.errors import SchemenetError
from schemes.gradients.adjoint_ode.backsolve import AdjointDriftWarning
from schemes.registry import GRADIENTS, SCHEMES

IMAGES = 16  # the first of the test set
IN_DOUBLE = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
IN_SINGLE = IN_DOUBLE[:5]  # what the precision of the training resolves
REFERENCE, BEST = 1e-9, "dopri8"
REPETITIONS = 9
MODES = ("checkpoint", "adjoint")


class Solved(NamedTuple):
    """A forward pass at one tolerance: calls of f, and the error of the end state relative to its size."""

    tolerance: float
    nfe: int
    error: float


class Timed(NamedTuple):
    """The median time of the flows' forward pass at one tolerance, relative to the least of all tolerances."""

    tolerance: float
    nfe: int
    time: float


class Both(NamedTuple):
    """Calls of f in a forward and in a backward pass."""

    forward: float
    backward: float


class Course(NamedTuple):
    """Evaluations of f along a training: (epoch, NFE) of single batches, of epoch means and of tests."""

    batches: list[tuple[float, float]]
    epochs: list[tuple[float, float]]
    tests: list[tuple[float, float]]


def draw(folder: Path) -> Figure:
    """Error and time against forward NFE, backward against forward NFE, and NFE against epochs, of one run."""
    run = load_with_samples(folder, IMAGES)
    if (reason := refusal(run.network)) is not None:
        raise SchemenetError(f"{folder}: {reason}")
    figure = new_figure(7.2, 6.4)
    (a, b), (c, d) = figure.subplots(2, 2)
    _draw_errors(a, errors(run))
    _draw_times(b, times(run))
    modes = [mode for mode in MODES if permitted(run.network, mode)]
    _draw_backward(c, {mode: passes(run, mode) for mode in modes}, logged(folder))
    _draw_course(d, course(folder))
    flow = run.network.flows[0]
    rtol, atol = flow.grid.tolerances(training=True)
    figure.suptitle(
        f"{run_name(folder)}: {type(flow.scheme).__name__}, trained at rtol = {rtol:g}, atol = {atol:g}\n"
        f"a, b, c: the trained network on {len(run.labels)} test samples, rtol = atol as marked in a",
        fontsize=font(9),
    )
    tidy(figure)
    return figure


def refusal(network: Network) -> str | None:
    """The reason why a network has no tolerance to vary; None where it has one."""
    if not network.flows:
        return "a network without flows solves nothing"
    if not all(flow.adaptive for flow in network.flows):
        return "its steps were fixed in training, there is no error control to show; expected a run on grid=adaptive"
    return None


# What is measured ----------------------------------------------------------------------------------------------


def at_tolerance(network: Network, tolerance: float) -> Network:
    """A copy of the network, each of its flows solved to rtol = atol = ``tolerance``."""
    network = copy.deepcopy(network)
    for flow in network.flows:
        flow.grid = copy.copy(flow.grid)
        flow.grid.rtol = flow.grid.atol = tolerance
        flow.grid.eval_rtol = flow.grid.eval_atol = None
    return network


def work(network: Network) -> Both:
    """Evaluations of f in the last passes through all flows."""
    forward = sum(flow.forward_counts.evaluations for flow in network.flows)
    return Both(forward, sum(flow.backward_counts.evaluations for flow in network.flows))


@torch.no_grad()
def errors(run: NetworkWithSamples, tolerances: Sequence[float] = IN_DOUBLE) -> list[Solved]:
    """The error at each tolerance in double precision, against the same flows solved by dopri8 to 1e-9.

    Args:
        run: the network, with inputs.
        tolerances: rtol = atol of the flows.
    """
    progress = Progress("solving in double precision at each tolerance, and once by dopri8 for the error")
    best = at_tolerance(run.network, REFERENCE)
    for flow in best.flows:
        flow.scheme = SCHEMES.build(BEST)
    entered = run.network.embed(run.inputs)
    reference, _ = best.stages(entered)
    results = []
    for i, tolerance in enumerate(tolerances):
        progress(i, len(tolerances), "tolerances")
        network = at_tolerance(run.network, tolerance)
        state, _ = network.stages(entered)
        results.append(
            Solved(tolerance, int(work(network).forward), float((state - reference).norm() / reference.norm()))
        )
    return results


@torch.no_grad()
def times(
    run: NetworkWithSamples, tolerances: Sequence[float] = IN_SINGLE, repetitions: int = REPETITIONS
) -> list[Timed]:
    """The time at each tolerance in single precision, from the stem's output to the end of the last flow.

    Args:
        run: the network, with inputs.
        tolerances: rtol = atol of the flows, measured in turn.
        repetitions: of which the median is taken, after one for warming up.
    """
    networks = {tolerance: at_tolerance(run.network, tolerance).float() for tolerance in tolerances}
    entered = run.network.float().embed(run.inputs.float())
    run.network.double()
    seconds: dict[float, list[float]] = {tolerance: [] for tolerance in tolerances}
    progress = Progress("timing forward passes, the tolerances in turn")
    for repetition in range(repetitions + 1):
        progress(repetition, repetitions + 1, "rounds")
        for tolerance, network in networks.items():
            begin = time.perf_counter()
            network.stages(entered)
            if repetition:  # the first warms up
                seconds[tolerance].append(time.perf_counter() - begin)
    medians = {tolerance: statistics.median(taken) for tolerance, taken in seconds.items()}
    least = min(medians.values())
    return [Timed(t, int(work(networks[t]).forward), median / least) for t, median in medians.items()]


def permitted(network: Network, mode: str) -> bool:
    """Whether the gradient mode can differentiate every flow."""
    return all(GRADIENTS.build(mode).unsupported_reason(flow) is None for flow in network.flows)


def passes(run: NetworkWithSamples, mode: str, tolerances: Sequence[float] = IN_SINGLE) -> list[Both]:
    """Evaluations of f of a training step at each tolerance, in single precision.

    Args:
        run: the network, with inputs and labels.
        mode: the name of the gradient mode.
        tolerances: rtol = atol of the flows.
    """
    counts = []
    progress = Progress(f"forward and backward at each tolerance, gradient={mode}")
    for i, tolerance in enumerate(tolerances):
        progress(i, len(tolerances), "tolerances")
        network = at_tolerance(run.network, tolerance).float()
        for flow in network.flows:
            flow.gradient = GRADIENTS.build(mode)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", AdjointDriftWarning)  # as expected at loose tolerances
            functional.cross_entropy(network(run.inputs.float()), run.labels).backward()
        counts.append(work(network))
    return counts


# What the training logged --------------------------------------------------------------------------------------

NFE = re.compile(r"nfe/(forward|backward)(/epoch)?|test/nfe|epoch")


def logged(folder: Path) -> list[Both]:
    """Forward and backward evaluations of f of the logged batches; empty under backprop, which evaluates f no more."""
    rows = [row for _, row in read_columns(folder, NFE)]
    pairs = [Both(row["nfe/forward"], row["nfe/backward"]) for row in rows if "nfe/forward" in row]
    return [pair for pair in pairs if pair.backward]


def course(folder: Path) -> Course:
    """Evaluations of f along the training of a run, from its log."""
    rows = read_columns(folder, NFE)
    ends = [(step, row["epoch"] + 1) for step, row in rows if "nfe/forward/epoch" in row]
    if not ends:
        raise SchemenetError(f"{folder}: its metrics.csv tells of no finished epoch on an adaptive grid")
    length = ends[0][0] / ends[0][1]
    return Course(
        [((step + 1) / length, row["nfe/forward"]) for step, row in rows if "nfe/forward" in row],
        [(row["epoch"] + 0.5, row["nfe/forward/epoch"]) for _, row in rows if "nfe/forward/epoch" in row],
        [(row["epoch"] + 1, row["test/nfe"]) for _, row in rows if "test/nfe" in row],
    )


def power(xs: Sequence[float], ys: Sequence[float]) -> float:
    """The exponent p of the power law y = c x^p that fits best in the logarithms."""
    return float(np.polyfit(np.log(xs), np.log(ys), 1)[0])


# What is drawn -------------------------------------------------------------------------------------------------


def _draw_errors(ax: Axes, results: Sequence[Solved]) -> None:
    nfe, error = [s.nfe for s in results], [s.error for s in results]
    ax.loglog(nfe, error, c=look_of(0).colour, lw=1.2, **mark(look_of(0)))
    for s in results:
        ax.annotate(
            f"{s.tolerance:.0e}".replace("e-0", "e-"),
            (s.nfe, s.error),
            (5, 4),
            textcoords="offset points",
            fontsize=font(7),
        )
    ax.set(ylabel=r"relative error $\|y - y^*\| \,/\, \|y^*\|$ at T")
    over = f"{len(results)} points, {min(nfe)} to {max(nfe)} NFE"
    ax.set_title(
        f"a  error measured to fall as NFE$^{{{power(nfe, error):.1f}}}$ ({over})", loc="left", fontsize=font(8)
    )
    _count_axis(ax, nfe)


def _draw_times(ax: Axes, results: Sequence[Timed]) -> None:
    nfe, relative = [t.nfe for t in results], [t.time for t in results]
    least = min(results, key=lambda t: t.time)
    ends = np.array([min(nfe), max(nfe)])
    ax.loglog(ends, ends / least.nfe, c=GREY, lw=0.9, ls="--", label="proportional to NFE")
    ax.loglog(nfe, relative, c=look_of(1).colour, lw=1.2, label="median of interleaved runs", **mark(look_of(1)))
    ax.set(ylabel="forward time / least")
    exponent = f"NFE$^{{{power(nfe, relative):.2f}}}$"
    ax.set_title(f"b  time measured to grow as {exponent} ({len(results)} points)", loc="left", fontsize=font(8))
    readable_ticks(ax.yaxis)
    ax.legend(frameon=False, fontsize=font(7.5))
    _count_axis(ax, nfe)


def _count_axis(ax: Axes, nfe: Sequence[int]) -> None:
    ax.set_xlim(min(nfe) / 1.15, max(nfe) * 1.35)
    readable_ticks(ax.xaxis, whole=True)
    ax.set_xlabel("NFE forward (calls of f)")


def _draw_backward(ax: Axes, measured: Mapping[str, Sequence[Both]], log: Sequence[Both]) -> None:
    most = max(both.forward for counts in (*measured.values(), log) for both in counts)
    ax.plot([0, most], [0, most], c=GREY, lw=0.9, ls="--", label="as many as forward")
    if log:
        ax.plot([b.forward for b in log], [b.backward for b in log], ls="", marker="o", ms=3, mew=0, alpha=0.5,
                c="black", zorder=3, label="training log")  # fmt: skip
    for row, (mode, counts) in enumerate(measured.items()):
        look = look_of(2 + row)
        low, high = (end(b.backward / b.forward for b in counts) for end in (min, max))
        label = f"{mode}: {low:.2f} to {high:.2f} of forward"
        ax.plot(
            [b.forward for b in counts], [b.backward for b in counts], c=look.colour, lw=1.2, label=label, **mark(look)
        )
    ax.set(xlabel="NFE forward (calls of f)", ylabel="NFE backward (calls of f)")
    ax.set_title("c  backward against forward, measured", loc="left", fontsize=font(8))
    ax.legend(frameon=False, fontsize=font(7.5))


def _draw_course(ax: Axes, nfe: Course) -> None:
    batches, tests = look_of(4), look_of(5)
    ax.plot(
        *zip(*nfe.batches, strict=True),
        ls="",
        marker="o",
        ms=2.5,
        mew=0,
        c=batches.colour,
        alpha=0.4,
        label="training batch",
    )
    ax.plot(
        *zip(*nfe.epochs, strict=True), c="black", lw=1.2, marker="o", ms=4, label="mean of an epoch, at its middle"
    )
    if nfe.tests:
        ax.plot(
            *zip(*nfe.tests, strict=True),
            c=tests.colour,
            lw=1,
            **{**mark(tests), "markersize": 5},
            label="mean of the test set, at an epoch's end",
        )
    first, last = nfe.epochs[0][1], nfe.epochs[-1][1]
    ax.set(xlabel="epoch", ylabel="NFE forward (calls of f)")
    readable_ticks(ax.xaxis, whole=True)
    readable_ticks(ax.yaxis, whole=True)
    ax.set_title(f"d  NFE over the training, epoch means {first:.3g} to {last:.3g}", loc="left", fontsize=font(8))
    ax.legend(frameon=False, fontsize=font(7.5))
