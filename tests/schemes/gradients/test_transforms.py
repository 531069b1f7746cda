"""Derivatives by torch.func and forward mode, and those of a dense solution by its time."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, func
from torch.autograd import forward_ad

from schemes import odeint_dense, solve
from schemes.errors import SchemenetError

DOUBLE = torch.float64
ADAPTIVE = {"name": "adaptive", "rtol": 1e-7, "atol": 1e-7}
Y = torch.tensor([0.5, 1.0], dtype=DOUBLE)
T = torch.tensor([0.0, 1.0], dtype=DOUBLE)
P = torch.ones((), dtype=DOUBLE)


def end(y: Tensor = Y, t: Any = (0.0, 1.0), p: Tensor = P, **options: Any) -> Tensor:
    """y / (1 + p y t), of y' = -p y^2."""
    return solve(lambda t, y, p: -p * y**2, y, t, args=(p,), **options).values[-1]


def tangent(function: Any, x: Tensor, direction: Tensor) -> Tensor:
    with forward_ad.dual_level():
        found = forward_ad.unpack_dual(function(forward_ad.make_dual(x, direction))).tangent
    assert found is not None
    return found


ALONG = torch.ones_like(Y)
DERIVATIVES: dict[str, Any] = {
    "jvp": (lambda o: func.jvp(lambda y: end(y, **o), (Y,), (ALONG,))[1], (1 + Y) ** -2),
    "jvp by an argument": (lambda o: func.jvp(lambda p: end(p=p, **o), (P,), (P,))[1], -((Y / (1 + Y)) ** 2)),
    "jvp by times": (lambda o: func.jvp(lambda t: end(t=t, **o), (T,), (T,))[1], -((Y / (1 + Y)) ** 2)),
    "jacrev": (lambda o: func.jacrev(lambda y: end(y, **o))(Y).diagonal(), (1 + Y) ** -2),
    "jacfwd": (lambda o: func.jacfwd(lambda y: end(y, **o))(Y).diagonal(), (1 + Y) ** -2),
    "hessian": (lambda o: func.hessian(lambda y: end(y, **o).sum())(Y).diagonal(), -2 * (1 + Y) ** -3),
    "grad by times": (lambda o: func.grad(lambda t: end(t=t, **o).sum())(T)[1], -((Y / (1 + Y)) ** 2).sum()),
    "dual": (lambda o: tangent(lambda y: end(y, **o), Y, ALONG), (1 + Y) ** -2),
    "dual times": (lambda o: tangent(lambda t: end(t=t, **o), T, T), -((Y / (1 + Y)) ** 2)),
}
WAYS = {
    "dopri5": {"grid": ADAPTIVE},
    "dopri8": {"grid": ADAPTIVE, "scheme": "dopri8"},
    "reversible_heun": {"grid": {**ADAPTIVE, "rtol": 1e-5, "atol": 1e-5}, "scheme": "reversible_heun"},
    "per_sample": {"grid": ADAPTIVE, "batching": "per_sample"},
    "rk4": {"grid": {"name": "uniform", "steps": 10}, "scheme": "rk4"},
}


@pytest.mark.parametrize("options", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("name", DERIVATIVES)
def test_transforms_and_forward_mode_give_the_derivative(name, options):
    derivative, right = DERIVATIVES[name]
    torch.testing.assert_close(derivative({**options, "gradient": "backprop"}), right, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("options", [WAYS["dopri5"], WAYS["rk4"]], ids=["dopri5", "rk4"])
@pytest.mark.parametrize("mode", ["checkpoint", "adjoint"])
@pytest.mark.parametrize("name", DERIVATIVES)
def test_modes_of_backward_say_that_they_are(name, mode, options):
    with pytest.raises(SchemenetError, match=f"'{mode}' is differentiated by backward\\(\\) and"):
        DERIVATIVES[name][0]({**options, "gradient": mode})


@pytest.mark.parametrize(
    ("transformed", "message"),
    [
        (lambda: func.vmap(lambda y: end(y, gradient="backprop"))(Y), "an adaptive grid under torch.func.vmap"),
        (
            lambda: func.vmap(func.grad(lambda y: end(y, gradient="backprop")))(Y),
            "an adaptive grid under torch.func.vmap",
        ),
        (
            lambda: func.vmap(lambda p: end(p=p, gradient="backprop"))(torch.ones(3, dtype=DOUBLE)),
            "a solve reads numbers",
        ),
        (
            lambda: func.linearize(lambda y: end(y, gradient="backprop"), Y)[1](ALONG),
            "a solve reads numbers",
        ),
    ],
    ids=["vmap", "vmap of grad", "vmap of an argument", "linearize"],
)
def test_what_hides_the_numbers_that_steps_depend_on_is_refused(transformed, message):
    with pytest.raises(SchemenetError, match=message):
        transformed()


# Dense solutions ---------------------------------------------------------------------------------------------------


def dense(gradient: str, y: Tensor, back: bool) -> Any:
    grid = {"name": "adaptive", "rtol": 1e-5, "atol": 1e-5}
    return solve(lambda t, y: -y, y, [2, 0] if back else [0, 2], grid=grid, gradient=gradient, dense=True)


@pytest.mark.parametrize("back", [False, True])
@pytest.mark.parametrize("gradient", ["backprop", "checkpoint"])
@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
def test_a_dense_solution_has_its_derivative_by_time(dtype, gradient, back):
    for y in (torch.ones(2, dtype=dtype), torch.ones((), dtype=dtype)):
        t = torch.tensor(0.7, dtype=dtype, requires_grad=True)
        value = dense(gradient, y, back)(t)
        assert value.dtype == dtype
        slope = torch.autograd.grad(value.sum(), t)[0]
        assert float(slope) == pytest.approx(-float(value.detach().sum()), rel=1e-4)


def test_it_is_differentiated_twice_and_by_the_state_and_forward():
    y, t = torch.ones(1, dtype=DOUBLE, requires_grad=True), torch.tensor(0.7, dtype=DOUBLE, requires_grad=True)
    (first,) = torch.autograd.grad(dense("backprop", y, False)(t).sum(), t, create_graph=True)
    second, mixed = torch.autograd.grad(first, [t, y])
    assert [float(second), float(mixed)] == pytest.approx([math.exp(-0.7), -math.exp(-0.7)], rel=1e-3)
    forward = tangent(dense("backprop", Y, False), torch.tensor(0.7, dtype=DOUBLE), P)
    torch.testing.assert_close(forward, -math.exp(-0.7) * Y, rtol=1e-4, atol=0)


def test_odeint_dense_has_the_derivatives_of_many_times():
    d = odeint_dense(lambda t, y: (-y[0], y[1]), (torch.ones(1, dtype=DOUBLE), torch.ones(2, dtype=DOUBLE)), 0.0, 2.0)
    times = torch.tensor([[0.1, 0.9], [1.3, 2.0]], dtype=DOUBLE, requires_grad=True)
    falling, rising = d(times)
    assert falling.shape == (2, 2, 1)
    (slope,) = torch.autograd.grad(falling.sum(), times, retain_graph=True)
    torch.testing.assert_close(slope, -torch.exp(-times), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(torch.autograd.grad(rising.sum(), times)[0], 2 * torch.exp(times), rtol=1e-4, atol=1e-6)
    one = torch.tensor(1.0, dtype=DOUBLE, requires_grad=True)
    assert float(torch.autograd.grad(d(one)[0].sum(), one)[0]) == pytest.approx(-math.exp(-1), rel=1e-5)
