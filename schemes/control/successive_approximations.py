"""Successive approximations: the best control by Pontryagin's principle."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from schemes.control.discretization import DiscretizedProblem, Outcome, Path, rate
from schemes.control.search import LEAST_TIME, NO_NUMBER, Search, require_at_least
from schemes.core.node import Node
from schemes.core.state import State
from schemes.errors import SchemenetError
from schemes.registry import CONTROL_METHODS


@CONTROL_METHODS.register("successive_approximations")
class SuccessiveApproximations:
    r"""States forward, costates backward, then at every time the control that minimises the Hamiltonian.

    One step of the scheme is y_{n+1} = F_n(y_n, u_n), where y holds the running cost too, and the control is constant
    in a step. With costates a_{n+1} of the control u^k

        u_n^{k+1} = argmin_{lower <= u <= upper}  a_{n+1} . F_n(y_n, u) + (rho h / 2) |u - u_n^k|^2,

    all n at once, by Newton's method. A free end time is a control that is constant: T^{k+1} = T^k - (dJ/dT) / rho.

    With rho = 0 this is the method of successive approximations as it was first written, which may diverge. With rho
    above 0 a control that costs more is discarded and rho is multiplied by 4, else it is halved: the cost falls in
    every iteration. A terminal constraint is met by the augmented Lagrangian J + m . c + (mu / 2) |c|^2.

    Args:
        rho: weight of the change, at first.
        penalty: mu, at first.
        tolerance: largest distance of the control from a stationary one (what a step of length 1 along the gradient
            changes within the bounds), and largest |c|, at the end.
        iterations: most of them.

    Reference: Krylov and Chernous'ko, "On a method of successive approximations for the solution of problems of optimal
    control", USSR Comput. Math. Math. Phys. 2, 1963; Sakawa and Shindo, "On global convergence of an algorithm for
    optimal control", IEEE Trans. Autom. Control 25, 1980.
    """

    def __init__(
        self, rho: float = 1.0, penalty: float = 10.0, tolerance: float = 1e-5, iterations: int = 2000
    ) -> None:
        require_at_least("successive_approximations", 0, rho=rho, penalty=penalty, tolerance=tolerance)
        require_at_least("successive_approximations", 1, iterations=iterations)
        self.rho, self.penalty, self.tolerance, self.iterations = rho, penalty, tolerance, iterations

    def __call__(self, discretized: DiscretizedProblem) -> Search:
        _check(discretized)
        variables = discretized.variables()
        with torch.no_grad():
            outcome = discretized()
        lagrangian = AugmentedLagrangian(torch.zeros_like(outcome.constraint), self.penalty)
        value, rho, violation, evaluations = lagrangian(outcome), self.rho, math.inf, 1
        for iteration in range(self.iterations):
            step = _Step(discretized, discretized.path(lagrangian))
            evaluations += 1
            if step.stationarity() <= self.tolerance:
                largest = float(outcome.constraint.abs().amax()) if len(outcome.constraint) else 0.0
                if largest <= self.tolerance:
                    return Search(True, "the control is stationary", iteration, evaluations, lagrangian.multipliers)
                lagrangian = lagrangian.updated(outcome, heavier=largest > violation / 4)
                violation, value = largest, lagrangian(outcome)
                continue
            before = [variable.detach().clone() for variable in variables]
            step.take(rho)
            with torch.no_grad():
                following = discretized()
            evaluations += 1
            if rho and not lagrangian(following) <= value + ROUNDING * abs(value):
                _set(variables, before)
                rho *= 4
            else:
                outcome, value, rho = following, lagrangian(following), rho / 2
            if not value.isfinite():
                return Search(False, NO_NUMBER, iteration + 1, evaluations, lagrangian.multipliers)
        return Search(False, "the iterations are used up", self.iterations, evaluations, lagrangian.multipliers)


class AugmentedLagrangian:
    """J + m . c + (mu / 2) |c|^2."""

    def __init__(self, multipliers: Tensor, weight: float) -> None:
        self.multipliers, self.weight = multipliers, weight

    def __call__(self, outcome: Outcome) -> Tensor:
        c = outcome.constraint
        return outcome.cost + self.multipliers @ c + self.weight / 2 * c @ c

    def updated(self, outcome: Outcome, heavier: bool) -> AugmentedLagrangian:
        """The next one, at whose minimum the constraint is smaller."""
        multipliers = self.multipliers + self.weight * outcome.constraint.detach()
        return AugmentedLagrangian(multipliers, self.weight * (4 if heavier else 1))


class _Step:
    """One iteration: the Hamiltonians of all steps of the scheme, as functions of its controls."""

    def __init__(self, discretized: DiscretizedProblem, path: Path) -> None:
        self.discretized, self.path = discretized, path
        self.controls = list(discretized.flow.parameters())
        self.u = torch.stack([control.detach() for control in self.controls])
        self.h = path.nodes[0].h
        rows = path.states.shape[1]
        times = path.states.new_tensor([node.t for node in path.nodes]).repeat_interleave(rows)
        self.node = Node(0, times, self.h)
        self.y, self.a = path.states[:-1].flatten(0, 1), path.costates[1:].flatten(0, 1)
        self.slope = self.derivatives(self.u)[0]
        self.end_time = discretized.end_time.detach().clone()
        self.slope_in_time = path.costates[0, :, -1].sum() * discretized.problem.free_end_time

    def derivatives(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Gradients, (steps, controls), and Hessians, (steps, controls, controls), of a_{n+1} . F_n(y_n, u_n)."""
        problem, scheme = self.discretized.problem, self.discretized.flow.scheme
        with torch.enable_grad():
            u = u.detach().requires_grad_()
            every = u.repeat_interleave(len(self.y) // len(u), dim=0)

            def f(node: Node, y: State) -> State:
                assert isinstance(y, Tensor)
                return rate(problem, node, y, every)

            after, _ = scheme.step(f, self.node, self.y, ())
            assert isinstance(after, Tensor)
            (gradient,) = torch.autograd.grad((self.a * after).sum(), u, create_graph=True, materialize_grads=True)
            rows = [
                torch.autograd.grad(part, u, retain_graph=True, materialize_grads=True)[0]
                if part.requires_grad
                else torch.zeros_like(u)
                for part in gradient.sum(0)
            ]
        return gradient.detach(), torch.stack(rows, dim=1)

    def stationarity(self) -> float:
        """How far a gradient step of length 1 moves the controls within their bounds, and T."""
        moved = self.bounded(self.u - self.slope / self.h) - self.u
        return max(float(moved.abs().amax()), float(abs(self.later(1.0) - self.end_time)))

    def bounded(self, u: Tensor) -> Tensor:
        return torch.minimum(torch.maximum(u, self.discretized.lower), self.discretized.upper)

    def take(self, rho: float) -> None:
        """Set the controls that minimise the Hamiltonians, and T."""
        u = self.u
        for _ in range(NEWTON):
            slope, curvature = self.derivatives(u)
            slope = slope + rho * self.h * (u - self.u)
            stuck = ((u <= self.discretized.lower) & (slope > 0)) | ((u >= self.discretized.upper) & (slope < 0))
            following = self.bounded(u - _newton(slope, curvature, stuck, rho * self.h))
            change, u = float((following - u).abs().amax()), following
            if not change > CLOSE:
                break
        _set(self.controls, list(u))
        _set([self.discretized.end_time], [self.later(1 / max(rho, CLOSE))])

    def later(self, length: float) -> Tensor:
        """T after a step along its gradient."""
        return (self.end_time - length * self.slope_in_time).clamp_min(LEAST_TIME * self.discretized.problem.end_time)


NEWTON = 20
"""Most iterations of Newton's method for one control."""
CLOSE = 1e-12
ROUNDING = 1e-14
"""A cost that is larger by this share is no larger."""


def _newton(slope: Tensor, curvature: Tensor, stuck: Tensor, least: float) -> Tensor:
    """Newton's step of each row, in the variables that are not stuck at a bound.

    ``least`` is added to the curvature in every direction; where it is negative its absolute value is taken, so that
    the step goes downhill.
    """
    free = (~stuck).to(slope)
    values, vectors = torch.linalg.eigh(curvature * free.unsqueeze(1) * free.unsqueeze(2))
    inverse = 1 / (values.abs() + least).clamp_min(CLOSE)
    along = (vectors.mT @ (slope * free).unsqueeze(2)).squeeze(2)
    return (vectors @ (inverse * along).unsqueeze(2)).squeeze(2) * free


@torch.no_grad()
def _set(variables: list[torch.nn.Parameter], values: list[Tensor]) -> None:
    for variable, value in zip(variables, values, strict=True):
        variable.copy_(value)


def _check(discretized: DiscretizedProblem) -> None:
    flow = discretized.flow
    discretized.problem.check_shapes(times=len(flow.nodes))
    if flow.sharing.name != "per_step":
        raise SchemenetError(
            f"successive approximations minimise at every step for itself: expected sharing=per_step, got "
            f"{flow.sharing.described}; direct_shooting takes every control"
        )
    if flow.scheme.implicit:
        raise SchemenetError(
            "successive approximations differentiate a step of the scheme twice, which an implicit one does not "
            f"support; {type(flow.scheme).__name__} goes with direct_shooting"
        )
    if flow.scheme.multistep or flow.scheme.init_state(discretized.start()):
        raise SchemenetError(
            f"successive approximations need a scheme without memory, e.g. rk4; {type(flow.scheme).__name__} has one"
        )
