"""The continuous adjoint: its order, its drift, what it leaves behind."""

from __future__ import annotations

import functools
import math
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from schemes.core.node import Node
from schemes.flow import Flow
from schemes.gradients.adjoint_ode.backsolve import AdjointDriftWarning
from schemes.registry import SCHEMES
from tests.support.problems import (
    Noisy,
    batch,
    distance,
    make_flow,
    spec_id,
    train,
    weighted,
)
from tests.support.selections import APPROXIMATE, copy_with, pairs, triples

# Adjoint


def gradient_of(flow: Flow) -> Tensor:
    x = batch().requires_grad_()
    weighted(flow(x)).backward()
    return torch.cat([x.grad.flatten(), *(p.grad.flatten() for p in flow.parameters())])


@functools.cache
def converged_gradient(spec: str | tuple[Any, ...]) -> Tensor:
    """Backprop's gradient as h goes to zero; a coupled scheme makes its two fields in an order of its own."""
    scheme = SCHEMES.build(spec if isinstance(spec, str) else dict(spec))
    if scheme.components == 1:
        return gradient_of(make_flow(scheme="dopri5", sharing="shared", steps=100))
    fine, coarse = (gradient_of(make_flow(scheme=spec, sharing="shared", steps=n)) for n in (1024, 512))
    return fine + (fine - coarse) / (2**scheme.order - 1)


@pytest.mark.parametrize(("mode", "spec"), pairs(APPROXIMATE))
def test_adjoint_converges_at_the_order_of_the_scheme(mode: str, spec: Any) -> None:
    scheme = SCHEMES.build(spec)
    errors = []
    for n in (32, 64) if scheme.order < 4 else (16, 32) if scheme.order < 6 else (2, 4):
        found = gradient_of(make_flow(scheme=spec, gradient=mode, sharing="shared", steps=n))
        errors.append(distance(found, converged_gradient(spec if isinstance(spec, str) else tuple(spec.items()))))
    slope = math.log2(errors[0] / errors[1])
    # The pairs of order 5 have not reached their slope before rounding is near.
    assert scheme.order - 0.3 < slope < scheme.order + (0.3 if scheme.order < 5 else 0.8), errors


def test_the_adjoint_of_named_schemes_is_tested() -> None:
    tested = {spec_id(pair.values[1]) for pair in pairs(["adjoint"])}
    assert tested >= {
        "forward_euler",
        "heun",
        "rk4",
        "symplectic_euler",
        "verlet",
        "adams_bashforth4",
        "leapfrog",
    }


@pytest.mark.parametrize("spec", ["forward_euler", "heun", "rk4", "symplectic_euler", "verlet"])
def test_adjoint_approaches_backprop_of_the_same_scheme(spec: str) -> None:
    gaps = []
    for n in (8, 16, 32):
        flow = make_flow(scheme=spec, gradient="adjoint", sharing="shared", steps=n)
        backprop = copy_with(flow, scheme=spec, sharing="shared", steps=n)
        gaps.append(distance(gradient_of(flow), gradient_of(backprop)))
    if gaps[2] > 1e-13:  # the adjoint of a symmetric method is its derivative
        assert math.log2(gaps[1] / gaps[2]) > SCHEMES.build(spec).order - 0.3, gaps
    else:
        assert spec == "verlet"


@pytest.mark.parametrize("spec", ["heun", "rk4", "verlet"])
def test_adjoint_keeps_its_order_with_statistics_per_node(spec: str) -> None:
    """In evaluation f is another function at each stage; walked backwards it must be the same one at the same time."""
    gaps = []
    options: dict[str, Any] = {"field": Noisy, "field_options": {"dropout": 0.0}, "scheme": spec, "sharing": "shared"}
    for n in (8, 16):
        flow = make_flow(gradient="adjoint", steps=n, **options)
        with torch.no_grad():
            for seed in range(30):
                flow((1 + seed % 3) * batch(seed=seed))
        backprop = copy_with(flow, steps=n, **options)
        gaps.append(distance(gradient_of(flow.eval()), gradient_of(backprop.eval())))
    assert gaps[1] < 1e-13 or math.log2(gaps[0] / gaps[1]) > SCHEMES.build(spec).order - 0.3, gaps


class Decay(nn.Module):
    def __init__(self, channels: int, rate: float) -> None:
        super().__init__()
        self.rate = nn.Parameter(torch.tensor(rate))

    def forward(self, node: Node, y: Tensor) -> Tensor:
        return -self.rate * y


def test_adjoint_warns_where_the_state_drifts() -> None:
    stiff = make_flow(Decay, scheme="rk4", gradient="adjoint", steps=10, field_options={"rate": 20.0})
    with pytest.warns(AdjointDriftWarning, match="misses the initial one by .* use more steps.*gradient=checkpoint"):
        train(stiff, batch().requires_grad_())


def test_adjoint_does_not_warn_on_a_smooth_field() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train(make_flow(scheme="rk4", gradient="adjoint", steps=10), batch().requires_grad_())


@pytest.mark.parametrize(("mode", "spec", "sharing"), triples(APPROXIMATE))
def test_adjoint_leaves_statistics_and_random_state_as_backprop_does(mode: str, spec: Any, sharing: Any) -> None:
    flow = make_flow(Noisy, scheme=spec, gradient=mode, sharing=sharing)
    backprop = copy_with(flow, field=Noisy, scheme=spec, sharing=sharing)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AdjointDriftWarning)
        found, expected = train(flow, batch().requires_grad_()), train(backprop, batch().requires_grad_())
    assert found.gradients["0"].isfinite().all()
    assert torch.equal(found.output, expected.output)
    assert all(map(torch.equal, found.random, expected.random))
    assert all(torch.equal(found.buffers[name], buffer) for name, buffer in expected.buffers.items())
