"""The plainest adaptive loop there is, by which single attempts are judged."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from schemes.base import Scheme
from schemes.newton_krylov import NoConvergence
from schemes.node import Node


class Counted:
    """f with its calls, and the products with its Jacobian that were asked for, counted."""

    def __init__(self, f: Any) -> None:
        self.f, self.calls, self.products = f, 0, 0

    def __call__(self, node: Node, y: Any) -> Any:
        self.calls += 1
        return _Tap.apply(self.f(node, y), self) if torch.is_grad_enabled() else self.f(node, y)


class _Tap(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, counted: Counted) -> Tensor:
        ctx.counted = counted
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None


def adaptive(scheme: Scheme, f: Any, y: Tensor, end: float, rtol: float, atol: float) -> tuple[Tensor, int, int]:
    """y(end) with an integral controller, and how many steps were accepted and rejected."""
    scheme.tolerate(rtol, atol)
    accepted = rejected = 0
    t, memory, slope = 0.0, (), f(Node(0, 0.0, 0.0), y)
    memory = (slope,)
    h = _first(f, y, slope, scheme.order, rtol, atol)
    while t < end:
        h = min(h, end - t)
        try:
            tried = scheme.attempt(f, Node(accepted, t, h), y, memory)
        except NoConvergence:
            rejected, h = rejected + 1, h / 4
            continue
        ratio = _norm(tried.error, y, tried.y, rtol, atol)
        if ratio <= 1:
            accepted, t, y, memory = accepted + 1, t + h, tried.y, tried.memory
        else:
            rejected += 1
        h *= min(10.0, max(0.2, 0.9 * max(ratio, 1e-10) ** (-1 / scheme.error_order)))
    return y, accepted, rejected


def _norm(error: Tensor, y0: Tensor, y1: Tensor, rtol: float, atol: float) -> float:
    scale = atol + rtol * torch.maximum(y0.detach().abs(), y1.detach().abs())
    return float((error / scale).square().mean().sqrt())


def _first(f: Any, y: Tensor, slope: Tensor, order: int, rtol: float, atol: float) -> float:
    """Hairer's initial step (Hairer, Nørsett, Wanner, section II.4)."""
    zero = torch.zeros_like(y)
    size, speed = (_norm(v, y, zero, rtol, atol) for v in (y, slope))
    h = 1e-6 if min(size, speed) < 1e-5 else 0.01 * size / speed
    bend = _norm(f(Node(0, h, 0.0), y + h * slope) - slope, y, zero, rtol, atol) / h
    fast = max(speed, bend)
    return min(100 * h, max(1e-6, h * 1e-3) if fast <= 1e-15 else (0.01 / fast) ** (1 / (order + 1)))
