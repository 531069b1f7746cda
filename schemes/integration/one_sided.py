"""One-sided evaluation of f at the ends of a step, where it jumps (``jump_t``)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

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


def limits_of_rows(dtype: torch.dtype, t: Tensor, h: Tensor, jumps: Sequence[float]) -> tuple[Tensor, Tensor] | None:
    """As :func:`limits` for steps of all rows of a batch; None where f jumps at no end of any of them.

    Args:
        dtype: in which f gets its time.
        t: the starts, of shape (rows,), in double precision.
        h: the signed sizes, likewise.
        jumps: the times at which f jumps.

    Returns:
        The least and the greatest times, of shape (rows,), in ``dtype``.
    """
    near, times = 1e-6 * h.abs().unsqueeze(1), t.new_tensor(list(jumps))
    start, end = (((time.unsqueeze(1) - times).abs() < near).any(1) for time in (t, t + h))
    if not bool((start | end).any()):
        return None
    away = torch.copysign(torch.full_like(h, math.inf), h)
    first, last = torch.where(start, t, -away).to(dtype), torch.where(end, t + h, away).to(dtype)
    one, other = torch.nextafter(first, last), torch.nextafter(last, first)
    return torch.minimum(one, other), torch.maximum(one, other)


def one_sided(f: VectorField, node: Node, start: bool, end: bool) -> VectorField:
    """f, evaluated strictly after the start and strictly before the end of the step after a node."""
    return _Inside(f, node, start, end) if start or end else f


class _Inside:
    def __init__(self, f: VectorField, node: Node, start: bool, end: bool) -> None:
        self.f, self.step = f, (node.t, node.h, start, end)

    def __call__(self, node: Node, y: State) -> State:
        least, greatest = limits(flatten(y)[0][0].dtype, *self.step)
        return self.f(node._replace(t=min(max(node.t, least), greatest)), y)
