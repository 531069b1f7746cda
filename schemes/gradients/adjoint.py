"""The continuous adjoint."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from schemes.adaptive import Search
from schemes.base import Scheme
from schemes.errors import SchemenetError
from schemes.gradients.backsolve import backsolve, costate_rates, hold_against
from schemes.gradients.rebuilt import sampled
from schemes.gradients.recompute import PROJECTED, Gradients, RecomputingMode
from schemes.grid import reversed_nodes
from schemes.loop import Pass
from schemes.registry import GRADIENTS
from schemes.runge_kutta import RungeKutta
from schemes.state import RightHandSide, State, flatten
from schemes.visiting import visited

if TYPE_CHECKING:
    from schemes.flow import Flow
    from schemes.loop import Carry, Loop
    from schemes.node import Node


@GRADIENTS.register("adjoint")
class Adjoint(RecomputingMode):
    r"""Pontryagin's costate, solved backwards by the same scheme from the end state alone.

        y' = f(t, y),    a' = -(df/dy)^T a,    g' = -(df/dtheta)^T a,    from T to 0

    a(0) is the gradient of the initial state, g(0) that of the parameters; g is a quadrature, a parameter that a step
    does not touch costs nothing in it. Right to the order of the scheme, not equal to backprop; with h = 1 and
    untrained weights it can be far off. The state is recomputed: where it misses the sampled start by more than a
    tenth, :class:`AdjointDriftWarning` says so.

    Reference: Chen, Rubanova, Bettencourt, Duvenaud, "Neural Ordinary Differential Equations", NeurIPS 2018,
    arXiv:1806.07366.
    """

    def refuses(self, flow: Flow) -> str | None:
        scheme, sharing = flow.scheme, flow.sharing
        if flow.projection is not None:
            return PROJECTED.format("adjoint", "solves no ODE")
        if (reason := self.refuses_scheme(scheme)) is not None:
            return reason
        if not flow.nodes and (reason := _refuses_adaptive(scheme)) is not None:
            return reason
        own = sharing == "per_stage" or flow.statistics == "per_node_affine"
        if own and scheme.stages > scheme.components:
            return (
                "gradient mode 'adjoint' differentiates an ODE, and weights of their own at each stage belong to none; "
                "use sharing=per_step or shared and statistics=per_node, or gradient=backprop or checkpoint"
            )
        if sharing != "shared" and scheme.multistep:
            return (
                f"gradient mode 'adjoint' with {type(scheme).__name__}: its steps backwards would mix the weights of "
                "neighbouring steps; use sharing=shared, a one-step scheme, or gradient=backprop or checkpoint"
            )
        if not flow.noise.of_steps:
            return (
                f"gradient mode 'adjoint' differentiates an ODE, and the weights that noise "
                f"{type(flow.noise).__name__} gives to single terms of a step belong to none; use "
                "noise=stochastic_depth, or gradient=backprop or checkpoint"
            )
        return None

    def refuses_scheme(self, scheme: Scheme) -> str | None:
        if scheme.implicit:
            return (
                f"gradient mode 'adjoint' with {type(scheme).__name__} would solve for state and costate together, "
                "which is not built; use gradient=checkpoint or backprop, by the implicit function theorem"
            )
        if scheme.order is None or scheme.problem == "linear":
            return (
                f"gradient mode 'adjoint' differentiates the ODE, and {type(scheme).__name__} as configured is no "
                "method for y' = f; use gradient=backprop or checkpoint, or a consistent scheme such as heun"
            )
        return None

    def forward(self, loop: Loop, carry: Carry, f: RightHandSide) -> tuple[Pass, Any]:
        if carry[1]:
            raise SchemenetError(
                "gradient mode 'adjoint' differentiates an initial value problem, and this flow is handed a state "
                "before the initial one; use gradient=backprop or checkpoint"
            )
        if isinstance(loop, Search) and (reason := _refuses_adaptive(loop.scheme)) is not None:
            raise SchemenetError(reason)
        start = sampled(carry[0])
        outputs: list[State] = []
        for _, _, taken in loop.walk(carry, f):
            carry = taken.carry
            outputs += taken.outputs
        return Pass((carry[0], ()), tuple(outputs)), (start, carry[0], tuple(outputs))

    def backward(
        self, loop: Loop, kept: Any, gradients: Any, parameters: Sequence[Tensor], f: RightHandSide
    ) -> tuple[Gradients, Gradients]:
        if isinstance(loop, Search):
            return backsolve(loop, kept, gradients, parameters, f)
        start, end, stored = kept
        (gradient, _), outputs = gradients
        f = loop.weighted(f)
        stage_of = _mirrored_stages(loop.scheme, loop.nodes[0])

        def augmented(node: Node, state: State) -> State:
            """Rates of (y, a, g) of the component that f drives, from state and costate of the one it reads."""
            y, costate, _ = state
            value, of_y, found = costate_rates(
                f, node._replace(stage=stage_of.get(node.stage, node.stage)), y, costate, parameters
            )
            return value, of_y, found

        paired = loop.scheme.components > 1
        costate = _plus(_zeros(end), gradient)
        state = _joined(end, costate, (None,) * len(parameters), paired)
        memory = loop.scheme.start(state)
        by_step = zip(reversed(loop.by_step(outputs)), reversed(loop.by_step(stored)), strict=True)
        for node, (jumps, passed) in zip(reversed_nodes(tuple(loop.nodes)), by_step, strict=True):
            if passed:
                _, costate, found = _parted(state, paired)
                for jump in jumps:
                    costate = _plus(costate, jump)
                state = _joined(passed[-1], costate, found, paired)
                memory = loop.scheme.start(state)
            state, memory = loop.scheme.step(augmented, node, state, memory)
        y, costate, found = _parted(state, paired)
        hold_against(start, y)
        return flatten(costate)[0], list(found)  # type: ignore[return-value]


def _refuses_adaptive(scheme: Scheme) -> str | None:
    if isinstance(scheme, RungeKutta):
        return None
    return (
        "gradient mode 'adjoint' on an adaptive grid adds up the parameters' gradient with the weights of a "
        f"Runge-Kutta pair, which {type(scheme).__name__} has not; use dopri5 or tsit5, or gradient=checkpoint"
    )


def _joined(y: State, costate: State, found: State, paired: bool) -> State:
    """The augmented state: (y, a, g), or one such triple for each component.

    x' = f_0(y) pulls the costate of x back to y: each part travels with the costate of the other.
    """
    if not paired:
        return y, costate, found
    nothing = (None,) * len(found)
    return (y[0], costate[1], found), (y[1], costate[0], nothing)


def _parted(state: State, paired: bool) -> tuple[State, State, State]:
    """The inverse of :func:`_joined`."""
    if not paired:
        return state
    first, second = state
    found = tuple(_sum(a, b) for a, b in zip(first[2], second[2], strict=True))
    return (first[0], second[0]), (second[1], first[1]), found


def _zeros(y: State) -> State:
    return torch.zeros_like(y) if isinstance(y, Tensor) else tuple(map(_zeros, y))


def _plus(costate: State, gradient: State) -> State:
    """The sum with a nest of gradients, None standing for zero."""
    if gradient is None:
        return costate
    if isinstance(costate, Tensor):
        return costate + gradient
    return tuple(map(_plus, costate, gradient))


def _mirrored_stages(scheme: Scheme, node: Node) -> dict[int, int]:
    """For each stage of a step backwards the stage of the step forwards that evaluated f at the same time.

    Statistics and dropout masks belong to a time, and so to that stage. Empty where the nodes of a step do not lie
    symmetrically: each stage backwards then takes those of the stage with the same weight.
    """
    there, back = visited(scheme, (node,))[::-1], visited(scheme, reversed_nodes((node,)))
    pairs = list(zip(there, back, strict=True))
    if scheme.history or not all(a.component == b.component and math.isclose(a.t, b.t, abs_tol=1e-9) for a, b in pairs):
        return {}
    return {b.stage: a.stage for a, b in pairs}


def _sum(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    return b if a is None else a if b is None else a + b
