"""f just inside the ends of a step, where it jumps at them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from schemes.node import Node
from schemes.state import RightHandSide, State, flatten

_COARSE = {torch.float32: np.float32, torch.complex64: np.float32}


def inside(f: RightHandSide, node: Node, start: bool, end: bool) -> RightHandSide:
    """f, evaluated strictly after the start and strictly before the end of the step after a node.

    By one unit in the last place of a time in the precision of the state, which is what f can tell apart.
    """
    return _Inside(f, node, start, end) if start or end else f


class _Inside:
    def __init__(self, f: RightHandSide, node: Node, start: bool, end: bool) -> None:
        self.f, self.forward = f, node.h > 0
        self.first = node.t if start else -math.inf if self.forward else math.inf
        self.last = node.t + node.h if end else math.inf if self.forward else -math.inf

    def __call__(self, node: Node, y: State) -> State:
        precision: Any = _COARSE.get(flatten(y)[0][0].dtype, np.float64)
        low = np.nextafter(precision(self.first), precision(self.last))
        high = np.nextafter(precision(self.last), precision(self.first))
        t = min(max(node.t, float(low)), float(high)) if self.forward else max(min(node.t, float(low)), float(high))
        return self.f(node._replace(t=t), y)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.f, name)
