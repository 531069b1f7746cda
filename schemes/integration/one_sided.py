"""One-sided evaluation of f at the ends of a step, where it jumps (``jump_t``)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from schemes.core.node import Node
from schemes.core.state import State, VectorField, flatten

_COARSE = {torch.float32: np.float32, torch.complex64: np.float32}


def jumps_at(t: float, h: float, jumps: Sequence[float]) -> tuple[bool, bool]:
    """Whether f jumps at the start and at the end of a step."""
    near = 1e-6 * abs(h)
    start, end = (any(abs(time - jump) < near for jump in jumps) for time in (t, t + h))
    return start, end


def limits(dtype: torch.dtype, t: float, h: float, start: bool, end: bool) -> tuple[float, float]:
    """The least and the greatest time in a step after t that are not its ``start`` and its ``end``.

    By one unit in the last place of a time in the precision of the state, which is what f can tell apart.
    """
    precision: Any = _COARSE.get(dtype, np.float64)
    away = math.copysign(math.inf, h)
    first, last = precision(t if start else -away), precision(t + h if end else away)
    one, other = float(np.nextafter(first, last)), float(np.nextafter(last, first))
    return min(one, other), max(one, other)


def one_sided(f: VectorField, node: Node, start: bool, end: bool) -> VectorField:
    """f, evaluated strictly after the start and strictly before the end of the step after a node."""
    return _Inside(f, node, start, end) if start or end else f


class _Inside:
    def __init__(self, f: VectorField, node: Node, start: bool, end: bool) -> None:
        self.f, self.step = f, (node.t, node.h, start, end)

    def __call__(self, node: Node, y: State) -> State:
        least, greatest = limits(flatten(y)[0][0].dtype, *self.step)
        return self.f(node._replace(t=min(max(node.t, least), greatest)), y)
