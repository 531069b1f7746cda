"""Discretised control problem: the control in a basis of functions, the equation by the steps of a scheme."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from schemes.analysis.costates import costates
from schemes.control.problem import ControlProblem
from schemes.core.node import Node
from schemes.core.state import State
from schemes.errors import SchemenetError
from schemes.flow import Flow
from schemes.schema import Spec


class ControlField(nn.Module):
    """The rate of (x, integral of L, T) in the time s = t / T of [0, 1], with a constant control as its weights.

    d/ds (x, l, T) = (T f(t, x, u), T L(t, x, u), 0)
    """

    def __init__(self, problem: ControlProblem) -> None:
        super().__init__()
        self.control = nn.Parameter(problem.first_controls().clone())
        self.rate = partial(rate, problem)  # no module of this one: its weights are no control

    def forward(self, node: Node, y: Tensor) -> Tensor:
        return self.rate(node, y, self.control.expand(len(y), -1))


def rate(problem: ControlProblem, node: Node, y: Tensor, u: Tensor) -> Tensor:
    x, end_time = y[:, :-2], y[:, -1:]
    t = end_time * (node.t.unsqueeze(1) if isinstance(node.t, Tensor) and node.t.dim() else node.t)
    cost = problem.running_cost(t, x, u).unsqueeze(1)
    return torch.cat((end_time * problem.rate(t, x, u), end_time * cost, torch.zeros_like(cost)), dim=1)


class Outcome(NamedTuple):
    """What a control leads to.

    Attributes:
        cost: J, the mean over the rows.
        constraint: c(x(T)) of all rows, (rows x constraints,).
    """

    cost: Tensor
    constraint: Tensor


class Path(NamedTuple):
    """States and costates along the steps.

    Attributes:
        nodes: of the steps, in the time s = t / T.
        states: of (x, integral of L, T), (steps + 1, rows, states + 2).
        costates: gradients of the Lagrangian with respect to them.
    """

    nodes: tuple[Node, ...]
    states: Tensor
    costates: Tensor


def _tensor(state: State) -> Tensor:
    """A state that no scheme has split."""
    assert isinstance(state, Tensor)
    return state


class DiscretizedProblem(nn.Module):
    """A control problem with finitely many variables: the coefficients of the control and, where it is free, T.

    Args:
        problem: what is discretised.
        steps: how many the scheme takes.
        scheme: the method.
        sharing: the control as a function of time: ``per_step``, ``shared`` or a basis.
        gradient: the gradient mode.
    """

    def __init__(
        self,
        problem: ControlProblem,
        steps: int,
        scheme: Spec = "rk4",
        sharing: Spec = "per_step",
        gradient: Spec = "backprop",
    ) -> None:
        super().__init__()
        problem.check()
        self.problem = problem
        grid = {"name": "uniform", "time": 1.0}
        self.flow = Flow(lambda _: ControlField(problem), steps, scheme, sharing, grid, gradient)
        if (reason := self._unsupported_reason()) is not None:
            raise SchemenetError(reason)
        self.end_time = nn.Parameter(problem.start.new_tensor(problem.end_time), problem.free_end_time)
        self.lower, self.upper = (end.to(problem.start) for end in problem.bounds())

    def _unsupported_reason(self) -> str | None:
        """Why scheme and sharing do not discretise the problem, as a sentence; None where they do."""
        scheme, sharing = self.flow.scheme, self.flow.sharing
        name, functions = type(scheme).__name__, sharing.functions()
        if scheme.components > 1:
            return f"scheme {name} splits the state into coupled components; choose one for u' = f(t, u), e.g. rk4"
        if scheme.order is None or next(scheme.parameters(), None) is not None:
            fixed = ", or linear_multistep with fixed coefficients, scheme.k=0.5 and scheme.scale=true"
            return (
                f"scheme {name} as configured is no method for x' = f, so its cost is not the problem's; choose a "
                f"consistent one, e.g. rk4{fixed if name == 'LinearMultistep' else ''}"
            )
        most = max(len(self.flow.nodes) // 2, 1)
        if scheme.multistep and not scheme.implicit and len(list(self.flow.parameters())) > most:
            return (
                f"scheme {name} reads the rates of earlier steps, whose control is another: a control that changes in "
                "every step has a cost by it that is not the problem's; choose a one-step scheme, e.g. rk4, or at most "
                f"{most} functions of time by sharing=basis sharing.kind=hat sharing.size={most}"
            )
        if sharing.of_stages:
            return (
                f"sharing {sharing.described!r}: a control is a function of time, and the stages of a step are at "
                "times of one; use sharing=per_step, shared or basis"
            )
        if functions is not None and not functions.local and torch.stack(self.problem.bounds()).isfinite().any():
            return (
                f"sharing {sharing.described!r}: sums of such functions do not keep the bounds of a control; "
                "use sharing.kind=piecewise_constant or hat"
            )
        return None

    def variables(self) -> list[nn.Parameter]:
        """The coefficients of the control, in order, and T where it is free."""
        return [*self.flow.parameters(), *([self.end_time] if self.problem.free_end_time else [])]

    def start(self) -> Tensor:
        """(x_0, 0, T), (rows, states + 2)."""
        x = self.problem.start
        return torch.cat((x, x.new_zeros(len(x), 1), self.end_time.expand(len(x), 1)), dim=1)

    def forward(self) -> Outcome:
        return self.outcome(self.flow(self.start()))

    def outcome(self, end: Tensor) -> Outcome:
        """Cost and constraint of (x(T), integral of L, T)."""
        x, running, end_time = end[:, :-2], end[:, -2], end[:, -1]
        cost = (running + self.problem.terminal_cost(x, end_time)).mean()
        return Outcome(cost, self.problem.terminal_constraint(x).flatten())

    def path(self, lagrangian: Callable[[Outcome], Tensor]) -> Path:
        """States and costates of a Lagrangian of the outcome."""
        with torch.no_grad():
            start = self.start()
            end = self.flow(start)
        with torch.enable_grad():
            end.requires_grad_()
            (gradient,) = torch.autograd.grad(lagrangian(self.outcome(end)), end)
        nodes, states, gradients = costates(self.flow, start, gradient)
        return Path(nodes, torch.stack([_tensor(y) for y in states]), torch.stack([_tensor(a) for a in gradients]))

    def control(self, node: Node) -> Tensor:
        """u at a node, (controls,)."""
        return dict(self.flow.bank.at(node).named_parameters(), **self.flow.bank.weights(node))["control"].detach()

    def control_at(self, fraction: float) -> Tensor:
        """u at a time of [0, 1] in units of T, (controls,); where it jumps the value of the later step."""
        rounding = 4 * torch.finfo(self.problem.start.dtype).eps
        if not -rounding <= fraction <= 1 + rounding:
            raise SchemenetError(f"expected a time from 0 to the end time, got {fraction:g} of it")
        nodes = self.flow.nodes
        step = min(int(fraction * len(nodes) * (1 + rounding)), len(nodes) - 1)
        return self.control(nodes[step]._replace(t=min(max(fraction, 0.0), 1.0)))
