"""``solve_control``: the best control of a problem, with states, costates and Hamiltonian along the way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from schemes.control.discretization import DiscretizedProblem, rate
from schemes.control.problem import ControlProblem
from schemes.control.search import LEAST_TIME, Method, Search
from schemes.errors import SchemenetError
from schemes.registry import CONTROL_METHODS, CONTROL_PROBLEMS
from schemes.schema import Spec, objection


class ControlSolution(NamedTuple):
    """The best control that was found.

    Attributes:
        cost: J, without the penalty of a constraint.
        end_time: T.
        times: of the states, (steps + 1,).
        states: x, (steps + 1, rows, states).
        controls: u at the beginning of each step, (steps, controls).
        costates: a, the gradient of J + m . c with respect to x, (steps + 1, rows, states).
        hamiltonian: H = a . f + L at the beginning of each step, (steps,), the mean over rows. Along the exact solution
            it is constant where the problem does not depend on t, and -dPhi/dT where T is free.
        constraint: c(x(T)), (rows x constraints,).
        search: how the method ended.
        control_at: u at any time of [0, T], (controls,).
    """

    cost: float
    end_time: float
    times: Tensor
    states: Tensor
    controls: Tensor
    costates: Tensor
    hamiltonian: Tensor
    constraint: Tensor
    search: Search
    control_at: Callable[[float], Tensor]


def solve_control(
    problem: Spec | ControlProblem,
    steps: int = 20,
    method: Spec = "direct_shooting",
    scheme: Spec = "rk4",
    sharing: Spec = "per_step",
    gradient: Spec = "backprop",
) -> ControlSolution:
    """Find the control for which the cost of a problem is least.

    Args:
        problem: a :class:`ControlProblem`, or the name of a registered one, or a mapping with ``name`` and parameters.
        steps: number of steps of the scheme, all of one size.
        method: ``direct_shooting`` or ``successive_approximations``.
        scheme: by which the equation is solved.
        sharing: what functions of time the controls are: ``per_step`` (constant in each step), ``shared`` (constant),
            or ``basis`` with ``kind`` and ``size``.
        gradient: the gradient mode of direct shooting.

    Returns:
        The control with all that belongs to it. ``search.converged`` says whether the method met its tolerance.

    Raises:
        SchemenetError: where the parts do not go together.
    """
    if (problem_of_steps := objection(steps, "int")) is not None or steps < 1:
        raise SchemenetError(f"steps {problem_of_steps or f'expected to be at least 1, got {steps}'}")
    chosen: Any = CONTROL_PROBLEMS.built(problem)
    if not isinstance(chosen, ControlProblem):
        raise SchemenetError(f"problem: expected a ControlProblem, got {type(chosen).__name__}")
    method_used: Method = CONTROL_METHODS.built(method)
    discretized = DiscretizedProblem(chosen, steps, scheme, sharing, gradient)
    search = method_used(discretized)
    with torch.no_grad():
        outcome = discretized()
    path = discretized.path(lambda end: end.cost + search.multipliers @ end.constraint)
    controls = torch.stack([discretized.control(node) for node in path.nodes])
    end_time = float(discretized.end_time.detach())
    if chosen.free_end_time and end_time <= LEAST_TIME * chosen.end_time * (1 + 1e-6):
        search = search._replace(converged=False, message=f"the end time fell to the least one, {end_time:g}")
    rates = [
        rate(chosen, node, y, u.expand(len(y), -1))
        for node, y, u in zip(path.nodes, path.states, controls, strict=False)
    ]
    hamiltonian = (path.costates[:-1, :, :-1] * torch.stack(rates)[..., :-1]).sum((1, 2)) / end_time
    fractions = [node.t for node in path.nodes] + [1.0]
    return ControlSolution(
        cost=float(outcome.cost), end_time=end_time, times=end_time * path.states.new_tensor(fractions),
        states=path.states[..., :-2], controls=controls, costates=path.costates[..., :-2],
        hamiltonian=hamiltonian.detach(), constraint=outcome.constraint, search=search,
        control_at=lambda t: discretized.control_at(float(t) / end_time),
    )  # fmt: skip
