"""Attempts: steps with an error estimate and states in between, for grids that choose their steps."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from schemes import SCHEMES, Node, SchemenetError, solve
from schemes.analysis.reference_problems import START, pendulum
from schemes.core.evaluation_counts import Counted, SolverCounts, counting
from schemes.core.scheme import Scheme
from schemes.flow import Flow
from schemes.nonlinear.newton_krylov import NoConvergence
from tests.support.problems import Tanh, spec_id

PAIRS: list[Any] = [name for name in SCHEMES if SCHEMES.build(name).error_order is not None]
SPECS: list[Any] = [*PAIRS, {"name": "reversible_wrap", "base": "bosh3"}, {"name": "reversible_wrap", "base": "dopri5"}]
each = pytest.mark.parametrize("spec", SPECS, ids=spec_id)

REVERSIBLE = [spec for spec in SPECS if SCHEMES.build(spec).reversible]
STIFF = [name for name in PAIRS if SCHEMES.build(name).implicit]
DENSE = {"dopri5": 4, "tsit5": 4, "dopri8": 5, "kvaerno5": 4, "heun": 3, "fehlberg2": 3}
"""Order of the states in between at the end of a step from an exact start, where it is not Hermite's."""


def start() -> Tensor:
    return torch.tensor(START, dtype=torch.float64)


def exact(theta: float, h: float) -> Tensor:
    """The pendulum after theta h, by small steps of the highest order."""
    scheme, y = SCHEMES.build("dopri8"), start()
    for n in range(4):
        y, _ = scheme.step(pendulum, Node(n, n * theta * h / 4, theta * h / 4), y, ())
    return y


def built(spec: Any) -> Scheme:
    scheme = SCHEMES.build(spec)
    scheme.set_tolerances(1e-13, 1e-13)
    return scheme


def test_these_schemes_have_an_estimate() -> None:
    explicit = {"heun", "fehlberg2", "bosh3", "dopri5", "tsit5", "dopri8"}
    assert set(PAIRS) == explicit | {
        *("kvaerno3", "kvaerno5", "reversible_heun", "asynchronous_leapfrog", "reversible_wrap")
    }


@each
def test_an_attempt_ends_where_the_step_does(spec: Any) -> None:
    options = {"name": spec} if isinstance(spec, str) else spec
    if SCHEMES.build(spec).implicit:
        options = {**options, "tolerance": 1e-13}
    scheme = built(options)
    (y, solver_state), (z, other) = (start(), ()), (start(), ())
    for n, (t, h) in enumerate(((0.0, 0.1), (0.1, 0.03), (0.13, 0.2))):
        node = Node(n, t, h)
        tried = scheme.attempt(pendulum, node, y, solver_state)
        z, other = scheme.step(pendulum, node, z, other)
        y, solver_state = tried.y, tried.solver_state
        torch.testing.assert_close(y, z, rtol=0, atol=1e-12 if scheme.implicit else 0)


@each
def test_the_estimate_falls_with_its_order(spec: Any) -> None:
    scheme = built(spec)
    sizes = []
    for h in (0.2, 0.1) if scheme.error_order > 4 else (0.02, 0.01):
        error = scheme.attempt(pendulum, Node(0, 0.0, h), start(), ()).error()
        sizes.append(float(error.detach().norm()))
    assert math.log2(sizes[0] / sizes[1]) == pytest.approx(scheme.error_order, abs=0.4)


@each
def test_states_in_between_join_the_ends_and_have_their_order(spec: Any) -> None:
    scheme = built(spec)
    order = DENSE.get(spec_id(spec), 3 if scheme.order > 2 else 2)
    for theta in (0.3, 0.5, 0.9):
        errors = []
        for h in (0.4, 0.2, 0.1):
            tried = scheme.attempt(pendulum, Node(0, 0.0, h), start(), ())
            errors.append(float((tried.interpolate(theta) - exact(theta, h)).detach().norm()))
        assert math.log2(errors[1] / errors[2]) > min(order, scheme.order) + 0.7, (theta, errors)
    torch.testing.assert_close(tried.interpolate(0.0), start(), rtol=0, atol=1e-13)
    torch.testing.assert_close(tried.interpolate(1.0), tried.y, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", [name for name in PAIRS if hasattr(SCHEMES[name], "tableau")])
def test_slopes_in_between_are_those_of_f_at_both_ends(name: str) -> None:
    h, tiny = 0.3, 1e-4
    tried = built(name).attempt(pendulum, Node(0, 0.0, h), start(), ())
    for theta, expected in ((0.0, pendulum(Node(0, 0.0, h), start())), (1.0, tried.solver_state[0])):
        slope = (tried.interpolate(theta + tiny) - tried.interpolate(theta - tiny)) / (2 * tiny * h)
        torch.testing.assert_close(slope, expected, rtol=0, atol=1e-6)


@each
def test_memory_saves_the_slope_at_the_start(spec: Any) -> None:
    scheme = built(spec)
    slope = pendulum(Node(0, 0.0, 0.1), start())
    first, second, told = SolverCounts(), SolverCounts(), SolverCounts()
    with counting(first):
        tried = scheme.attempt(Counted(pendulum), Node(0, 0.0, 0.1), start(), ())
    with counting(second):
        scheme.attempt(Counted(pendulum), Node(1, 0.1, 0.1), tried.y, tried.solver_state)
    if scheme.fsal:
        with counting(told):
            known = scheme.attempt(Counted(pendulum), Node(0, 0.0, 0.1), start(), (slope,))
        torch.testing.assert_close(known.y, tried.y, rtol=0, atol=1e-14)
        assert told.evaluations == first.evaluations - 1
    if not scheme.implicit and not spec_id(spec).startswith("reversible_wrap"):
        assert second.evaluations == first.evaluations - 1


@each
def test_a_state_in_parts_is_attempted_like_a_whole_one(spec: Any) -> None:
    scheme = built(spec)

    def parts(node: Node, y: Any) -> Any:
        both = pendulum(node, torch.stack(y))
        return both[0], both[1]

    whole, split = (
        built(spec).attempt(f, Node(0, 0.0, 0.2), y, ()) for f, y in ((pendulum, start()), (parts, tuple(start())))
    )
    again = scheme.attempt(parts, Node(1, 0.2, 0.1), split.y, split.solver_state)
    for one, two in (
        (whole.y, split.y),
        (whole.error(), split.error()),
        (whole.interpolate(0.4), split.interpolate(0.4)),
    ):
        torch.testing.assert_close(one, torch.stack(two), rtol=0, atol=1e-12)
    assert all(part.isfinite() for part in again.y)


def test_a_scheme_without_an_estimate_says_so() -> None:
    for name in ("rk4", "trapezoidal", "leapfrog"):
        with pytest.raises(SchemenetError, match="estimates no error"):
            SCHEMES.build(name).attempt(pendulum, Node(0, 0.0, 0.1), start(), ())
    with pytest.raises(SchemenetError, match="RK4 estimates no error"):
        SCHEMES.build({"name": "reversible_wrap", "base": "rk4"}).attempt(pendulum, Node(0, 0.0, 0.1), start(), ())


# Gradients


@each
def test_gradients_of_two_attempts_equal_differences(spec: Any) -> None:
    scheme = built({"name": spec, "tolerance": 1e-13} if spec in STIFF else spec)
    torch.manual_seed(0)
    field = Tanh(3).double()
    u = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)

    def run(u: Tensor, weight: Tensor) -> Tensor:
        f = lambda node, y: torch.func.functional_call(field, {"linear.weight": weight}, (node, y))
        first = scheme.attempt(f, Node(0, 0.0, 0.3), u, ())
        second = scheme.attempt(f, Node(1, 0.3, 0.2), first.y, first.solver_state)
        return torch.cat((second.y, first.interpolate(0.4)))

    assert torch.autograd.gradcheck(run, (u, field.linear.weight), atol=1e-7)


# Stiff equations


def solved(f: Any, y: Tensor, end: float, scheme: Any, tolerance: float) -> tuple[Tensor, SolverCounts]:
    with torch.no_grad():
        grid = {"name": "adaptive", "rtol": tolerance, "atol": tolerance}
        solution = solve(f, y, [0.0, end], scheme=scheme, grid=grid)
    return solution.values[-1], solution.statistics.forward


def test_van_der_pol_costs_a_twentieth_of_dopri5() -> None:
    """mu = 100 to T = 200 at 1e-6, for which dopri5 takes 87,446 evaluations."""
    f = lambda t, y: torch.stack((y[1], 100 * (1 - y[0] ** 2) * y[1] - y[0]))
    y, work = solved(f, torch.tensor([2.0, 0.0]).double(), 200.0, "kvaerno5", 1e-6)
    assert work.evaluations <= 87_446 / 20
    assert work.evaluations + work.jacobian_products <= 87_446 / 5
    assert work.accepted < 250
    assert float(y[0]) == pytest.approx(1.71858721, abs=1e-4)  # scipy's Radau at 1e-11


@pytest.mark.parametrize("name", STIFF)
def test_stiff_decay_takes_few_steps(name: str) -> None:
    y, work = solved(lambda t, y: -1e6 * (y - torch.cos(torch.as_tensor(t))), torch.zeros(1).double(), 10.0, name, 1e-5)
    assert work.accepted + work.rejected < 250
    assert float(y) == pytest.approx(math.cos(10.0), abs=1e-4)


@pytest.mark.parametrize("name", STIFF)
def test_a_complex_state_is_solved_for(name: str) -> None:
    rate = torch.tensor([-0.1 + 1j, 2j], dtype=torch.complex128)
    y, _ = solved(lambda t, y: rate * y, torch.ones_like(rate), 1.0, name, 1e-7)
    torch.testing.assert_close(y, rate.exp(), rtol=0, atol=1e-5)


def test_products_with_the_jacobian_are_shared_by_the_stages() -> None:
    """A linear system of 60 unknowns with three stiff ones: what one stage asks of the Jacobian serves the next."""
    torch.manual_seed(0)
    turned = torch.linalg.qr(torch.randn(60, 60, dtype=torch.float64))[0]
    rates = torch.tensor([-1e4, -2e4, -3e4] + [-1.0] * 57).double()
    scheme, work, y = built("kvaerno5"), SolverCounts(), torch.ones(60).double()
    scheme.set_tolerances(1e-6, 1e-6)
    with torch.no_grad(), counting(work):
        found = scheme.attempt(Counted(lambda node, y: turned @ (rates * (turned.T @ y))), Node(0, 0.0, 0.1), y, ())
    over, under = (np.polynomial.polynomial.polyval(0.1 * rates.numpy(), p) for p in scheme.stability_function())
    expected = turned @ (torch.from_numpy(over / under) * (turned.T @ y))
    torch.testing.assert_close(found.y, expected, rtol=0, atol=1e-6)
    assert work.evaluations <= 1 + 6 * 3
    assert work.jacobian_products <= 6


def test_few_krylov_vectors_cost_steps_and_no_accuracy() -> None:
    """Diffusion in 40 unknowns: where the vectors do not reach a solution, none is reported."""
    step = lambda t, y: 41**2 * (y.roll(1) - 2 * y + y.roll(-1))
    y = torch.randn(40, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    rates = 2 * 41**2 * (torch.cos(2 * math.pi * torch.arange(40) / 40).double() - 1)
    exact = torch.fft.ifft(torch.fft.fft(y) * torch.exp(0.02 * rates)).real
    for krylov in (6, 40):
        found, _ = solved(step, y, 0.02, {"name": "kvaerno5", "krylov": krylov}, 1e-5)
        torch.testing.assert_close(found, exact, rtol=0, atol=5e-5)


def test_what_cannot_be_solved_is_told_and_never_a_number() -> None:
    scheme = SCHEMES.build("kvaerno5")
    with pytest.raises(NoConvergence, match=r"h = 10, stage 1.*take a smaller step"):
        scheme.attempt(lambda node, y: y * y + 1, Node(0, 0.0, 10.0), torch.ones(2), ())
    with pytest.raises(NoConvergence, match="f returned NaN or Inf"):
        scheme.attempt(lambda node, y: y / 0 * 0, Node(0, 0.0, 0.1), torch.ones(2), (torch.ones(2),))


# Reversible methods


@pytest.mark.parametrize("spec", REVERSIBLE, ids=spec_id)
def test_a_thousand_steps_of_changing_size_are_undone(spec: Any) -> None:
    scheme = SCHEMES.build(spec)
    y, solver_state = start(), ()
    t, taken = 0.0, []
    with torch.no_grad():
        for n in range(1000):
            node = Node(n, t, 0.01 * (1.5 + math.sin(n)))
            tried = scheme.attempt(pendulum, node, y, solver_state)
            y, solver_state, t = tried.y, tried.solver_state, t + node.h
            taken.append(node)
        assert t > 10
        for node in reversed(taken):
            y, solver_state = scheme.inverse(pendulum, node, y, solver_state)
    assert solver_state == ()
    assert float((y - start()).norm()) < 1e-10


@pytest.mark.parametrize("spec", REVERSIBLE, ids=spec_id)
def test_the_reversible_mode_equals_backprop_on_an_adaptive_grid(spec: Any) -> None:
    torch.manual_seed(0)
    field = Tanh(3).double()
    y = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    found = []
    for gradient in ("reversible", "backprop"):
        grid = {"name": "adaptive", "rtol": 1e-4, "atol": 1e-4}
        f = NoTime(field)
        values = solve(f, y, [0.0, 0.4, 1.0], scheme=spec, grid=grid, gradient=gradient).values
        found.append(torch.autograd.grad(values.square().sum(), [y, *field.parameters()]))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-12)


class NoTime(nn.Module):
    """The field at one time, as the equation of a solve."""

    def __init__(self, field: nn.Module) -> None:
        super().__init__()
        self.field = field

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return self.field(Node(0, 0.0, 1.0), y)


def test_the_wrap_is_coupled_closely_where_the_number_of_steps_is_not_known() -> None:
    assert SCHEMES.build("reversible_wrap").coupling == 0.999
    assert SCHEMES.build({"name": "reversible_wrap", "coupling": 0.9}).coupling == 0.9
    flow = Flow(lambda node: nn.Identity(), 1, "reversible_wrap", grid="adaptive", gradient="reversible")
    assert flow.scheme.coupling == 0.999  # type: ignore[attr-defined]


def test_reversible_heun_is_unstable_on_decay() -> None:
    """y' = -10 y: bounded by Heun's method, and away from zero by as much as one likes with reversible Heun."""
    ends = []
    for name in ("heun", "reversible_heun"):
        scheme, y, solver_state = SCHEMES.build(name), torch.ones(1).double(), ()
        for n in range(400):
            y, solver_state = scheme.step(lambda node, y: -10 * y, Node(n, 0.05 * n, 0.05), y, solver_state)
        ends.append(float(y.abs()))
    assert ends[0] < 1e-10
    assert ends[1] > 1e10


@pytest.mark.parametrize("scheme", ["dopri5", "tsit5", "dopri8", "kvaerno5", "asynchronous_leapfrog"])
def test_error_is_proportional_to_the_tolerance(scheme: str) -> None:
    f = lambda t, y: pendulum(Node(0, float(t), 0.0), y)
    end, _ = solved(f, start(), 2.0, "dopri8", 1e-13)
    for tolerance in (1e-4, 1e-6, *([] if scheme == "asynchronous_leapfrog" else [1e-8])):  # of order 2
        y, _ = solved(f, start(), 2.0, scheme, tolerance)
        assert 0.01 < float((y - end).norm()) / tolerance < 200
