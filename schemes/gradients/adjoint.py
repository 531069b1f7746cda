"""The continuous adjoint on a uniform grid."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from schemes.bank import visited
from schemes.base import Scheme
from schemes.errors import SchemenetError
from schemes.gradients.rebuilt import drift, sampled
from schemes.gradients.recompute import PROJECTED, Gradients, Pullback, RecomputingMode
from schemes.grid import reversed_nodes
from schemes.registry import GRADIENTS
from schemes.state import RightHandSide, State

if TYPE_CHECKING:
    from schemes.flow import Carry, Flow, Loop
    from schemes.node import Node

DRIFT = 0.1


class AdjointDriftWarning(UserWarning):
    """The state solved backwards misses the state that the flow started from."""


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

    def forward(self, loop: Loop, carry: Carry, f: RightHandSide) -> tuple[Carry, Any]:
        if carry[1]:
            raise SchemenetError(
                "gradient mode 'adjoint' differentiates an initial value problem, and this flow is handed a state "
                "before the initial one; use gradient=backprop or checkpoint"
            )
        start = sampled(carry[0])
        for node in loop.nodes:
            carry = loop.step(node, carry, f)
        return (carry[0], ()), (start, carry[0])

    def backward(
        self, loop: Loop, kept: Any, gradients: Any, parameters: Sequence[Tensor], f: RightHandSide
    ) -> tuple[Gradients, Gradients]:
        start, end = kept
        components = loop.scheme.components
        f = loop.weighted(f)
        stage_of = _mirrored_stages(loop.scheme, loop.nodes[0])

        def augmented(node: Node, state: State) -> State:
            """Rates of (y, a, g) of the component that f drives, from state and costate of the one it reads."""
            y, costate, _ = state
            with torch.enable_grad():
                leaf = y.detach().requires_grad_()
                value = f(node._replace(stage=stage_of.get(node.stage, node.stage)), leaf)
            pull_back = Pullback(parameters)
            (of_y,) = pull_back([value], [costate], [leaf])
            return value.detach(), _minus(of_y), tuple(map(_minus, pull_back.found))

        none = (None,) * len(parameters)
        if components == 1:
            gradient = gradients[0] if gradients[0] is not None else torch.zeros_like(end)
            state: State = (end, gradient, none)
        else:
            # x' = f_0(y) pulls the costate of x back to y: each part travels with the costate of the other.
            costates = [torch.zeros_like(y) if g is None else g for y, g in zip(end, gradients[0], strict=True)]
            state = ((end[0], costates[1], none), (end[1], costates[0], none))
        memory = loop.scheme.start(state)
        for node in reversed_nodes(tuple(loop.nodes)):
            state, memory = loop.scheme.step(augmented, node, state, memory)
        if components == 1:
            _hold_against(start, state[0])
            return [state[1]], list(state[2])
        first, second = state
        _hold_against(start, (first[0], second[0]))
        summed = [_sum(a, b) for a, b in zip(first[2], second[2], strict=True)]
        return [second[1], first[1]], summed


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


def _minus(gradient: Tensor | None) -> Tensor | None:
    return None if gradient is None else -gradient


def _sum(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    return b if a is None else a if b is None else a + b


def _hold_against(start: State, solved: State) -> None:
    gap = drift(start, solved)
    if not gap <= DRIFT:
        warnings.warn(
            f"gradient mode 'adjoint': the state solved backwards misses the initial one by {gap:.1g} of its norm, "
            "so the gradient is taken along another path; use more steps, a shorter time or gradient=checkpoint",
            AdjointDriftWarning,
            stacklevel=2,
        )
