"""The continuous adjoint: Pontryagin's costate, solved backwards."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from schemes.core.scheme import Scheme
from schemes.core.state import State, VectorField, flatten
from schemes.errors import SchemenetError
from schemes.gradients.adjoint_ode.augmented_system import augmented, join_augmented, plus, split_augmented, zeros
from schemes.gradients.adjoint_ode.backsolve import (
    AdaptiveSegment,
    FixedSegment,
    SegmentSolver,
    backsolve,
    warn_of_gap,
)
from schemes.gradients.recomputation.autograd import PROJECTED, Gradients, Kept, RecomputingMode
from schemes.gradients.recomputation.reconstruction_error import fingerprint, reconstruction_error
from schemes.integration.grid import Grid
from schemes.integration.loop import LoopResult
from schemes.integration.step_size_controller import ErrorControl
from schemes.integration.uniform_grid import reversed_nodes
from schemes.integration.visited_nodes import visited
from schemes.registry import GRADIENTS, GRIDS, SCHEMES

if TYPE_CHECKING:
    from schemes.core.node import Node
    from schemes.flow import Flow
    from schemes.integration.loop import Carry, Loop


@GRADIENTS.register("adjoint")
class Adjoint(RecomputingMode):
    r"""Pontryagin's costate, solved backwards by the same scheme from the end state alone.

        y' = f(t, y),    a' = -(df/dy)^T a,    g' = -(df/dtheta)^T a,    from T to 0

    a(0) is the gradient of the initial state, g(0) that of the parameters; g is a quadrature, a parameter that a step
    does not touch costs nothing in it. Right to the order of the scheme, not equal to backprop; with h = 1 and
    untrained weights it can be far off. The state is recomputed: where it misses the sampled start by more than a
    tenth, :class:`AdjointDriftWarning` says so.

    ``max_steps`` and ``seconds`` of an adaptive grid hold for each interval between output times.

    Args:
        rtol: relative tolerance of the solve backwards of an initial value problem, on an adaptive grid; None: as
            forwards.
        atol: absolute tolerance, like ``rtol``.
        norm: measures the errors there instead of the root mean square over state and costate. It gets the tuple
            (t, y, adj_y, *parameters) of errors in units of the tolerance, each part of a state by itself, and returns
            a number.
        scheme: solves an initial value problem backwards; None: as forwards.
        grid: the grid of that solve; None: as forwards.

    Reference: Chen, Rubanova, Bettencourt, Duvenaud, "Neural Ordinary Differential Equations", NeurIPS 2018,
    arXiv:1806.07366.
    """

    replays_nodes = False

    def __init__(
        self,
        rtol: object = None,
        atol: object = None,
        norm: Callable | None = None,
        scheme: object = None,
        grid: object = None,
    ) -> None:
        self.rtol, self.atol, self.norm = rtol, atol, norm
        self.scheme: Scheme | None = SCHEMES.built(scheme)
        self.grid: Grid | None = GRIDS.built(grid)

    def unsupported_reason(self, flow: Flow) -> str | None:
        scheme, sharing = flow.scheme, flow.sharing
        if flow.projection is not None:
            return PROJECTED.format("adjoint", "solves no ODE")
        if (reason := self.unsupported_scheme_reason(scheme)) is not None:
            return reason
        if not flow.nodes and (reason := _unsupported_adaptive_reason(scheme)) is not None:
            return reason
        weights_by_stage = sharing.of_stages or flow.statistics == "per_node_affine"
        if weights_by_stage and scheme.stages > scheme.components:
            return (
                "gradient mode 'adjoint' differentiates an ODE, and weights of their own at each stage belong to none; "
                "use sharing=per_step or shared and statistics=per_node, or gradient=backprop or checkpoint"
            )
        if (sharing.of_steps or sharing.jumps) and scheme.multistep:
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

    def unsupported_scheme_reason(self, scheme: Scheme) -> str | None:
        scheme = self.scheme or scheme
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

    def forward(self, loop: Loop, carry: Carry, f: VectorField) -> tuple[LoopResult, Any]:
        if carry[1]:
            raise SchemenetError(
                "gradient mode 'adjoint' differentiates an initial value problem, and this flow is handed a state "
                "before the initial one; use gradient=backprop or checkpoint"
            )
        scheme = self.scheme or loop.scheme
        if self._error_control(loop) is not None and (reason := _unsupported_adaptive_reason(scheme)) is not None:
            raise SchemenetError(reason)
        start = fingerprint(carry[0])
        outputs: list[State] = []
        for _, _, taken in loop.walk(carry, f):
            carry = taken.carry
            outputs += taken.outputs
        return LoopResult((carry[0], ()), tuple(outputs)), (start, carry[0], tuple(outputs))

    def backward(
        self, loop: Loop, kept: Kept, gradients: Any, parameters: Sequence[Tensor], f: VectorField
    ) -> tuple[Gradients, Gradients]:
        f = loop.weighted(f)
        if (solver := self._segment_solver(loop, f, parameters)) is not None:
            of_state, of_parameters = backsolve(loop, kept.take(), gradients, solver)
            # The integral of a parameter that f does not use is zero.
            pairs = zip(parameters, of_parameters, strict=True)
            return of_state, [torch.zeros_like(p) if g is None else g for p, g in pairs]
        start, end, _ = kept.take()
        (gradient, _), _ = gradients
        stages = _mirrored_stages(loop.scheme, loop.nodes[0])
        rates = augmented(f, parameters, lambda stage: stages.get(stage, stage))
        paired = loop.scheme.components > 1
        state = join_augmented(end, plus(zeros(end), gradient), (None,) * len(parameters), paired)
        solver_state = loop.scheme.init_state(state)
        for node in reversed_nodes(tuple(loop.nodes)):
            state, solver_state = loop.scheme.step(rates, node, state, solver_state)
        y, costate, of_parameters = split_augmented(state, paired)
        warn_of_gap(reconstruction_error(start, y, fingerprint(end)))
        return [*flatten(costate)[0]], [*of_parameters]

    def _error_control(self, loop: Loop) -> ErrorControl | None:
        """What decides the steps backwards; None where they are given, by the mode's grid or by the loop."""
        control = loop.error_control() if self.grid is None else self.grid.error_control()
        if control is None:
            return None
        rtol = control.rtol if self.rtol is None else self.rtol
        atol = control.atol if self.atol is None else self.atol
        return ErrorControl(control.settings, rtol, atol)

    def _segment_solver(self, loop: Loop, f: VectorField, parameters: Sequence[Tensor]) -> SegmentSolver | None:
        """The solver between output times; None for a flow on a uniform grid, which has none."""
        if not (times := loop.output_times()):
            return None
        scheme, callback = self.scheme or loop.scheme, loop.module.adjoint_callback()
        if (control := self._error_control(loop)) is not None:
            return AdaptiveSegment(loop, scheme, control, f, parameters, callback, self.norm)
        segments = loop.backward_segments() if self.grid is None else self.grid.backward_segments(times)
        return FixedSegment(loop, scheme, segments, f, parameters, callback)


def _unsupported_adaptive_reason(scheme: Scheme) -> str | None:
    if scheme.explicit_pair is not None:
        return None
    return (
        "gradient mode 'adjoint' on an adaptive grid adds up the parameters' gradient with the weights of a "
        f"Runge-Kutta pair, which {type(scheme).__name__} has not; use dopri5 or tsit5, or gradient=checkpoint"
    )


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
