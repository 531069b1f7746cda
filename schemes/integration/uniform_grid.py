"""The uniform grid: a given number of equal steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from schemes.core.node import Node
from schemes.core.scheme import Scheme
from schemes.core.state import VectorField
from schemes.errors import SchemenetError
from schemes.integration.fixed_steps import FixedGrid, Interpolation
from schemes.integration.grid import FlowGrid
from schemes.integration.loop import FieldOwner, Loop
from schemes.integration.visited_nodes import visited
from schemes.registry import GRIDS

MOST_STEPS = 10_000
"""Steps of a flow in a network: beyond it no memory holds their nodes and weights."""


@GRIDS.register("uniform")
class UniformGrid(FixedGrid, FlowGrid):
    """``steps`` equal steps over [0, time].

    Args:
        steps: number of steps; None: the number that the architecture's depth gives.
        time: T; None: h = 1, the convention of the papers, in which the step size is absorbed in f.
    """

    interpolation: Interpolation = "cubic"

    def __init__(self, steps: int | None = None, time: float | None = None) -> None:
        if steps is not None and steps < 1:
            raise SchemenetError(f"grid 'uniform': steps expected to be at least 1, got {steps}")
        if time is not None and not time > 0:
            raise SchemenetError(f"grid 'uniform': time expected to be positive, got {time}")
        self.steps, self.time = steps, time

    def nodes(self, steps: int) -> tuple[Node, ...]:
        n = self.steps or steps
        if n < 1:
            raise SchemenetError(f"grid 'uniform': steps expected to be at least 1, got {n}")
        if n > MOST_STEPS:
            raise SchemenetError(f"a flow of a network takes at most {MOST_STEPS:,} steps, got {n:,}")
        h = 1.0 if self.time is None else self.time / n
        return tuple(Node(step, step * h, h) for step in range(n))

    def nodes_over(self, times: Sequence[float]) -> tuple[Node, ...]:
        if (reason := self.unsupported_ivp_reason()) is not None:
            raise SchemenetError(reason)
        assert self.steps is not None
        h = (times[-1] - times[0]) / self.steps
        return tuple(Node(step, times[0] + step * h, h) for step in range(self.steps))

    def unsupported_ivp_reason(self) -> str | None:
        if self.steps is None or self.time is not None:
            return "grid 'uniform' along given times: expected steps, and no time (the output times say it)"
        return None

    def visits(self, scheme: Scheme, nodes: Sequence[Node]) -> tuple[Node, ...]:
        return tuple(visited(scheme, nodes))

    def flow_loop(
        self, scheme: Scheme, f: VectorField, nodes: Sequence[Node], owner: FieldOwner, training: bool, **options: Any
    ) -> Loop:
        return Loop(scheme, f, nodes, owner, **options)

    def end_time(self, nodes: Sequence[Node]) -> float:
        return len(nodes) * nodes[0].h

    def described(self, nodes: Sequence[Node]) -> tuple[int | None, float | str]:
        return (len(nodes), nodes[0].h) if nodes else (self.steps, f"span / {self.steps}")


def reversed_nodes(nodes: tuple[Node, ...]) -> tuple[Node, ...]:
    """The same steps walked from the end to the beginning: step indices stay, h changes its sign."""
    return tuple(Node(node.step, node.t + node.h, -node.h) for node in reversed(nodes))
