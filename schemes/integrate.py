"""A scheme stepped over a uniform grid, for tests, plots and analysis."""

from __future__ import annotations

from schemes.base import Scheme
from schemes.grid import UniformGrid
from schemes.state import RightHandSide, State


def integrate(scheme: Scheme, f: RightHandSide, y: State, time: float, steps: int) -> State:
    """y(time) of y' = f(node, y), y(0) = y, after ``steps`` equal steps."""
    scheme.prepare(steps)
    memory = scheme.start(y)
    for node in UniformGrid(time=time).nodes(steps):
        y, memory = scheme.step(f, node, y, memory)
    return y
