"""Weights as functions of time."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from schemes.core.node import Node
from schemes.errors import SchemenetError
from schemes.flow import Flow
from schemes.ivp.solve import solve
from schemes.registry import SCHEMES
from schemes.sharing.basis import Basis
from schemes.sharing.function_bases import BASES, FunctionBasis, projection
from tests.support.problems import CHANNELS, Noisy, Tanh, assert_same, batch, make_flow, spec_id, train
from tests.support.selections import ONE_OF_A_KIND

KINDS = tuple(BASES)


def basis(kind: str, size: int) -> dict[str, Any]:
    return {"name": "basis", "kind": kind, "size": size}


def distance(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max())


@pytest.mark.parametrize("spec", [s for s in ONE_OF_A_KIND if SCHEMES.build(s).sharing != "per_stage"], ids=spec_id)
def test_as_many_pieces_as_steps_are_per_step_to_the_bit(spec: Any) -> None:
    """A stage at the end of a step takes the limit of the weights from inside the step."""
    runs = []
    for sharing in ("per_step", basis("piecewise_constant", 4)):
        flow = make_flow(Noisy, scheme=spec, sharing=sharing)
        runs.append((train(flow, batch().requires_grad_()), flow))
    assert_same(runs[1][0], runs[0][0], tolerance=0.0)
    assert runs[0][1].state_dict().keys() == runs[1][1].state_dict().keys()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("spec", ["rk4", "symplectic_euler"])
def test_one_function_is_shared_to_the_bit(kind: str, spec: str) -> None:
    first, second = (
        train(make_flow(Noisy, scheme=spec, sharing=sharing), batch().requires_grad_())
        for sharing in ("shared", basis(kind, 1))
    )
    assert_same(first, second, tolerance=0.0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [2, 5])
def test_parameters_are_those_of_a_field_times_the_size(kind: str, size: int) -> None:
    one = sum(p.numel() for p in Tanh(CHANNELS).parameters())
    flow = make_flow(sharing=basis(kind, size), steps=3)
    assert sum(p.numel() for p in flow.parameters()) == size * one


class Scale(nn.Module):
    """y' = theta y, so that y(T) = exp(integral of theta)."""

    def __init__(self) -> None:
        super().__init__()
        self.theta = nn.Parameter(torch.randn((), dtype=torch.float64))

    def forward(self, node: Node, y: Tensor) -> Tensor:
        return self.theta * y


def scale_flow(sharing: Any, **options: Any) -> Flow:
    torch.manual_seed(3)
    flow = Flow(lambda node: Scale(), 8, options.pop("scheme", "gl4"), sharing, **options)
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.normal_(std=0.5)
    return flow


INTEGRALS = {
    "piecewise_constant": [0.25, 0.25, 0.25, 0.25],
    "hat": [1 / 6, 1 / 3, 1 / 3, 1 / 6],
    "legendre": [1.0, 0.0, 0.0, 0.0],
    "fourier": [1.0, 0.0, 0.0, 0.0],
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("scheme", "grid"),
    [
        ("gl4", {"name": "uniform", "time": 2.0, "steps": 240}),
        ("dopri5", {"name": "adaptive", "time": 2.0, "rtol": 1e-10, "atol": 1e-10}),
    ],
)
@pytest.mark.parametrize("mode", ["backprop", "checkpoint", "adjoint"])
def test_a_linear_equation_with_weights_of_time_in_closed_form(kind: str, scheme: str, grid: Any, mode: str) -> None:
    if (scheme, mode) == ("gl4", "adjoint"):
        scheme = "rk4"
    flow = scale_flow(basis(kind, 4), scheme=scheme, grid=grid, gradient=mode)
    weights = torch.stack([p for group in flow.bank.groups.values() for p in group.parameters()]).detach()
    integrals = 2.0 * torch.tensor(INTEGRALS[kind], dtype=torch.float64)
    y = flow(torch.ones(1, 1, dtype=torch.float64))
    expected = torch.exp(integrals @ weights)
    assert y.item() == pytest.approx(float(expected), rel=1e-7)
    y.sum().backward()
    parameters = [p for group in flow.bank.groups.values() for p in group.parameters()]
    gradient = torch.stack([p.grad for p in parameters if p.grad is not None])
    assert torch.allclose(gradient, expected * integrals, rtol=1e-6, atol=1e-6 * float(expected))


def functions() -> Iterator[tuple[FunctionBasis, FunctionBasis]]:
    for old in KINDS:
        for new in KINDS:
            yield BASES[old](5), BASES[new](4)


@pytest.mark.parametrize(("old", "new"), list(functions()))
def test_what_a_projection_leaves_is_orthogonal_to_the_new_functions(old: FunctionBasis, new: FunctionBasis) -> None:
    matrix = projection(old, new)
    times = (torch.arange(6000, dtype=torch.float64) + 0.5) / 6000
    of_old = torch.tensor([old.values(float(t)) for t in times], dtype=torch.float64)
    of_new = torch.tensor([new.values(float(t)) for t in times], dtype=torch.float64)
    rest = of_old - of_new @ matrix
    assert distance(of_new.T @ rest / len(times), torch.zeros(4, 5, dtype=torch.float64)) < 1e-5


@pytest.mark.parametrize("kind", ["legendre", "fourier"])
@pytest.mark.parametrize(("spec", "order"), [("forward_euler", 1), ("heun", 2), ("rk4", 4)])
def test_a_scheme_keeps_its_order_under_smooth_weights(kind: str, spec: str, order: int) -> None:
    errors = []
    for steps in (16, 32):
        flow = make_flow(scheme=spec, sharing=basis(kind, 3), steps=steps)
        with torch.no_grad():
            for parameter in flow.parameters():
                parameter.add_(0.3 * torch.linspace(-1, 1, parameter.numel(), dtype=torch.float64).view_as(parameter))
            f = flow.bank
            grid = {"name": "adaptive", "rtol": 1e-11, "atol": 1e-11}
            exact = solve(
                lambda t, y, f=f: f(Node(0, float(t), 0.0), y), batch(), [0.0, 1.0], scheme="dopri8", grid=grid
            )
            errors.append(distance(flow(batch()), exact.values[-1]))
    assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.25)


@pytest.mark.parametrize("kind", KINDS)
def test_steps_of_an_adaptive_grid_end_where_weights_jump_or_bend(kind: str) -> None:
    torch.manual_seed(0)
    flow = Flow(lambda node: Tanh(CHANNELS), 1, "dopri5", basis(kind, 3), "adaptive").double()
    times = flow.trajectory(batch()).times
    knots = {"piecewise_constant": [1 / 3, 2 / 3], "hat": [0.5]}.get(kind, [])
    assert all(min(abs(time - knot) for time in times) < 1e-12 for knot in knots)
    assert len(times) >= 2 + len(knots)


def test_coefficients_behind_the_constant_begin_at_zero() -> None:
    flow = make_flow(sharing=basis("legendre", 3))
    fields = list(flow.bank.groups.values())
    assert all(bool(p.any()) for p in fields[0].parameters())
    assert not any(bool(p.any()) for field in fields[1:] for p in field.parameters())


def test_weights_that_jump_are_no_matter_of_a_multistep_adjoint() -> None:
    with pytest.raises(SchemenetError, match="neighbouring steps"):
        make_flow(scheme="adams_bashforth2", gradient="adjoint", sharing=basis("piecewise_constant", 4))
    make_flow(scheme="adams_bashforth2", gradient="adjoint", sharing=basis("legendre", 3))


def test_affine_weights_of_a_node_and_weights_of_time_exclude_each_other() -> None:
    with pytest.raises(SchemenetError, match="use statistics=per_node"):
        make_flow(Noisy, sharing=basis("hat", 2), statistics="per_node_affine")


@pytest.mark.parametrize("size", [0, -1, 10**9])
def test_a_size_names_its_limits(size: int) -> None:
    with pytest.raises(SchemenetError, match=rf"size expected from 1 to 10000, got {size}"):
        Basis("hat", size)
