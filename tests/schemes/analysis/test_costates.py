"""Costates along the steps of flows: what autograd says of the rest of the flow, for every kind of scheme."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from schemes.analysis.costates import Costates, costates, hamiltonian
from schemes.core.node import Node
from schemes.core.state import State, flatten
from schemes.flow import Flow
from schemes.registry import GRADIENTS
from tests.support.problems import batch, make_flow

ADAPTIVE = {"name": "adaptive", "rtol": 1e-6, "atol": 1e-6}


def close(computed: State, expected: State, tolerance: float = 1e-12) -> None:
    for a, b in zip(flatten(computed)[0], flatten(expected)[0], strict=True):
        assert b.any()
        torch.testing.assert_close(a, b, rtol=0, atol=tolerance * max(1.0, float(b.abs().max())))


def end_costate(like: Tensor) -> Tensor:
    return torch.linspace(-1, 2, like.numel(), dtype=like.dtype).view_as(like)


def of(flow: Flow) -> Costates:
    return costates(flow, batch(), end_costate(batch()))


def rest_from(flow: Flow, solution: Costates, n: int) -> Tensor | tuple[Tensor, ...]:
    """The gradient with respect to u_n of what the steps from n on make of it, taken one by one."""
    start = tuple(leaf.clone().requires_grad_() for leaf in flatten(solution.states[n])[0])
    y: Any = start if isinstance(solution.states[n], tuple) else start[0]
    for node in solution.nodes[n:]:
        y, _ = flow.scheme.step(flow.bank, node, y, ())
    return torch.autograd.grad(flatten(y)[0], start, flatten(solution.costates[-1])[0])


@pytest.mark.parametrize("sharing", ["per_step", "shared"])
def test_euler_costates_are_those_of_the_recursion(sharing: str) -> None:
    flow = make_flow(scheme="forward_euler", sharing=sharing)
    solution = of(flow)
    a = end_costate(batch())
    for node, u, costate in list(zip(solution.nodes, solution.states, solution.costates, strict=False))[::-1]:
        _, pulled = torch.autograd.functional.vjp(partial(flow.bank, node), u, a)
        a = a + node.h * pulled
        close(costate, a)
    close(solution.states[-1], flow(batch()).detach())


@pytest.mark.parametrize("gradient", sorted(GRADIENTS))
def test_costates_are_backprop_in_every_gradient_mode(gradient: str) -> None:
    scheme = "reversible_heun" if gradient == "reversible" else "heun"
    flow = make_flow(scheme=scheme, gradient=gradient, sharing="shared")
    reference = make_flow(scheme=scheme, sharing="shared")
    x = batch().requires_grad_()
    close(of(flow).costates[0], torch.autograd.grad(reference(x), x, end_costate(x))[0])


ONE_STEP = ["midpoint", "rk4", "dopri5", "backward_euler", "sdirk2", "gl4", "symplectic_euler", "verlet"]


@pytest.mark.parametrize("scheme", ONE_STEP)
def test_costates_are_gradients_of_the_rest_of_the_flow(scheme: str) -> None:
    flow = make_flow(scheme=scheme, sharing="shared")
    solution = of(flow)
    assert len(solution.states) == len(solution.costates) == len(solution.nodes) + 1 == 5
    assert isinstance(solution.states[1], tuple) == (flow.scheme.components > 1)
    for n in range(4):
        close(solution.costates[n], rest_from(flow, solution, n))


@pytest.mark.parametrize("scheme", ["dopri5", "bosh3"])
def test_costates_on_an_adaptive_grid(scheme: str) -> None:
    flow = make_flow(scheme=scheme, sharing="shared")
    flow = Flow(lambda node: flow.bank.fields[0], 1, scheme, "shared", ADAPTIVE)
    solution = of(flow)
    assert len(solution.nodes) > 2
    x = batch().requires_grad_()
    close(solution.costates[0], torch.autograd.grad(flow(x), x, end_costate(x))[0])
    for n in range(1, len(solution.nodes)):
        close(solution.costates[n], rest_from(flow, solution, n))


# Weights (of a_{n+1}, of a_{n+2}) in a_n: of the costates alone, and of h (df/du)^T at u_n times them.
WITH_MEMORY = {"adams_bashforth2": ((1.0, 0.0), (1.5, -0.5)), "leapfrog": ((0.0, 1.0), (2.0, 0.0))}


@pytest.mark.parametrize("scheme", WITH_MEMORY)
def test_costates_of_schemes_with_memory_count_what_later_steps_read(scheme: str) -> None:
    flow = make_flow(scheme=scheme, sharing="shared", steps=6)
    solution = of(flow)
    (one, two), (slope_of_one, slope_of_two) = WITH_MEMORY[scheme]
    following = [*solution.costates, torch.zeros_like(batch())]
    for n in range(2, 6):  # the first step is of another kind
        a, after = following[n + 1], following[n + 2]
        field, u = partial(flow.bank, solution.nodes[n]), solution.states[n]
        _, pulled = torch.autograd.functional.vjp(field, u, slope_of_one * a + slope_of_two * after)
        close(solution.costates[n], one * a + two * after + solution.nodes[n].h * pulled)


@pytest.mark.parametrize("scheme", ["adams_moulton", "linear_multistep", "reversible_heun", "asynchronous_leapfrog"])
def test_the_first_costate_of_a_scheme_with_memory_is_the_gradient_of_the_flow(scheme: str) -> None:
    flow, x = make_flow(scheme=scheme, sharing="shared"), batch().requires_grad_()
    close(of(flow).costates[0], torch.autograd.grad(flow(x), x, end_costate(x))[0])


@pytest.mark.parametrize("scheme", ["forward_euler", "rk4", "dopri5", "verlet"])
def test_costate_and_tangent_keep_their_product(scheme: str) -> None:
    flow = make_flow(scheme=scheme, sharing="per_step" if scheme == "forward_euler" else "shared")
    solution = of(flow)
    tangent = [torch.randn_like(leaf) for leaf in flatten(solution.states[0])[0]]
    products = []
    for n, costate in enumerate(solution.costates):
        products.append(sum((a * v).sum() for a, v in zip(flatten(costate)[0], tangent, strict=True)))
        if n < len(solution.nodes):
            leaves = tuple(flatten(solution.states[n])[0])

            def step(*parts: Tensor, node: Node = solution.nodes[n]) -> tuple[Tensor, ...]:
                y: Any = parts if len(parts) > 1 else parts[0]
                return tuple(flatten(flow.scheme.step(flow.bank, node, y, ())[0])[0])

            _, tangent = torch.autograd.functional.jvp(step, leaves, tuple(tangent))
    products = torch.stack(products)
    close(products, products[:1].expand_as(products))


class Autonomous(nn.Module):
    """A smooth field without time."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.linear = nn.Linear(channels, channels)

    def forward(self, node: Node, y: Tensor) -> Tensor:
        return torch.tanh(self.linear(y))


@pytest.mark.parametrize(("scheme", "order"), [("forward_euler", 1), ("heun", 2), ("rk4", 4), ("symplectic_euler", 1)])
def test_the_hamiltonian_of_an_autonomous_field_drifts_by_the_order_of_the_scheme(scheme: str, order: int) -> None:
    def drift(steps: int) -> float:
        flow = make_flow(Autonomous, scheme=scheme, sharing="shared", steps=steps)
        solution = of(flow)
        along = zip(solution.nodes, solution.states, solution.costates, strict=False)
        values = torch.stack([hamiltonian(flow, node, u, a) for node, u, a in along])
        return float(values.max() - values.min())

    coarse, fine = drift(16), drift(32)
    assert coarse > 1e-10
    assert torch.tensor(coarse / fine).log2() == pytest.approx(order, abs=0.2)
