"""Training as optimal control (docs/pontryagin.md): the costate, stepped by hand, is what backprop computes.

The hand-written loops know of a flow only its fields, its step size and, for methods of several stages, the tableau.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from fractions import Fraction
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from architectures.factory import create_model
from architectures.registry import FIELDS
from schemes.core.node import Node
from schemes.core.tableau import ButcherTableau
from schemes.flow import Flow
from schemes.methods.runge_kutta import RungeKutta
from schemes.registry import SCHEMES

Gradients = list[Tensor]
EXPLICIT = [name for name in SCHEMES if isinstance(SCHEMES.build(name), RungeKutta)]


def loss(y: Tensor) -> Tensor:
    """Phi, the cost of where the state ends."""
    return (y.flatten() * torch.linspace(-1, 2, y.numel(), dtype=y.dtype)).sin().sum()


def gradient_of(cost: Tensor, at: Tensor) -> Tensor:
    return torch.autograd.grad(cost, at)[0]


def by_backprop(flow: nn.Module, start: Tensor) -> tuple[Tensor, Gradients]:
    """The gradients of Phi(flow(start)) with respect to the initial state and to the parameters."""
    start = start.clone().requires_grad_()
    found = torch.autograd.grad(loss(flow(start)), [start, *flow.parameters()])
    return found[0], list(found[1:])


def hamiltonian(field: nn.Module, node: Node, u: Tensor, a: Tensor) -> Tensor:
    """H(t, u, a, theta) = a . f(t, u, theta)."""
    return (a * field(node, u)).sum()


def by_costate(flow: Flow, start: Tensor, projection: Callable[[Tensor], Tensor] | None = None) -> Any:
    """States u_n and costates a_n of forward Euler, and the gradients of the parameters.

    u_{n+1} = u_n + h dH/da,    a_n = a_{n+1} + h dH/du,    dPhi/dtheta = h sum_n dH/dtheta,    at (u_n, a_{n+1}).
    """
    parameters = list(flow.parameters())
    fields = [flow.bank.at(node) for node in flow.nodes]
    states = [start]
    with torch.no_grad():
        for node, field in zip(flow.nodes, fields, strict=True):
            end = states[-1] + node.h * field(node, states[-1])
            states.append(projection(end) if projection else end)
    end = states[-1].clone().requires_grad_()
    costates, gradients = [gradient_of(loss(end), end)], [torch.zeros_like(p) for p in parameters]
    for node, field, state in list(zip(flow.nodes, fields, states, strict=False))[::-1]:
        u = state.clone().requires_grad_()
        h = hamiltonian(field, node, u, costates[0])
        of_u, *of_parameters = torch.autograd.grad(h, [u, *parameters], allow_unused=True)
        costates.insert(0, costates[0] + node.h * of_u)
        for total, found in zip(gradients, of_parameters, strict=True):
            if found is not None:
                total += node.h * found
    return states, costates, gradients


def close(found: Tensor, expected: Tensor, tolerance: float = 1e-12) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance * max(1.0, float(expected.abs().max())))


def resnet_flow(**options: Any) -> tuple[Flow, Tensor]:
    """The last flow of a small residual network, four blocks of 8 channels, and a state to start from."""
    torch.manual_seed(0)
    network = create_model("resnet", depth=(1, 5), widths=(4, 8), norm="group", **options).double()
    return network.flows[-1], torch.randn(3, 8, 4, 4, dtype=torch.float64)


UNIT_TIME = {"name": "uniform", "time": 1.0, "steps": 4}


@pytest.mark.parametrize("gradient", ["backprop", "checkpoint"])
@pytest.mark.parametrize("sharing", ["per_step", "shared"])
@pytest.mark.parametrize("grid", ["uniform", UNIT_TIME], ids=["h = 1", "h = 1/4"])
def test_discrete_costate_of_a_resnet_is_backprop(gradient: str, sharing: str, grid: Any) -> None:
    flow, start = resnet_flow(gradient=gradient, sharing=sharing, grid=grid)
    assert len(flow.nodes) == 4
    states, costates, gradients = by_costate(flow, start)
    close(states[-1], flow(start).detach())
    of_start, of_parameters = by_backprop(flow, start)
    close(costates[0], of_start)
    for found, expected in zip(gradients, of_parameters, strict=True):
        assert expected.any()
        close(found, expected)


def test_costate_and_tangent_keep_their_product() -> None:
    """The pair of steps is symplectic Euler: a_n . du_n is one number along the net, for every variation du_0."""
    flow, start = resnet_flow()
    states, costates, _ = by_costate(flow, start)
    tangent = torch.randn_like(start)
    products = [(costates[0] * tangent).sum()]
    for node, state, costate in zip(flow.nodes, states, costates[1:], strict=False):
        _, along = torch.autograd.functional.jvp(partial(flow.bank.at(node), node), state, tangent)
        tangent = tangent + node.h * along
        products.append((costate * tangent).sum())
    products = torch.stack(products).detach()
    close(products, products[:1].expand_as(products))


def field_flow(scheme: str, steps: int, gradient: str = "backprop", linear: bool = False) -> tuple[Flow, Tensor]:
    """One small field with time over [0, 1] on a uniform grid, its weights shared by all steps."""
    torch.manual_seed(0)

    class Linear(nn.Linear):
        def forward(self, node: Node, u: Tensor) -> Tensor:  # type: ignore[override]
            return super().forward(u)

    def make(node: Node) -> nn.Module:
        if linear:
            return Linear(4, 4).double()
        return FIELDS.build("mlp_time", channels=4, out=4, inner=8).double()

    flow = Flow(make, steps, scheme, "shared", {"name": "uniform", "time": 1.0}, gradient)
    return flow, torch.randn(5, 4, dtype=torch.float64)


def test_costates_of_deeper_nets_tend_to_the_adjoint_equation() -> None:
    """a' = -(df/du)^T a, solved finely; Euler's costate at t = 0 misses it by half as much with twice the depth."""
    fine, start = field_flow("rk4", 128, "adjoint")
    limit, _ = by_backprop(fine, start)
    gaps = [float((by_costate(field_flow("forward_euler", n)[0], start)[1][0] - limit).norm()) for n in (16, 32, 64)]
    assert gaps[0] / gaps[1] == pytest.approx(2, abs=0.15)
    assert gaps[1] / gaps[2] == pytest.approx(2, abs=0.1)


# Where it is another recursion ----------------------------------------------------------------------------


def test_a_projection_enters_the_costate_equation() -> None:
    """u_{n+1} = P(u_n + h f), post-activation: a_n = (1 + h df/du)^T P'^T a_{n+1}; without P' it is not backprop."""
    torch.manual_seed(0)
    network = create_model("resnet", depth=(1, 5), widths=(4, 8), norm="group", activation="post").double()
    flow, start = network.flows[-1], torch.randn(3, 8, 4, 4, dtype=torch.float64).relu()
    states, costates, _ = by_costate(flow, start, torch.relu)
    end = states[-1].clone().requires_grad_()
    a = gradient_of(loss(end), end)
    for node, state, after in list(zip(flow.nodes, states, states[1:], strict=False))[::-1]:
        u = state.clone().requires_grad_()
        a = a * (after > 0)
        a = a + node.h * gradient_of(hamiltonian(flow.bank.at(node), node, u, a), u)
    expected, _ = by_backprop(flow, start)
    close(a, expected)
    assert (costates[0] - expected).norm() > 0.1 * expected.norm()


def coefficients(tableau: ButcherTableau) -> tuple[list[list[Fraction]], list[Fraction]]:
    """a as a full matrix and b, of the stages that a step needs."""
    size = tableau.stages
    a = [[Fraction(x) for x in row] + [Fraction(0)] * (size - len(row)) for row in tableau.a[:size]]
    return a, [Fraction(x) for x in tableau.b[:size]]


def stage_costates(flow: Flow, tableau: ButcherTableau, start: Tensor) -> Tensor:
    """a_0 by the Runge-Kutta method that is adjoint to the tableau, one step after the other from the end.

    l_i = h (df/du)^T(U_i) [b_i a_{n+1} + sum_{j > i} a_ji l_j],    a_n = a_{n+1} + sum_i l_i,    at the stages U_i.
    """
    a, b = coefficients(tableau)
    field, u, steps = flow.bank.fields[0], start, []

    def total(weights: Iterable[Fraction], tensors: Iterable[Tensor]) -> Tensor:
        return sum((float(w) * t for w, t in zip(weights, tensors, strict=False)), torch.zeros_like(start))

    with torch.no_grad():
        for node in flow.nodes:
            stages, slopes = [], []
            for row in a:
                place = node._replace(t=node.t + float(sum(row)) * node.h)
                stages.append((place, u + node.h * total(row, slopes)))
                slopes.append(field(*stages[-1]))
            u = u + node.h * total(b, slopes)
            steps.append(stages)
    end = u.clone().requires_grad_()
    costate = gradient_of(loss(end), end)
    for stages in steps[::-1]:
        pulled = [torch.zeros_like(start)] * len(b)
        for i, (place, at) in list(enumerate(stages))[::-1]:
            weighed = float(b[i]) * costate + total((row[i] for row in a), pulled)
            leaf = at.clone().requires_grad_()
            pulled[i] = place.h * gradient_of(hamiltonian(field, place, leaf, weighed), leaf)
        costate = costate + sum(pulled)
    return costate


@pytest.mark.parametrize("scheme", EXPLICIT)
def test_backprop_through_a_runge_kutta_method_is_its_adjoint_method(scheme: str) -> None:
    flow, start = field_flow(scheme, 3)
    close(stage_costates(flow, flow.scheme.tableau, start), by_backprop(flow, start)[0])


def is_its_own_adjoint(tableau: ButcherTableau) -> bool:
    """Whether the costate's method, a*_ij = b_j a_ji / b_i with the stages in reverse, has the same coefficients."""
    a, b = coefficients(tableau)
    if not all(b):
        return False
    order = range(len(b))[::-1]
    return b == b[::-1] and a == [[b[j] * a[j][i] / b[i] for j in order] for i in order]


OWN, ANOTHER = ("forward_euler", "heun", "rk3", "rk4", "rk38"), ("ralston", "ssprk3", "bosh3", "tsit5")
WITHOUT_A_WEIGHT = ("midpoint", "dopri5")


@pytest.mark.parametrize("scheme", [*OWN, *ANOTHER, *WITHOUT_A_WEIGHT])
def test_which_methods_are_their_own_adjoint(scheme: str) -> None:
    tableau = SCHEMES.build(scheme).tableau
    assert is_its_own_adjoint(tableau) == (scheme in OWN)
    assert all(coefficients(tableau)[1]) == (scheme not in WITHOUT_A_WEIGHT)


@pytest.mark.parametrize("scheme", ["heun", "ralston", "rk4", "dopri5"])
def test_the_adjoint_mode_steps_the_costate_by_the_same_method_on_a_state_of_its_own(scheme: str) -> None:
    """Equal to backprop where df/du is one matrix; else it misses, by less with more steps."""
    (solved, start), (exact, _) = (field_flow(scheme, 4, mode, linear=True) for mode in ("adjoint", "backprop"))
    close(by_backprop(solved, start)[0], by_backprop(exact, start)[0])

    def gap(steps: int) -> float:
        (solved, start), (exact, _) = (field_flow(scheme, steps, mode) for mode in ("adjoint", "backprop"))
        a, expected = by_backprop(solved, start)[0], by_backprop(exact, start)[0]
        return float((a - expected).norm() / expected.norm())

    coarse, fine = gap(2), gap(8)
    assert coarse > 1e-9
    assert fine < coarse / 3
