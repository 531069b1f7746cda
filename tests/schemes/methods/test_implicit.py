"""Implicit steps: the equation is solved, gradients are the implicit function theorem's, trials leave no trace."""

from __future__ import annotations

import contextlib
import itertools
import math

import pytest
import torch
from torch import Tensor, nn

from architectures import create_model
from architectures.costs.ledger import macs
from schemes import SCHEMES, Node, SchemenetError
from schemes.analysis.reference_problems import integrate
from schemes.core.random_state import unmoved_random_state
from schemes.nonlinear.jacobians import MOST
from schemes.nonlinear.newton_krylov import NoConvergence, Solver, gmres
from schemes.registry import single_step
from tests.support.problems import CHANNELS, Noisy, Tanh, make_flow

IMPLICIT = [name for name in SCHEMES if SCHEMES.build(name).implicit]
each = pytest.mark.parametrize("name", IMPLICIT)
NODE = Node(0, 0.0, 0.25)
TIGHT = 1e-13

EQUATIONS = {
    "backward_euler": lambda f, h, u, v: u + h * f(v) - v,
    "implicit_midpoint": lambda f, h, u, v: u + h * f((u + v) / 2) - v,
    "trapezoidal": lambda f, h, u, v: u + h / 2 * (f(u) + f(v)) - v,
}
"""What a step of each has to satisfy, where f does not depend on time."""


def by_tableau(name: str, f, h: float, u: Tensor, iterations: int) -> Tensor:
    """A step by fixed-point iteration of k = f(u + h A k), with plain autograd through every iteration."""
    tableau = SCHEMES[name].tableau
    a, b = torch.tensor(tableau.matrix), torch.tensor([float(weight) for weight in tableau.b], dtype=torch.float64)
    k = torch.stack([f(u)] * len(b))
    for _ in range(iterations):
        k = torch.stack([f(y) for y in u + h * torch.tensordot(a, k, 1)])
    return u + h * torch.tensordot(b, k, 1)


def data(seed: int = 1, **options) -> Tensor:
    return torch.randn(5, CHANNELS, dtype=torch.float64, generator=torch.Generator().manual_seed(seed), **options)


def tight(name: str, **options) -> dict:
    return {"name": name, "tolerance": TIGHT, "substeps": 1, **options}


class Stiff(nn.Module):
    """A smooth field with a Jacobian far from a contraction."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        torch.manual_seed(4)
        self.weight = nn.Parameter(torch.randn(channels, channels, dtype=torch.float64))

    def forward(self, node: Node, y: Tensor) -> Tensor:
        return torch.tanh(y @ self.weight) - 6 * y


def test_these_are_the_implicit_schemes() -> None:
    solved = {"sdirk2", "trbdf2", "kvaerno3", "kvaerno5", "radauIIA3", "radauIIA5", "gl4", "gl6"}
    assert set(IMPLICIT) == set(EQUATIONS) | solved


@each
def test_a_step_is_that_of_its_tableau(name: str) -> None:
    torch.manual_seed(0)
    field = Tanh(CHANNELS).double()
    step, _ = SCHEMES.build(tight(name)).step(lambda node, y: field(NODE, y), NODE, data(), ())
    torch.testing.assert_close(step, by_tableau(name, lambda y: field(NODE, y), NODE.h, data(), 80), rtol=0, atol=1e-11)


@pytest.mark.parametrize("name", EQUATIONS)
def test_a_step_satisfies_its_equation(name: str) -> None:
    field = Stiff(CHANNELS)
    u = data()
    v, solver_state = SCHEMES.build(tight(name)).step(field, NODE, u, ())
    v = v.detach()
    with torch.no_grad():
        residual = EQUATIONS[name](lambda y: field(NODE, y), NODE.h, u, v)
    assert solver_state == ()
    assert float(residual.norm() / v.norm()) < 1e-11
    assert float((v - u).norm() / u.norm()) > 0.1


@each
def test_a_step_of_a_linear_system_is_its_rational_function(name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(CHANNELS, CHANNELS, dtype=torch.float64, generator=generator) - 3 * torch.eye(CHANNELS).double()
    scheme = SCHEMES.build(tight(name, substeps=2))
    over, under = scheme.stability_function()
    power = lambda p: sum(c * torch.linalg.matrix_power(0.25 * a, k) for k, c in enumerate(p))
    expected = torch.linalg.solve(power(under), power(over) @ data().T).T
    found, _ = scheme.step(lambda node, y: y @ a.T, NODE, data(), ())
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


@each
def test_stiff_decay_stays_bounded_where_euler_explodes(name: str) -> None:
    decay = lambda node, y: -1000 * (y - math.cos(node.t))
    with torch.no_grad():
        end = integrate(SCHEMES.build(name), decay, torch.ones(1, dtype=torch.float64), 2.0, 20)
        exploded = integrate(SCHEMES.build("forward_euler"), decay, torch.ones(1, dtype=torch.float64), 2.0, 20)
    assert abs(float(end) - math.cos(2.0)) < 0.1
    assert abs(float(exploded)) > 1e30


def test_the_midpoint_rule_keeps_quadratic_invariants() -> None:
    turn = lambda node, y: torch.stack((y[1], -y[0]))
    with torch.no_grad():
        end = integrate(SCHEMES.build(tight("implicit_midpoint")), turn, torch.tensor([1.0, 0.0]).double(), 30.0, 60)
    assert float(end.norm()) == pytest.approx(1, abs=1e-10)


# Gradients


@each
def test_gradients_equal_backprop_through_a_converged_iteration(name: str) -> None:
    torch.manual_seed(0)
    field = Tanh(CHANNELS).double()
    h = 0.2
    u = data(requires_grad=True)
    still = lambda node, y: field(NODE, y)
    solved, _ = SCHEMES.build(tight(name)).step(still, Node(0, 0.0, h), u, ())
    iterated = by_tableau(name, lambda y: field(NODE, y), h, u, 80)
    found, expected = ([v, *torch.autograd.grad(v, [u, *field.parameters()], data(2))] for v in (solved, iterated))
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-10)


@each
def test_gradients_far_from_a_contraction_equal_differences(name: str) -> None:
    field = Stiff(3)
    scheme = SCHEMES.build(tight(name))
    u = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)

    def step(u: Tensor, weight: Tensor) -> Tensor:
        return scheme.step(
            lambda node, y: torch.func.functional_call(field, {"weight": weight}, (node, y)), NODE, u, ()
        )[0]

    assert torch.autograd.gradcheck(step, (u, field.weight), atol=1e-6)


def test_second_derivatives_are_refused() -> None:
    flow = make_flow(scheme="backward_euler", steps=1)
    (gradient,) = torch.autograd.grad(flow(data()).square().sum(), next(flow.parameters()), retain_graph=True)
    assert gradient.isfinite().all()
    with pytest.raises(SchemenetError, match="first derivatives only"):
        torch.autograd.grad(flow(data()).square().sum(), next(flow.parameters()), create_graph=True)


# No trace of trials


@each
@pytest.mark.parametrize("training", [True, False])
def test_statistics_and_random_state_see_each_solution_once(name: str, training: bool) -> None:
    flow = make_flow(field=Noisy, scheme=tight(name), steps=2, time=0.2).train(training)
    states, arguments = [], []

    def note(module, inputs, output) -> None:
        if not inputs[0].trial:
            arguments.append((inputs[0], inputs[1].detach(), output.detach()))

    handles = [field.register_forward_hook(note) for field in flow.bank.fields]
    torch.manual_seed(7)
    flow(data())
    states.append(torch.get_rng_state())
    assert flow.forward_counts.evaluations > len(arguments) == len(flow.visits)
    for handle in handles:
        handle.remove()

    # The same evaluations, made once each by hand: same masks, same statistics, same random state.
    fresh = make_flow(field=Noisy, scheme=tight(name), steps=2, time=0.2).train(training)
    torch.manual_seed(7)
    stages = flow.scheme.tableau.stages
    for node, argument, value in arguments:
        # Stages that are one equation have one mask, and so has the state after each but the last of them.
        together = flow.scheme.tableau.coupled and node.stage % stages < stages - 1
        with unmoved_random_state(argument) if together else contextlib.nullcontext():
            assert torch.equal(fresh.bank(node, argument), value)
    states.append(torch.get_rng_state())
    assert torch.equal(*states)
    for a, b in zip(flow.buffers(), fresh.buffers(), strict=True):
        assert torch.equal(a, b)


@each
def test_checkpoint_equals_backprop(name: str) -> None:
    found = []
    for gradient in ("backprop", "checkpoint"):
        flow = make_flow(field=Noisy, scheme=tight(name), gradient=gradient, steps=3, time=0.3)
        u = data(requires_grad=True)
        torch.manual_seed(3)
        y = flow(u)
        y.backward(data(2))
        found.append([y.detach(), u.grad, *(p.grad for p in flow.parameters()), *flow.buffers(), torch.get_rng_state()])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-10)


@pytest.mark.parametrize(("gradient", "reason"), [("adjoint", "state and costate"), ("reversible", "no inverse")])
def test_modes_that_cannot_differentiate_it_are_refused(gradient: str, reason: str) -> None:
    with pytest.raises(SchemenetError, match=reason):
        make_flow(scheme="trapezoidal", gradient=gradient)


# Failures


def test_an_equation_without_a_solution_is_told() -> None:
    scheme = SCHEMES.build(single_step("backward_euler"))
    with pytest.raises(NoConvergence, match=r"step 0 \(t = 1, stage 0\).*relative residual.*more scheme.substeps"):
        scheme.step(lambda node, y: y * y + 1, Node(0, 0.0, 1.0), torch.ones(2), ())


def test_a_field_that_gives_no_number_is_told() -> None:
    scheme = SCHEMES.build("implicit_midpoint")
    with pytest.raises(NoConvergence, match="f returned NaN or Inf"):
        scheme.step(lambda node, y: y / 0 * 0, NODE, torch.ones(2), ())


def test_a_linear_system_that_is_not_solved_in_backward_is_told() -> None:
    scheme = SCHEMES.build({"name": "backward_euler", "substeps": 1, "krylov": 1, "iterations": 60, "tolerance": 1e-3})
    turn = torch.kron(torch.eye(MOST), torch.tensor([[0.0, 9.0], [-9.0, 0.0]]))  # too large for a matrix
    u = torch.eye(2 * MOST)[0].requires_grad_()
    with pytest.raises(NoConvergence):
        scheme.step(lambda node, y: turn @ y, Node(0, 0.0, 1.0), u, ())[0].sum().backward()


def test_a_singular_system_of_the_gradient_is_told() -> None:
    """y = base + f(y) with f' = 1."""
    base = torch.ones(2, requires_grad=True)
    z = Solver().attach(lambda node, y: y + 0.0, NODE, base, 1.0, torch.ones(2))
    with pytest.raises(NoConvergence, match="the gradient's linear system was not solved"):
        z.sum().backward()


@pytest.mark.parametrize("wrong", [{"substeps": 0}, {"tolerance": 2.0}, {"krylov": 0}, {"iterations": -1}])
def test_limits_out_of_range_are_refused(wrong: dict) -> None:
    with pytest.raises(SchemenetError, match=rf"{next(iter(wrong))} expected"):
        SCHEMES.build({"name": "backward_euler", **wrong})


def test_gmres_solves_in_as_many_vectors_as_there_are_unknowns() -> None:
    torch.manual_seed(0)
    a, b = torch.randn(7, 7, dtype=torch.float64), torch.randn(7, dtype=torch.float64)
    torch.testing.assert_close(gmres(lambda v: a @ v, b, 1e-14, 7), torch.linalg.solve(a, b), rtol=0, atol=1e-9)
    assert float(gmres(lambda v: a @ v, torch.zeros_like(b), 1e-14, 7).norm()) == 0


# Surroundings


def test_poly_approaches_the_real_step_where_its_series_converges() -> None:
    turned = torch.linalg.qr(data()[:, :5].T @ data()[:, :5])[0] * 0.4
    linear = lambda node, y: torch.cat((y[:, :5] @ turned, y[:, 5:] * 0.1), 1)
    at = Node(0, 0.0, 1.0)
    real, _ = SCHEMES.build(tight("backward_euler")).step(linear, at, data(), ())
    gaps = []
    for degree in (1, 2, 3, 4):
        poly, _ = SCHEMES.build({"name": "backward_euler_poly", "degree": degree}).step(linear, at, data(), ())
        gaps.append((poly - real.detach()).norm().item())
    assert all(b < 0.5 * a for a, b in itertools.pairwise(gaps))


@each
def test_evaluation_needs_no_gradients_around_it(name: str) -> None:
    flow = make_flow(scheme=tight(name)).eval()
    expected = flow(data()).detach()
    for context in (torch.no_grad, torch.inference_mode):
        with context():
            torch.testing.assert_close(flow(data()), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["backward_euler", "trbdf2", "gl4"])
def test_sizes_are_counted_on_the_meta_device(name: str) -> None:
    network = create_model("resnet20", width=0.25, scheme=name)
    plain = create_model("resnet20", width=0.25)
    assert macs(network, (3, 16, 16)) > macs(plain, (3, 16, 16))


def test_autocast_solves_to_the_precision_of_f() -> None:
    flow = make_flow(scheme="backward_euler", dtype=torch.float32, steps=2, time=0.5)
    x = data().float()
    exact = flow(x)
    with torch.autocast("cpu", torch.bfloat16):
        y = flow(x)
        y.square().sum().backward()
    assert y.dtype == torch.float32
    assert ((y - exact).norm() / exact.norm()).item() < 0.05
    assert all(p.grad.isfinite().all() for p in flow.parameters())


def test_a_convolutional_network_with_its_untrained_jacobians_trains_a_step() -> None:
    """At h = 1; one substep of backward Euler is too long there, two are not."""
    torch.manual_seed(0)
    scheme = {"name": "backward_euler", "substeps": 2}
    network = create_model("resnet20", width=0.25, scheme=scheme).train()
    network(torch.randn(4, 3, 16, 16)).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


def test_the_tolerance_is_kept_by_a_solve() -> None:
    for tolerance in (1e-3, 1e-6, 1e-9):
        base = data()
        with torch.no_grad():
            y = base + Solver(tolerance).solve(lambda node, y: torch.sin(3 * y), NODE, base, 0.3)
        residual = float((base + 0.3 * torch.sin(3 * y) - y).norm() / max(base.norm(), y.norm()))
        assert residual <= 2 * tolerance


@each
def test_a_state_in_parts_is_solved_for_as_one_vector(name: str) -> None:
    """Parts of several shapes, one of which f leaves as it is."""
    field, y = Stiff(CHANNELS), data()
    scheme = SCHEMES.build(tight(name))
    whole, _ = scheme.step(lambda node, y: field(node, y), NODE, y, ())

    def in_parts(node: Node, parts) -> tuple:
        slope = field(node, torch.cat((parts[0], parts[1][0])))
        return slope[:2], (slope[2:], None)

    split = (y[:2], (y[2:], torch.ones(3, dtype=torch.float64)))
    (first, (second, still)), _ = scheme.step(in_parts, NODE, split, ())
    torch.testing.assert_close(torch.cat((first, second)), whole, rtol=0, atol=1e-10)
    assert torch.equal(still, split[1][1])


@pytest.mark.parametrize("scheme", ["kvaerno3", "kvaerno5"])
def test_an_adaptive_grid_has_sizes_on_the_meta_device(scheme: str) -> None:
    """Training counts costs there before it begins."""
    options = {"scheme": scheme, "grid": "adaptive", "sharing": "shared"}
    network = create_model("mlp", num_classes=2, in_chans=2, image_size=None, **options).to("meta")
    assert network(torch.empty(3, 2, device="meta")).shape == (3, 2)
