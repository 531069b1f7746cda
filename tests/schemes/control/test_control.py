"""Control problems against their closed forms, and both methods against each other."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from schemes.control.controlled_flow import ControlledFlow
from schemes.control.discretization import DiscretizedProblem
from schemes.control.examples import Car, LinearQuadratic
from schemes.control.problem import ControlProblem
from schemes.control.solve import solve_control
from schemes.control.successive_approximations import SuccessiveApproximations, _Step
from schemes.errors import SchemenetError

MSA = "successive_approximations"


@pytest.mark.parametrize("distance", [0.25, 1.0, 9.0])
@pytest.mark.parametrize("scheme", ["forward_euler", "rk4"])
def test_a_car_arrives_in_least_time_with_one_switch(distance: float, scheme: str) -> None:
    solution = solve_control(Car(distance), steps=12, scheme=scheme)
    assert solution.search.converged
    assert solution.end_time == pytest.approx(2 * math.sqrt(distance), rel=1e-9)
    assert solution.controls[:, 0].tolist() == pytest.approx([1.0] * 6 + [-1.0] * 6, abs=1e-6)
    assert float(solution.constraint.abs().max()) < 1e-8
    fraction = 0.49 * solution.end_time
    assert float(solution.control_at(fraction)) == pytest.approx(1.0)
    assert float(solution.control_at(solution.end_time - fraction)) == pytest.approx(-1.0)


def test_a_switch_inside_a_step_is_within_one_step() -> None:
    solution = solve_control(Car(), steps=11)
    signs = solution.controls[:, 0].tolist()
    assert signs == pytest.approx([1.0] * 5 + [0.0] + [-1.0] * 5, abs=1e-6)
    assert 2.0 < solution.end_time < 2.0 + 2 / 11


def test_the_hamiltonian_of_a_free_end_time_is_minus_one() -> None:
    solution = solve_control(Car(), steps=11)  # whose multipliers are unique: one control is inside its bounds
    assert solution.hamiltonian.tolist() == pytest.approx([-1.0] * 11, abs=0.1)
    after = solution.hamiltonian[6:]
    assert float(after.max() - after.min()) < 1e-9


def test_successive_approximations_bring_the_car_home() -> None:
    method = {"name": MSA, "tolerance": 1e-3}
    solution = solve_control(Car(), steps=4, scheme="forward_euler", method=method)
    assert solution.search.converged
    assert solution.end_time == pytest.approx(2.0, abs=2e-3)
    assert solution.controls[:, 0].tolist() == pytest.approx([1.0, 1.0, -1.0, -1.0], abs=2e-2)


def test_a_constant_control_of_each_step_approaches_riccatis_cost_with_order_two() -> None:
    problem = LinearQuadratic()
    excess = [solve_control(problem, steps=n).cost - problem.best_cost for n in (5, 10, 20)]
    assert all(e > 0 for e in excess)
    assert [math.log2(a / b) for a, b in itertools.pairwise(excess)] == pytest.approx([2, 2], abs=0.15)


def test_the_control_approaches_riccatis_feedback() -> None:
    problem = LinearQuadratic(time=2.0, weight=0.5)
    solution = solve_control(problem, steps=40, sharing={"name": "basis", "kind": "hat", "size": 41})
    for n in (10, 20, 30):
        p = problem.riccati(float(solution.times[n]))
        feedback = -(p @ solution.states[n, 0].numpy())[1] / problem.weight
        assert float(solution.controls[n]) == pytest.approx(feedback, abs=2e-3)


def test_riccatis_equation_holds() -> None:
    problem = LinearQuadratic(time=10.0, weight=0.01)
    assert problem.riccati(10.0) == pytest.approx(np.eye(2))
    a, b, h = np.array([[0, 1.0], [-1, 0]]), np.array([[0], [1.0]]), 1e-5
    p = problem.riccati(9.0)
    slope = (problem.riccati(9.0 + h) - problem.riccati(9.0 - h)) / (2 * h)
    assert -slope == pytest.approx(a.T @ p + p @ a - p @ b @ b.T @ p / 0.01 + np.eye(2), abs=1e-5)
    assert problem.best_cost > 0


@pytest.mark.parametrize("scheme", ["forward_euler", "heun"])
def test_both_methods_find_the_same_control(scheme: str) -> None:
    first, second = (solve_control(LinearQuadratic(), 6, method, scheme) for method in ("direct_shooting", MSA))
    assert first.search.converged
    assert second.search.converged
    assert second.cost == pytest.approx(first.cost, rel=1e-8)
    assert second.controls.tolist() == [pytest.approx(u, abs=1e-4) for u in first.controls.tolist()]


@pytest.mark.parametrize("scheme", ["forward_euler", "midpoint", "rk4", "backward_euler_poly"])
@pytest.mark.parametrize("problem", [Car(), LinearQuadratic()], ids=["car", "linear_quadratic"])
def test_slopes_of_the_hamiltonian_are_the_gradient_of_the_cost(problem: ControlProblem, scheme: str) -> None:
    """One gradient step of successive approximations is gradient descent."""
    discretized = DiscretizedProblem(problem, 5, scheme)
    torch.manual_seed(0)
    with torch.no_grad():
        for control in discretized.flow.parameters():
            control.uniform_(-1, 1)

    def lagrangian(outcome: Any) -> Tensor:
        return outcome.cost + 3 * outcome.constraint.square().sum()

    step = _Step(discretized, discretized.path(lagrangian))
    variables = discretized.variables()
    gradients = torch.autograd.grad(lagrangian(discretized()), variables)
    assert step.slope.flatten().tolist() == pytest.approx([float(g) for g in gradients[:5]], rel=1e-12, abs=1e-14)
    if problem.free_end_time:
        assert float(step.slope_in_time) == pytest.approx(float(gradients[5]), rel=1e-12)


def test_the_cost_falls_in_every_iteration() -> None:
    costs = [
        solve_control(LinearQuadratic(), 5, {"name": MSA, "rho": 1e-3, "iterations": k}, "forward_euler").cost
        for k in range(1, 12)
    ]
    assert all(later <= earlier + 1e-14 for earlier, later in itertools.pairwise(costs))
    assert costs[-1] < costs[0]


def test_without_a_penalty_successive_approximations_diverge_here() -> None:
    plain = solve_control(LinearQuadratic(), 5, {"name": MSA, "rho": 0.0, "iterations": 10})
    assert not plain.search.converged
    assert not plain.cost < 10


def test_a_linear_flow_is_steered_as_the_closed_form_says() -> None:
    """x' = a x + u, J = (x(T) - 1)^2 / 2 + (w / 2) int u^2: u = c exp(-a t), with c from the end."""
    a, w, end = 0.7, 0.1, 1.5
    linear = torch.nn.Linear(1, 1, bias=False, dtype=torch.float64)
    torch.nn.init.constant_(linear.weight, a)
    start = torch.tensor([[0.2]], dtype=torch.float64)
    problem = ControlledFlow(lambda t, x: linear(x), start, end, lambda x: (x[:, 0] - 1).square() / 2, w)
    solution = solve_control(problem, steps=30, sharing={"name": "basis", "kind": "hat", "size": 31})
    gain = (math.exp(a * end) - math.exp(-a * end)) / (2 * a)  # of c in x(T)
    reach = 0.2 * math.exp(a * end)
    c = (1 - reach) * math.exp(a * end) / (w + gain * math.exp(a * end))
    exact = [c * math.exp(-a * float(t)) for t in solution.times[:-1]]
    assert solution.controls[:, 0].tolist() == pytest.approx(exact, abs=2e-3)
    assert linear.weight.item() == a
    assert linear.weight.grad is None


def test_one_control_serves_several_initial_states() -> None:
    problem = LinearQuadratic()
    problem.start = torch.tensor([[1.0, 0.5], [-1.0, -0.5]], dtype=torch.float64)
    for method in ("direct_shooting", MSA):
        solution = solve_control(problem, 5, method)
        assert solution.states.shape == (6, 2, 2)
        assert solution.controls.abs().max() < 1e-4, "what helps one harms the other"


def test_gradient_modes_and_bases_agree() -> None:
    """Constant pieces of as many steps are a control of each step, and checkpoints change nothing."""
    pieces = {"name": "basis", "kind": "piecewise_constant", "size": 5}
    plain = solve_control(LinearQuadratic(), 5)
    assert solve_control(LinearQuadratic(), 5, sharing=pieces).cost == pytest.approx(plain.cost, rel=1e-12)
    assert solve_control(LinearQuadratic(), 5, gradient="checkpoint").cost == pytest.approx(plain.cost, rel=1e-12)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"steps": 0}, "steps expected to be at least 1, got 0"),
        ({"steps": 2.5}, "steps expected a whole number, got 2.5"),
        ({"scheme": "verlet"}, "coupled components"),
        ({"method": "direct"}, "direct_shooting"),
        ({"method": MSA, "scheme": "implicit_midpoint"}, "ImplicitMidpoint goes with direct_shooting"),
        ({"scheme": "linear_multistep"}, "scheme.k=0.5"),
        ({"method": MSA, "sharing": "shared"}, "sharing=per_step"),
        ({"method": MSA, "scheme": "reversible_heun", "steps": 1}, "without memory"),
        ({"scheme": "leapfrog"}, "choose a one-step scheme, e.g. rk4, or at most 10 functions"),
        ({"sharing": {"name": "basis", "kind": "legendre"}}, "piecewise_constant or hat"),
        ({"problem": "bus"}, "known: car, linear_quadratic"),
        ({"problem": {"name": "car", "distance": -1.0}}, "above 0, got -1"),
        ({"scheme": "fractal"}, "Fractal as configured is no method for x' = f"),
        ({"scheme": {"name": "linear_multistep", "k": 0.5}}, "scheme.scale=true"),
        ({"sharing": "per_stage"}, "use sharing=per_step, shared or basis"),
        ({"problem": 3}, "expected a ControlProblem, got int"),
        ({"method": {"name": MSA, "rho": -1.0}}, "rho expected at least 0, got -1"),
        ({"method": {"name": "direct_shooting", "iterations": 0}}, "iterations expected at least 1, got 0"),
    ],
)
def test_mistakes(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(SchemenetError) as error:
        solve_control(**{"problem": "car", **arguments})
    assert message in str(error.value)


def test_a_search_that_ends_early_says_so() -> None:
    solution = solve_control(Car(), 4, SuccessiveApproximations(iterations=2))
    assert not solution.search.converged
    assert "used up" in solution.search.message


class Oscillator(ControlProblem):
    start = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    controls = 1

    def rate(self, t: Tensor, x: Tensor, u: Tensor) -> Tensor:
        return torch.cat((x[:, 1:], u - x[:, :1]), 1)

    def running_cost(self, t: Tensor, x: Tensor, u: Tensor) -> Tensor:
        return u.square().sum(1) + x.square().sum(1)


@pytest.mark.parametrize(
    ("attributes", "messages"),
    [
        ({"start": torch.ones(2)}, ["start: expected a tensor", "(rows, states), got torch.float32 of shape (2,)"]),
        ({"start": torch.ones(1, 2, dtype=torch.int64)}, ["got torch.int64"]),
        ({"start": None, "controls": 0, "end_time": -1.0}, ["start: ", "got None", "controls: ", "end_time: ", "-1.0"]),
        ({"controls": 1.5}, ["controls: expected a whole number of at least 1, got 1.5"]),
        ({"end_time": math.nan}, ["end_time: expected a number above 0, got nan"]),
        ({"lower": 2.0, "upper": 1.0}, ["expected lower <= upper, got lower=2.0, upper=1.0"]),
        ({"lower": (0.0, 1.0)}, ["expected a number or 1 as lower, got lower=(0.0, 1.0)"]),
        ({"rate": lambda self, t, x, u: x[:, :1]}, ["rate expected to return a tensor of shape (1, 2), got (1, 1)"]),
        ({"rate": lambda self, t, x, u: 3}, ["rate expected", "got 3"]),
        ({"running_cost": lambda self, t, x, u: u}, ["running_cost expected to return a tensor of shape (1,)"]),
        ({"terminal_cost": lambda self, x, T: x.sum()}, ["terminal_cost expected", "got ()"]),
        ({"terminal_constraint": lambda self, x: x[:, 0]}, ["terminal_constraint expected", "(1, constraints)"]),
        ({"start": torch.ones(0, 2)}, ["start: expected finite states", "got shape (0, 2)"]),
        ({"start": torch.full((1, 2), math.inf)}, ["start: expected finite states", "got NaN or infinity"]),
        ({"lower": 1.0, "upper": 1.0}, ["lower and upper are 1.0 both", "expected a range"]),
        ({"first_control": math.nan}, ["first_control: expected finite numbers, got nan"]),
        ({"first_control": (1.0, 2.0)}, ["expected a number or 1 as first_control, got first_control=(1.0, 2.0)"]),
        ({"free_end_time": "yes"}, ["free_end_time: expected true or false, got 'yes'"]),
        ({"rate": lambda self, t, x, u: 1 / 0}, ["rate failed for 1 rows: ZeroDivisionError: division by zero"]),
    ],
)
def test_a_problem_that_is_wrong_is_refused(attributes: dict[str, Any], messages: list[str]) -> None:
    with pytest.raises(SchemenetError) as error:
        solve_control(type("Wrong", (Oscillator,), attributes)(), 3)
    assert all(message in str(error.value) for message in ["control problem Wrong", *messages]), error.value


@pytest.mark.parametrize("method", ["direct_shooting", MSA])
def test_a_cost_that_is_no_number_is_no_success(method: str) -> None:
    class Broken(Oscillator):
        def running_cost(self, t: Tensor, x: Tensor, u: Tensor) -> Tensor:
            return u.square().sum(1) * math.nan

    result = solve_control(Broken(), 3, method)
    assert not result.search.converged
    assert "no number" in result.search.message


def test_a_first_control_outside_its_bounds_begins_at_one_of_them() -> None:
    problem = type("Bounded", (Oscillator,), {"lower": 0.0, "upper": 1.0, "first_control": 5.0})()
    result = solve_control(problem, 3)
    assert result.search.converged
    assert float(result.controls.min()) >= 0


def test_each_control_has_its_bounds_and_its_first_value() -> None:
    """x' = u towards (1, 1), one control fixed, the other one at its bound."""

    class Pair(ControlProblem):
        start = torch.zeros(2, 2)  # single precision
        controls, lower, upper, first_control = 2, (-1.0, 0.25), (0.5, 0.25), (0.1, 9.0)

        def rate(self, t: Tensor, x: Tensor, u: Tensor) -> Tensor:
            return u

        def terminal_cost(self, x: Tensor, end_time: Tensor) -> Tensor:
            return (x - 1).square().sum(1)

    assert Pair().first_controls().tolist() == pytest.approx([0.1, 0.25])
    solution = solve_control(Pair(), 4)
    assert solution.search.converged
    assert solution.controls[-1].tolist() == pytest.approx([0.5, 0.25], abs=1e-6)
    assert solution.cost == pytest.approx(0.25 + 0.75**2, rel=1e-6)


def test_a_multistep_scheme_needs_a_control_that_changes_slowly() -> None:
    """With one in every step leapfrog's cost does not read half of the control, and was 0.68 at any step size."""
    slow = {"name": "basis", "kind": "hat", "size": 5}
    costs = [solve_control(LinearQuadratic(), n, scheme="leapfrog", sharing=slow).cost for n in (20, 40)]
    exact = solve_control(LinearQuadratic(), 40, sharing=slow).cost
    assert abs(costs[1] - exact) < abs(costs[0] - exact) / 3
    with pytest.raises(SchemenetError, match="one-step scheme"):
        solve_control(LinearQuadratic(), 8, scheme="leapfrog", sharing=slow)


def test_single_precision_converges() -> None:
    problem = type("Single", (Oscillator,), {"start": torch.tensor([[1.0, -0.5]])})()
    solution = solve_control(problem, 10)
    assert solution.search.converged
    problem.start = problem.start.double()
    assert solution.cost == pytest.approx(solve_control(problem, 10).cost, rel=1e-5)


@pytest.mark.parametrize("method", ["direct_shooting", MSA])
def test_an_end_time_at_its_least_value_is_no_solution(method: str) -> None:
    problem = type("Free", (Oscillator,), {"free_end_time": True})()
    solution = solve_control(problem, 3, method)
    assert not solution.search.converged
    assert solution.end_time <= 1.01e-3 * problem.end_time
    assert "the end time fell to the least one" in solution.search.message


def test_a_control_is_read_at_the_times_of_its_steps() -> None:
    solution = solve_control(LinearQuadratic(time=0.7), 13)
    at_times = torch.stack([solution.control_at(float(t)) for t in solution.times[:-1]])
    assert torch.equal(at_times, solution.controls)
    assert torch.equal(solution.control_at(0.7), solution.controls[-1])
    for outside in (-0.1, 0.71, math.nan):
        with pytest.raises(SchemenetError, match="from 0 to the end time"):
            solution.control_at(outside)


def test_searches_in_single_precision_converge() -> None:
    """A tolerance of a few roundings ends in a line search that fails, on one processor or another."""
    for seed in range(30):
        problem = Oscillator()
        problem.start = torch.randn(2, 2, generator=torch.Generator().manual_seed(seed))
        search = solve_control(problem, 3 + seed % 9).search
        assert search.converged, (seed, search)


def test_functions_of_one_number_of_rows_do_with_direct_shooting_alone() -> None:
    class Scaled(Oscillator):
        def rate(self, t: Tensor, x: Tensor, u: Tensor) -> Tensor:
            return super().rate(t, x, u) * torch.ones(2, 2)

    problem = Scaled()
    problem.start = torch.ones(2, 2)
    assert solve_control(problem, 3).search.converged
    with pytest.raises(SchemenetError, match="rate failed for 6 rows: RuntimeError"):
        solve_control(problem, 3, MSA)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"start": torch.ones(2)}, "start: expected a tensor"),
        ({"f": lambda t, x: x[:, :1]}, "f expected to return a tensor of the shape of x, (1, 2), got (1, 1)"),
        ({"terminal_cost": lambda x: x}, "terminal_cost expected to return a tensor of shape (1,), got (1, 2)"),
        ({"weight": -1.0}, "weight expected at least 0, got -1.0"),
    ],
)
def test_a_controlled_flow_that_is_wrong_is_refused(arguments: dict[str, Any], message: str) -> None:
    fitting = {"f": lambda t, x: -x, "start": torch.ones(1, 2), "end_time": 1.0, "terminal_cost": lambda x: x.sum(1)}
    with pytest.raises(SchemenetError) as error:
        solve_control(ControlledFlow(**{**fitting, **arguments}), 3)
    assert message in str(error.value)
