"""The nodes at which a scheme evaluates f, recorded in a trial run."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from schemes.core.node import Node
from schemes.core.scheme import Scheme
from schemes.core.state import State


def visited(scheme: Scheme, nodes: Sequence[Node]) -> list[Node]:
    """The nodes that a scheme evaluates f at, in order, found by a recording f on a zero-dimensional state."""
    seen: list[Node] = []

    def recording(node: Node, y: State) -> State:
        if not node.trial:
            seen.append(node)
        return y

    device = next((p.device for p in scheme.parameters()), torch.device("cpu"))
    zero = torch.zeros((), device=device)
    y = zero if scheme.components == 1 else (zero,) * scheme.components
    training = scheme.training
    scheme.eval()  # no random drops, which would move the global random state
    with torch.no_grad():
        solver_state = scheme.init_state(y)
        for node in nodes:
            y, solver_state = scheme.step(recording, node, y, solver_state)
    scheme.train(training)
    return seen
