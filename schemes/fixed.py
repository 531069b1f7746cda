"""Steps at given times, and states between them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal

from schemes.interpolation import hermite
from schemes.loop import Carry, Loop, Pass
from schemes.node import Node
from schemes.state import RightHandSide, State, lerp

Interpolation = Literal["cubic", "linear"]
TOLERANCE = 1e-9
"""How near, in steps, an output time must be to the end of a step to be taken for it."""


@dataclass
class FixedSteps(Loop):
    """A loop over steps that are known beforehand, with the states at output times.

    ``thetas`` are the output times in each step, as fractions of it; 1 is its very end. Between the ends of a step the
    state is the cubic through both with their slopes (two more evaluations of f), or the straight line.
    """

    thetas: Sequence[tuple[float, ...]] = field(default_factory=list)
    interpolation: Interpolation = "cubic"

    def advance(self, node: Node, carry: Carry, f: RightHandSide) -> Pass:
        taken = super().advance(node, carry, f)
        thetas = self.thetas[node.step]
        if not thetas:
            return taken
        y0, y1 = carry[0], taken.carry[0]
        slopes: tuple[State, State] | None = None
        if self.interpolation == "cubic" and any(theta != 1 for theta in thetas):
            slopes = f(node, y0), f(Node(node.step, node.t + node.h, node.h), y1)
        return taken._replace(outputs=tuple(_between(theta, node.h, y0, y1, slopes) for theta in thetas))

    def collected(self, y: State, outputs: Sequence[State]) -> list[State]:
        """The states at the output times, from ``outputs`` of the walk; ``y`` is the first."""
        return [y, *outputs]

    def by_step(self, outputs: Sequence[Any]) -> list[tuple[Any, ...]]:
        rest = iter(outputs)
        return [tuple(next(rest) for _ in thetas) for thetas in self.thetas]


def _between(theta: float, h: float, y0: State, y1: State, slopes: tuple[State, State] | None) -> State:
    if theta == 1:
        return y1
    return lerp(y0, y1, theta) if slopes is None else hermite(theta, h, y0, y1, *slopes)


def nodes_at(times: Sequence[float]) -> list[Node]:
    """The steps from each of these times to the next."""
    return [Node(i, a, b - a) for i, (a, b) in enumerate(pairwise(times))]


def thetas_of(nodes: Sequence[Node], times: Sequence[float]) -> list[tuple[float, ...]]:
    """For each step the output times in it, but for the first one (the start), as fractions of it."""
    found: list[list[float]] = [[] for _ in nodes]
    step = 0
    for t in times[1:]:
        while step + 1 < len(nodes) and (t - nodes[step].t) / nodes[step].h > 1 + TOLERANCE:
            step += 1
        theta = (t - nodes[step].t) / nodes[step].h
        found[step].append(1.0 if abs(theta - 1) <= TOLERANCE else theta)
    return [tuple(thetas) for thetas in found]
