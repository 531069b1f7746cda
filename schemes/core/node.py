"""Node: the place in a step at which a scheme evaluates the right-hand side."""

from __future__ import annotations

from typing import Any, NamedTuple


class Node(NamedTuple):
    """One evaluation of f: step index, time t, step size h, stage within the step, component of a coupled state.

    A node ties scheme, weights and time together: f is called as ``f(node, y)``, a field bank picks the module by it, a
    time-dependent field reads ``t`` from it.

    Attributes:
        step: index of the step, from 0.
        t: time of the evaluation: a number; a tensor without dimensions where steps are compiled, of shape (batch,)
            where each sample has steps of its own.
        h: size of the step, signed; a number or a tensor like ``t``.
        stage: index of the evaluation within the step.
        component: index of the part of a coupled state whose rate f gives.
        trial: marks an evaluation by which an implicit scheme searches its state: it is made under the random state of
            the evaluation at the solution, and leaves no trace in it or in buffers.
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
