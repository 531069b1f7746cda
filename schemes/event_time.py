"""The derivative of an event's time and state."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils import _pytree as pytree


def linked(f: Callable[..., Any], g: Callable[..., Tensor], t: Tensor, y: Any) -> tuple[Tensor, Any]:
    """The time and the state of an event g(t, y) = 0, depending on all that the solution and g depend on.

    ``y`` is the state at the fixed time t. With c = g(t, y) and dc/dt = g_t + g_y f along the solution,

        dt = -dc / (dc/dt),    and the state at the event changes by dy + f dt.

    First derivatives only.
    """
    leaves, structure = pytree.tree_flatten(y)
    if not torch.is_grad_enabled():
        return t, y
    with torch.no_grad():
        slope = [part.detach() for part in pytree.tree_leaves(f(t.to(leaves[0].real.dtype), y))]
    values = g(t.to(leaves[0].real.dtype), y).flatten()
    entry = int(values.detach().abs().argmin())
    if not values.requires_grad:
        return t, y
    with torch.enable_grad():
        clock = t.detach().to(leaves[0].real.dtype).requires_grad_()
        fresh = [leaf.detach().requires_grad_() for leaf in leaves]
        value = g(clock, pytree.tree_unflatten(fresh, structure)).flatten()[entry]
    of_t, *of_y = torch.autograd.grad(value, [clock, *fresh], allow_unused=True)
    rate = sum((float((part * s).sum()) for part, s in zip(of_y, slope, strict=True) if part is not None), 0.0)
    rate += 0.0 if of_t is None else float(of_t)
    when = _When.apply(values[entry], t.detach(), rate)
    moved = [leaf + s * (when - t.detach()).to(s.real.dtype) for leaf, s in zip(leaves, slope, strict=True)]
    return when, pytree.tree_unflatten(moved, structure)


class _When(torch.autograd.Function):
    """t, where c(t) = 0 and dc/dt = ``rate``."""

    @staticmethod
    def forward(ctx: Any, c: Tensor, t: Tensor, rate: float) -> Tensor:
        ctx.rate, ctx.dtype = rate, c.dtype
        return t.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]  # one output
        return (-gradient / ctx.rate).to(ctx.dtype), None, None
