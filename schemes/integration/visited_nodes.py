"""The nodes at which a scheme evaluates f, recorded in a trial run."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from schemes.core.node import Node
from schemes.core.scheme import Scheme
from schemes.core.state import State
from schemes.errors import SchemenetError, located


def visited(scheme: Scheme, nodes: Sequence[Node]) -> list[Node]:
    """The nodes that a scheme evaluates f at, in order, found by a recording f on a zero-dimensional state.

    Raises:
        SchemenetError: the scheme's step has other parameters or results than :meth:`Scheme.step`, or fails.
    """
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
            try:
                y, solver_state = scheme.step(recording, node, y, solver_state)
            except SchemenetError:
                raise
            except Exception as error:  # a scheme of the user's fails in any way
                raise SchemenetError(
                    f"scheme {type(scheme).__name__}: expected step(f, node, y, solver_state) that returns "
                    f"(y, solver_state), also for a state without dimensions; got {located(error)}"
                ) from error
    scheme.train(training)
    return seen
