"""The best control of a problem: states, control and Hamiltonian over time."""

from __future__ import annotations

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from torch import Tensor

from lightning_modules.plotting.style import GREY, font, legend, literal, look_of, new_figure, tidy
from schemes.control.problem import ControlProblem
from schemes.control.solve import ControlSolution

ROWS = 8
"""Initial states whose paths are drawn."""
FINE = 801
"""Times at which the control is drawn."""


def draw(solution: ControlSolution, problem: ControlProblem) -> Figure:
    """A panel each for the states, the control and the Hamiltonian."""
    figure = new_figure(7.2, 6.6)
    states, controls, energy = figure.subplots(3, 1, sharex=True, height_ratios=(3, 2, 1.4))
    times = solution.times.numpy(force=True)
    for row in range(min(ROWS, solution.states.shape[1])):
        _lines(states, times, solution.states[:, row])
    fine = np.linspace(0, solution.end_time, FINE)
    _lines(controls, fine, torch.stack([solution.control_at(float(t)) for t in fine]))
    for bound in {float(end) for ends in problem.bounds() for end in ends if end.isfinite()}:
        controls.axhline(bound, color=GREY, lw=0.8, ls=":")
    energy.plot(times[:-1], solution.hamiltonian.numpy(force=True), c="black", lw=1.2)
    energy.axhline(0, color=GREY, lw=0.8)
    for ax, label in ((states, "$x$"), (controls, "$u$"), (energy, r"$H = a \cdot f + L$")):
        ax.set_ylabel(label)
        ax.spines[["top", "right"]].set_visible(False)
    energy.set_xlabel("$t$")
    parts = max(solution.states.shape[2], solution.controls.shape[1])
    legend(figure, [Line2D([], [], c=look_of(i).colour, label=f"component {i}") for i in range(parts)])
    name = type(problem).__name__
    figure.suptitle(literal(f"{name}: cost {solution.cost:.6g}, T = {solution.end_time:.6g}"), fontsize=font(11))
    tidy(figure)
    return figure


def _lines(ax: Axes, times: np.ndarray, values: Tensor) -> None:
    """Each component over time; values (times, components)."""
    for i, component in enumerate(values.T.numpy(force=True)):
        ax.plot(times, component, c=look_of(i).colour, lw=1.4)
