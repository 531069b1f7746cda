"""State and costate of an initial value problem solved backwards, from each output time to the one before it.

With steps of its own, the parameters' gradient is a quadrature outside the solve: it adds up h b_i (df/dtheta)^T a over
the stages of accepted steps, in one buffer, outside the state and outside the norm. A stage of weight zero needs no
such product, but for the last one, which is the next step's first.

References: Chen, Rubanova, Bettencourt, Duvenaud, NeurIPS 2018, arXiv:1806.07366; Kidger, Chen, Lyons, "Hey, that's
not an ODE: Faster ODE Adjoints via Seminorms", ICML 2021, arXiv:2009.09457 (which the quadrature makes exact).
"""

from __future__ import annotations

import abc
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from schemes.core.node import Node
from schemes.core.scheme import Scheme
from schemes.core.state import State, VectorField, flatten, unflatten
from schemes.gradients.adjoint_ode.augmented_system import (
    augmented,
    costate_rates,
    join_augmented,
    plus,
    split_augmented,
    zeros,
)
from schemes.gradients.recomputation.autograd import Gradients, aligned
from schemes.gradients.recomputation.reconstruction_error import fingerprint, reconstruction_error
from schemes.integration.adaptive_loop import AdaptiveLoop
from schemes.integration.fixed_steps import FixedStepLoop
from schemes.integration.loop import Loop, Segments, StepCallback
from schemes.integration.step_size_controller import ErrorControl, StepSizeSettings

DRIFT = 0.1


class AdjointDriftWarning(UserWarning):
    """The state solved backwards misses the state that the flow started from."""


class SegmentSolver(abc.ABC):
    """Solves state and costate from output time i to the one before; ``total`` adds up the parameters' gradient."""

    allowed: float = DRIFT
    """How far the state solved backwards may be from a known one, relative to it."""
    total: Any

    @abc.abstractmethod
    def __call__(self, i: int, y: State, costate: State) -> tuple[State, State]: ...


def backsolve(loop: Loop, kept: Any, gradients: Any, solver: SegmentSolver) -> tuple[Gradients, Gradients]:
    """Gradients of the initial state and of the parameters, from the end state and those at the output times."""
    start, y, stored = kept
    (gradient, _), outputs = gradients
    costate, gap, passed = plus(zeros(y), gradient), 0.0, fingerprint(y)
    times = loop.output_times()
    for i in range(len(times) - 1, 0, -1):
        if stored:
            if i < len(times) - 1:
                gap = max(gap, reconstruction_error(fingerprint(stored[i - 1]), y, passed))
            y = stored[i - 1]
        costate = plus(costate, outputs[i - 1] if outputs else None)
        if times[i - 1] != times[i]:
            y, costate = solver(i, y, costate)
    warn_of_gap(max(gap, reconstruction_error(start, y, passed)), solver.allowed)
    return [*flatten(costate)[0]], [*solver.total]


class FixedSegment(SegmentSolver):
    """By given steps: those of the forward solve, cut at the output times, or those of another grid."""

    def __init__(
        self,
        loop: Loop,
        scheme: Scheme,
        segments: Segments,
        f: VectorField,
        parameters: Sequence[Tensor],
        callback: StepCallback | None,
    ) -> None:
        self.loop, self.scheme, self.segments, self.callback = loop, scheme, segments, callback
        self.f = augmented(f, parameters)
        self.total = (None,) * len(parameters)

    def __call__(self, i: int, y: State, costate: State) -> tuple[State, State]:
        nodes = self.segments.nodes[i - 1]
        paired = self.scheme.components > 1
        state = join_augmented(y, costate, self.total, paired)
        back = FixedStepLoop(
            self.scheme, self.f, nodes, self.loop.module, output_fractions=[()] * len(nodes),
            perturb=self.segments.perturb, callback=self.callback,
        )  # fmt: skip
        taken = back.run((state, self.scheme.init_state(state)))
        y, costate, self.total = split_augmented(taken.carry[0], paired)
        return y, costate


class AdaptiveSegment(SegmentSolver):
    """By steps whose errors in state and costate, and in the parameters where ``norm`` reads them, decide."""

    def __init__(
        self,
        loop: Loop,
        scheme: Scheme,
        control: ErrorControl,
        f: VectorField,
        parameters: Sequence[Tensor],
        callback: StepCallback | None,
        norm: Callable[..., Any] | None,
    ) -> None:
        self.settings, self.rtol, self.atol = control
        if not loop.steps_known:  # the error of given steps has nothing to do with a tolerance
            self.allowed = min(DRIFT, 100 * max(map(_largest, (self.rtol, self.atol))))
        self.loop, self.times, self.scheme, self.callback = loop, loop.output_times(), scheme, callback
        self.h: float | None = None
        self.norm = norm
        self.f, self.parameters = f, parameters
        self.quadrature: Quadrature | None = None

    @property
    def total(self) -> Any:  # type: ignore[override]  # kept by the quadrature
        return (None,) * len(self.parameters) if self.quadrature is None else self.quadrature.total

    def _settings(self, shape: Any) -> StepSizeSettings:
        """The settings with a norm of state and costate, which have this shape. Not kept: it would be a cycle."""
        of_state = self.settings.norm
        if self.norm is not None:
            return replace(self.settings, norm=self._norm)
        if of_state is None:
            return self.settings
        return replace(
            self.settings,
            norm=lambda parts: max(float(of_state(unflatten(half, shape))) for half in _halves(parts)),
        )

    def _norm(self, parts: Sequence[Tensor]) -> Any:
        """The user's, of (t, y, adj_y, *parameters): time takes no part here, its gradient needs no quadrature."""
        assert self.norm is not None
        assert self.quadrature is not None
        errors = self.quadrature.scaled_errors(_largest(self.rtol), _largest(self.atol))
        return self.norm((parts[0].new_zeros((), dtype=parts[0].real.dtype), *parts, *errors))

    def __call__(self, i: int, y: State, costate: State) -> tuple[State, State]:
        leaves, shape = flatten(y)
        if self.quadrature is None:
            self.quadrature = Quadrature(self.scheme, self.f, self.parameters, shape, errors=self.norm is not None)
        back = AdaptiveLoop(
            self.scheme, self.f, [], self.loop.module, settings=self._settings(shape),
            times=(self.times[i], self.times[i - 1]), rtol=_twice(self.rtol), atol=_twice(self.atol),
            forward=self.loop.backward, h=self.h, callback=self.callback,
        )  # fmt: skip
        carry: Any = (((*leaves,), (*flatten(costate)[0],)), ())
        self.quadrature.begin()
        for _, _, taken in back.walk(carry, self.quadrature):
            carry = taken.carry
            self.quadrature.accept()
        self.h = back.h
        (y, costate), _ = carry
        return unflatten(y, shape), unflatten(costate, shape)


class Quadrature:
    """The augmented right-hand side, adding up the parameters' gradient of the attempt that it is part of."""

    def __init__(
        self, scheme: Scheme, f: VectorField, parameters: Sequence[Tensor], shape: Any, errors: bool = False
    ) -> None:
        assert scheme.explicit_pair is not None
        tableau = scheme.explicit_pair.tableau
        self.f, self.parameters, self.shape = f, parameters, shape
        self.weights = dict(tableau.weights)
        self.errors = dict(tableau.error) if errors else {}
        self.last = len(tableau.b) - 1
        self.total: Gradients = [None] * len(parameters)
        self.begin()

    def begin(self) -> None:
        """The next evaluation of stage 0 is a new one."""
        nothing: Gradients = [None] * len(self.parameters)
        self._attempt, self._error = list(nothing), list(nothing)
        self._first: Sequence[Tensor | None] = nothing
        self._next: Sequence[Tensor | None] = nothing

    def __call__(self, node: Node, state: State) -> State:
        y, costate = state
        stage, weight, error = node.stage, self.weights.get(node.stage, 0.0), self.errors.get(node.stage, 0.0)
        parameters = self.parameters if not node.trial and (weight or error or stage in (0, self.last)) else ()
        value, of_y, of_parameters = costate_rates(
            self.f, node, unflatten(y, self.shape), unflatten(costate, self.shape), parameters
        )
        if node.trial:
            pass
        elif stage == 0:
            self._first = self._next = of_parameters
        elif stage == 1:
            nothing: Gradients = [None] * len(self.parameters)
            self._attempt = _added(list(nothing), self._first, node.h * self.weights.get(0, 0.0))
            self._error = (
                _added(list(nothing), self._first, node.h * self.errors.get(0, 0.0)) if self.errors else nothing
            )
        if stage and weight:
            self._attempt = _added(self._attempt, of_parameters, node.h * weight)
        if stage and error:
            self._error = _added(self._error, of_parameters, node.h * error)
        if stage == self.last:
            self._next = of_parameters
        rates_of_y = aligned(of_y, self.shape)
        rates = [torch.zeros_like(part) if g is None else g for part, g in zip(y, rates_of_y, strict=True)]
        return tuple(flatten(value)[0]), tuple(rates)

    def scaled_errors(self, rtol: float, atol: float) -> list[Tensor]:
        """The error estimates of the attempt's quadrature, in units of the tolerance."""
        scaled = []
        for p, error, total, part in zip(self.parameters, self._error, self.total, self._attempt, strict=True):
            if error is None:
                scaled.append(torch.zeros_like(p))
                continue
            before = torch.zeros_like(p) if total is None else total
            size = torch.maximum(before.abs(), (before if part is None else before + part).abs())
            scaled.append(error / (atol + rtol * size))
        return scaled

    def accept(self) -> None:
        """The attempt counts: its stages are part of the integral, its last one is the next one's first."""
        self.total = _added(self.total, self._attempt, 1.0)
        self._first = self._next


def _added(total: Gradients, terms: Sequence[Tensor | None], factor: float) -> Gradients:
    return [
        value if term is None else term * factor if value is None else value.add_(term, alpha=factor)
        for value, term in zip(total, terms, strict=True)
    ]


def _halves(parts: Sequence[Tensor]) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
    return parts[: len(parts) // 2], parts[len(parts) // 2 :]


def _twice(tolerance: Any) -> Any:
    """The same for the costate as for the state."""
    return [*tolerance, *tolerance] if isinstance(tolerance, list | tuple) else tolerance


def _largest(tolerance: Any) -> float:
    if isinstance(tolerance, list | tuple):
        return max(map(_largest, tolerance))
    return float(tolerance.max()) if isinstance(tolerance, Tensor) else float(tolerance)


def warn_of_gap(gap: float, allowed: float = DRIFT) -> None:
    """Warn where the state that was solved backwards misses a known one by more than is allowed."""
    if not gap <= allowed:
        warnings.warn(
            f"gradient mode 'adjoint': the state solved backwards misses the initial one by {gap:.1g} of its norm, "
            "so the gradient is taken along another path; use more steps, a shorter time or gradient=checkpoint",
            AdjointDriftWarning,
            stacklevel=2,
        )
