"""State and costate solved backwards with steps of their own.

The parameters' gradient is a quadrature beside the solve: it adds up h b_i (df/dtheta)^T a over the stages of accepted
steps, in one buffer, outside the state and outside the norm. A stage of weight zero asks for no such product.

References: Chen, Rubanova, Bettencourt, Duvenaud, NeurIPS 2018, arXiv:1806.07366; Kidger, Chen, Lyons, "Hey, that's
not an ODE: Faster ODE Adjoints via Seminorms", ICML 2021, arXiv:2009.09457 (which the quadrature makes exact).
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from schemes.adaptive import Search
from schemes.counting import count_products
from schemes.gradients.rebuilt import drift, sampled
from schemes.gradients.recompute import Gradients, Pullback, aligned
from schemes.node import Node
from schemes.runge_kutta import RungeKutta
from schemes.state import RightHandSide, State, flatten, unflatten

DRIFT = 0.1


class AdjointDriftWarning(UserWarning):
    """The state solved backwards misses the state that the flow started from."""


def costate_rates(
    f: RightHandSide, node: Node, y: State, costate: State, parameters: Sequence[Tensor]
) -> tuple[State, State, tuple[Tensor | None, ...]]:
    """f, -(df/dy)^T a and -(df/dtheta)^T a at a node, by one evaluation and one product."""
    leaves, shape = flatten(y)
    with torch.enable_grad():
        fresh = [leaf.detach().requires_grad_() for leaf in leaves]
        value = f(node, unflatten(fresh, shape))
    pull_back = Pullback(parameters)
    of_y = pull_back(flatten(value)[0], list(flatten(costate)[0]), fresh)
    count_products()
    rates = unflatten([_minus(g) for g in of_y], shape)
    return unflatten([v.detach() for v in flatten(value)[0]], shape), rates, tuple(map(_minus, pull_back.found))


def backsolve(
    loop: Search, kept: Any, gradients: Any, parameters: Sequence[Tensor], f: RightHandSide
) -> tuple[Gradients, Gradients]:
    """Gradients of the initial state and of the parameters, from the end state and those at the output times."""
    start, end, stored = kept
    (gradient, _), outputs = gradients
    leaves, shape = flatten(end)
    costate = [_sum(torch.zeros_like(leaf), g) for leaf, g in zip(leaves, aligned(gradient, shape), strict=True)]
    quadrature = Quadrature(loop.scheme, f, parameters, shape)
    # Output times from the last to the first; several may be the same.
    times = list(loop.times)
    jumps = {i + 1: aligned(g, shape) for i, g in enumerate(outputs or ())}
    states = {i + 1: flatten(y)[0] for i, y in enumerate(stored)}
    h, gap = None, 0.0
    y = leaves
    for i in range(len(times) - 1, 0, -1):
        if i in states:
            gap = max(gap, _gap(states[i], y)) if i < len(times) - 1 else gap
            y = states[i]
        costate = [_sum(a, g) for a, g in zip(costate, jumps.get(i, [None] * len(costate)), strict=True)]
        if times[i - 1] == times[i]:
            continue
        back = replace(
            loop, times=(times[i], times[i - 1]), rtol=_twice(loop.rtol), atol=_twice(loop.atol), nodes=[], thetas=[],
            forward=loop.backward, h=h, keep=None, capture=None,
            forgotten=set(),
        )  # fmt: skip
        carry: Any = (((*y,), (*costate,)), ())
        for _, _, taken in back.walk(carry, quadrature):
            carry = taken.carry
            quadrature.accept()
        (found_y, found_a), _ = carry
        y, costate, h = list(found_y), list(found_a), back.h
    hold_against(start, unflatten(y, shape), gap, min(DRIFT, 100 * max(map(_largest, (loop.rtol, loop.atol)))))
    return list(costate), quadrature.total


class Quadrature:
    """The augmented right-hand side, adding up the parameters' gradient of the attempt that it is part of."""

    def __init__(self, scheme: Any, f: RightHandSide, parameters: Sequence[Tensor], shape: Any) -> None:
        assert isinstance(scheme, RungeKutta)
        self.f, self.parameters, self.shape = f, parameters, shape
        self.weights = dict(scheme.tableau.weights)
        self.last = len(scheme.tableau.b) - 1
        self.total: Gradients = [None] * len(parameters)
        self._attempt: Gradients = list(self.total)
        self._first: Sequence[Tensor | None] = self.total
        self._next: Sequence[Tensor | None] = self.total

    def __call__(self, node: Node, state: State) -> State:
        y, costate = state
        weight = self.weights.get(node.stage, 0.0)
        wanted = self.parameters if not node.trial and (weight or node.stage in (0, self.last)) else ()
        value, of_y, found = costate_rates(
            self.f, node, unflatten(y, self.shape), unflatten(costate, self.shape), wanted
        )
        if node.trial:
            pass
        elif node.stage == 0:
            self._first = self._next = found
        elif node.stage == 1:
            self._attempt = _added([None] * len(self.parameters), self._first, node.h * self.weights.get(0, 0.0))
        if weight and node.stage:
            self._attempt = _added(self._attempt, found, node.h * weight)
        if node.stage == self.last:
            self._next = found
        zeros = [torch.zeros_like(part) if g is None else g for part, g in zip(y, flatten(of_y)[0], strict=False)]
        return tuple(flatten(value)[0]), tuple(zeros)

    def accept(self) -> None:
        """The attempt counts: its stages are part of the integral, its last one is the next one's first."""
        self.total = _added(self.total, self._attempt, 1.0)
        self._first = self._next


def _added(total: Gradients, terms: Sequence[Tensor | None], factor: float) -> Gradients:
    return [
        known if term is None else term * factor if known is None else known.add_(term, alpha=factor)
        for known, term in zip(total, terms, strict=True)
    ]


def _minus(gradient: Tensor | None) -> Tensor | None:
    return None if gradient is None else -gradient


def _sum(a: Tensor, b: Tensor | None) -> Tensor:
    return a if b is None else a + b


def _gap(stored: Sequence[Tensor], solved: Sequence[Tensor]) -> float:
    return drift(sampled(tuple(stored)), tuple(solved))


def _twice(tolerance: Any) -> Any:
    """The same for the costate as for the state."""
    return [*tolerance, *tolerance] if isinstance(tolerance, list | tuple) else tolerance


def _largest(tolerance: Any) -> float:
    if isinstance(tolerance, list | tuple):
        return max(map(_largest, tolerance))
    return float(tolerance.max()) if isinstance(tolerance, Tensor) else float(tolerance)


def hold_against(start: State, solved: State, gap: float = 0.0, allowed: float = DRIFT) -> None:
    """Warn where the state that was solved backwards misses its start, or missed another known one by ``gap``."""
    gap = max(drift(start, solved), gap)
    if not gap <= allowed:
        warnings.warn(
            f"gradient mode 'adjoint': the state solved backwards misses the initial one by {gap:.1g} of its norm, "
            "so the gradient is taken along another path; use more steps, a shorter time or gradient=checkpoint",
            AdjointDriftWarning,
            stacklevel=2,
        )
