"""Where in a step a scheme evaluates the right-hand side."""

from __future__ import annotations

from typing import Any, NamedTuple


class Node(NamedTuple):
    """One evaluation of f: step index, time t, step size h, stage within the step, component of a coupled state.

    t and h are numbers; tensors without dimensions where a step is captured in a graph, of shape (batch,) where each
    sample steps by itself.

    ``trial`` marks an evaluation by which an implicit scheme looks for its state: it is made under the random state of
    the evaluation at the solution, and leaves no trace in it or in buffers.

    A node is what ties scheme, weights and time together: f is called as ``f(node, y)``, a field bank picks the
    module by it, a time-dependent field reads ``t`` from it.
    """

    step: int
    t: Any
    h: Any
    stage: int = 0
    component: int = 0
    trial: bool = False

    @property
    def place(self) -> tuple[int, int, int]:
        """(step, stage, component): the node without its time."""
        return self.step, self.stage, self.component

    def at(self, stage: int = 0, c: float = 0.0, component: int = 0) -> Node:
        """The node of a stage at time ``t + c h`` of the step that begins at this node."""
        return Node(self.step, self.t + c * self.h, self.h, stage, component)
