"""Linear multistep schemes: the papers' equations, order and stability by k."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from schemes.analysis.reference_problems import integrate
from schemes.analysis.stability import stability_intervals
from schemes.core.node import Node
from schemes.errors import SchemenetError
from schemes.flow import Flow
from schemes.integration.uniform_grid import UniformGrid
from schemes.registry import SCHEMES
from tests.support.problems import batch, distance, make_flow, weighted


@pytest.mark.parametrize(
    ("k", "scale", "order"),
    [
        *[
            ("zero", False, 1),
            ("zero", True, 1),
            (0, False, 1),
            (0.5, True, 1),
            (-0.5, True, 1),
            (1, True, 2),
        ],
        *[(0.5, False, None), (1, False, None), ("trained", False, None), ("trained", True, None)],
    ],
)
def test_order_of_linear_multistep_depends_on_k(k: Any, scale: bool, order: int | None) -> None:
    assert SCHEMES.build({"name": "linear_multistep", "k": k, "scale": scale}).order == order


@pytest.mark.parametrize(("k", "limit"), [(0.5, 0.6), (-0.5, 1 / 3), (0.0, 0.5)])
def test_unscaled_linear_multistep_runs_over_another_time(k: float, limit: float) -> None:
    """It integrates u' = -u^2 over T / (1 + k), so that u(1) = 1 / (1 + 1 / (1 + k)) in place of 1/2."""
    scheme = SCHEMES.build({"name": "linear_multistep", "k": k})
    one = torch.ones((), dtype=torch.float64)
    gaps = [abs(float(integrate(scheme, lambda _, y: -y * y, one, 1.0, n)) - limit) for n in (320, 640)]
    assert gaps[0] < 3e-3
    assert gaps[0] / gaps[1] == pytest.approx(2, abs=0.1)


@pytest.mark.parametrize("k", [-0.9, -0.5, 0, 0.25, 0.5, 0.9, 1])
def test_stability_interval_of_consistent_linear_multistep(k: float) -> None:
    scheme = SCHEMES.build({"name": "linear_multistep", "k": k, "scale": True})
    assert stability_intervals(scheme).real == pytest.approx(2 * (1 - k) / (1 + k), abs=1e-6)


def test_zero_stability_of_linear_multistep() -> None:
    """With f = 0, a perturbation of the history stays bounded for -1 < k <= 1 only."""

    def perturbed(k: float) -> float:
        scheme = SCHEMES.build("linear_multistep")
        scheme.fixed = k  # past the constructor, which refuses what is not zero-stable
        carry = (torch.zeros((), dtype=torch.float64), (torch.full((), 1e-3, dtype=torch.float64),))
        for node in UniformGrid().nodes(301)[1:]:
            carry = scheme.step(lambda _, y: torch.zeros_like(y), node, *carry)
        return abs(float(carry[0]))

    assert all(perturbed(k) < 0.1 for k in (-0.99, -0.9, -0.5, 0.0, 0.5, 0.99, 1.0))
    assert all(perturbed(k) > 1e6 for k in (-1.1, 1.1))
    assert perturbed(-1.0) > 0.25  # the double root grows linearly


@pytest.mark.parametrize("k", [-1, -1.1, 1.1, 2.0, math.nan, math.inf])
def test_linear_multistep_refuses_what_is_not_zero_stable(k: float) -> None:
    with pytest.raises(SchemenetError, match=r"k = .* is not zero-stable; expected -1 < k <= 1|k expected .* got nan"):
        SCHEMES.build({"name": "linear_multistep", "k": k})


# Identities


def run_with_gradients(flow: Flow) -> list[Tensor]:
    x = batch().requires_grad_()
    output = flow(x)
    weighted(output).backward()
    return [output, x.grad, *(p.grad for p in flow.bank.parameters())]


@pytest.mark.parametrize("scale", [False, True])
@pytest.mark.parametrize("k", ["zero", "trained"])
def test_linear_multistep_with_k_zero_is_forward_euler(k: str, scale: bool) -> None:
    multistep = make_flow(scheme={"name": "linear_multistep", "k": k, "scale": scale})
    euler = make_flow(scheme="forward_euler")
    euler.bank.load_state_dict(multistep.bank.state_dict())
    if k == "trained":
        assert multistep.scheme.k.abs().max() > 0
        nn.init.zeros_(multistep.scheme.k)
    for found, expected in zip(run_with_gradients(multistep), run_with_gradients(euler), strict=True):
        assert distance(found, expected) < 1e-12


def test_trained_k_is_a_scalar_a_step_in_its_range_and_is_the_papers_equation() -> None:
    flow = make_flow(scheme="linear_multistep", steps=6)
    k = flow.scheme.k
    assert k.shape == (5,)
    assert (k >= -0.1).all()
    assert (k <= 0).all()
    f, u = flow.bank, [batch()]
    for n, node in enumerate(flow.nodes):
        following = u[n] + node.h * f(node, u[n])
        u.append(following + k[n - 1] * (u[n - 1] - u[n]) if n else following)
    assert distance(flow(batch()), u[-1]) < 1e-12
    kappa = 1 - k  # the released code's form
    again = u[:2]
    for n, node in list(enumerate(flow.nodes))[1:]:
        again.append(kappa[n - 1] * again[n] + (1 - kappa[n - 1]) * again[n - 1] + node.h * f(node, again[n]))
    assert distance(flow(batch()), again[-1]) < 1e-12


def test_linear_multistep_is_handed_the_state_before() -> None:
    flow = make_flow(scheme="linear_multistep", steps=3, past=1)
    assert flow.scheme.k.shape == (3,)
    before, now, node = batch(seed=2), batch(), flow.nodes[0]
    k = flow.scheme.k
    u = [before, now]
    for n, node in enumerate(flow.nodes):
        u.append((1 - k[n]) * u[-1] + k[n] * u[-2] + node.h * flow.bank(node, u[-1]))
    assert distance(flow(now, (before,)), u[-1]) < 1e-12


@pytest.mark.parametrize("k", [-0.9, -0.05, 0.5, 1.0])
def test_linear_multistep_keeps_equal_states_where_f_is_zero(k: float) -> None:
    scheme = SCHEMES.build({"name": "linear_multistep", "k": k, "scale": True})
    u = batch()
    y, solver_state = scheme.step(lambda _, y: torch.zeros_like(y), Node(1, 1.0, 1.0), u, (u,))
    assert distance(y, u) < 1e-15
    assert solver_state[0] is u
