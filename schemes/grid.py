"""At which times a flow is stepped. The scheme never decides this."""

from __future__ import annotations

from schemes.errors import SchemenetError
from schemes.node import Node
from schemes.registry import GRIDS


@GRIDS.register("uniform")
class UniformGrid:
    """``steps`` equal steps over [0, time].

    ``steps`` None takes what the architecture's depth asks for; ``time`` None means h = 1, the convention of the
    papers, in which the step size is absorbed in f.
    """

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
        h = 1.0 if self.time is None else self.time / n
        return tuple(Node(step, step * h, h) for step in range(n))


def reversed_nodes(nodes: tuple[Node, ...]) -> tuple[Node, ...]:
    """The same steps walked from the end to the beginning: step indices stay, h changes its sign."""
    return tuple(Node(node.step, node.t + node.h, -node.h) for node in reversed(nodes))
