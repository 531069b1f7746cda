"""At which times a flow is stepped. The scheme never decides this."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from torch import nn

from schemes.core.node import Node
from schemes.errors import SchemenetError
from schemes.integration.loop import Loop
from schemes.integration.visited_nodes import visited
from schemes.registry import GRIDS

if TYPE_CHECKING:
    from schemes.core.scheme import Scheme


MOST_STEPS = 10_000
"""Steps of a flow in a network: beyond it no memory holds their nodes and weights."""


@GRIDS.register("uniform")
class UniformGrid:
    """``steps`` equal steps over [0, time].

    ``steps`` None takes what the architecture's depth asks for; ``time`` None means h = 1, the convention of the
    papers, in which the step size is absorbed in f.
    """

    interpolation: Literal["cubic", "linear"] = "cubic"

    def __init__(self, steps: int | None = None, time: float | None = None) -> None:
        if steps is not None and steps < 1:
            raise SchemenetError(f"grid 'uniform': steps expected to be at least 1, got {steps}")
        if time is not None and not time > 0:
            raise SchemenetError(f"grid 'uniform': time expected to be positive, got {time}")
        self.steps, self.time = steps, time

    def nodes(self, steps: int) -> tuple[Node, ...]:
        """The step nodes of a flow whose architecture asks for ``steps`` steps."""
        n = self.steps or steps
        if n < 1:
            raise SchemenetError(f"grid 'uniform': steps expected to be at least 1, got {n}")
        if n > MOST_STEPS:
            raise SchemenetError(f"a flow of a network takes at most {MOST_STEPS:,} steps, got {n:,}")
        h = 1.0 if self.time is None else self.time / n
        return tuple(Node(step, step * h, h) for step in range(n))

    def nodes_over(self, times: Sequence[float]) -> tuple[Node, ...]:
        """The step nodes of an initial value problem with these output times."""
        if self.steps is None or self.time is not None:
            raise SchemenetError("grid 'uniform' of a solve: expected steps, and no time (the output times say it)")
        h = (times[-1] - times[0]) / self.steps
        return tuple(Node(step, times[0] + step * h, h) for step in range(self.steps))

    def visits(self, scheme: Scheme, nodes: Sequence[Node]) -> tuple[Node, ...]:
        """The nodes at which a flow with these steps evaluates f."""
        return tuple(visited(scheme, nodes))

    def loop(
        self, scheme: Scheme, f: Any, nodes: Sequence[Node], module: nn.Module, training: bool, **options: Any
    ) -> Loop:
        """What a flow hands to its gradient mode."""
        return Loop(scheme, f, nodes, module, **options)

    def described(self, nodes: Sequence[Node]) -> tuple[int, float]:
        """Number and size of the steps."""
        return len(nodes), nodes[0].h

    def unsupported_reason(self, scheme: Scheme) -> str | None:
        """Every scheme can be stepped on this grid."""
        return None


def reversed_nodes(nodes: tuple[Node, ...]) -> tuple[Node, ...]:
    """The same steps walked from the end to the beginning: step indices stay, h changes its sign."""
    return tuple(Node(node.step, node.t + node.h, -node.h) for node in reversed(nodes))
