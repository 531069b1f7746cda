"""Gradients of initial value problems, for every pair and every mode; solutions beside a solver that is not ours."""

from __future__ import annotations

import gc
import warnings
import weakref
from typing import Any

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from schemes import SCHEMES, odeint_adjoint, solve
from schemes.gradients.adjoint_ode.backsolve import AdjointDriftWarning
from schemes.methods.runge_kutta import RungeKutta
from schemes.registry import GRADIENTS
from tests.support.selections import ONE_OF_A_KIND

DOUBLE = torch.float64


class Field(nn.Module):
    """Non-autonomous, of two parts; a parameter is shared, another one not used, a third one frozen."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inside, self.outside = nn.Linear(3, 3).double(), nn.Linear(3, 2).double()
        self.scale = nn.Parameter(torch.tensor(0.7, dtype=DOUBLE))
        self.again, self.unused = self.scale, nn.Parameter(torch.ones(2, dtype=DOUBLE))
        self.frozen = nn.Parameter(torch.tensor(1.1, dtype=DOUBLE), requires_grad=False)

    def forward(self, t: Tensor, y: tuple[Tensor, Tensor], shift: Tensor) -> tuple[Tensor, Tensor]:
        a, b = y
        hidden = torch.tanh(self.inside(torch.cat((a, (t + shift).reshape(1)))))
        return self.frozen * self.outside(hidden) * self.scale, -self.again * b * torch.cos(t) + a.sum()


TRAINED = ("inside.weight", "inside.bias", "outside.weight", "outside.bias", "scale", "unused")


STATE = torch.tensor([0.5, -0.3], dtype=DOUBLE), torch.tensor([0.8], dtype=DOUBLE)
TIMES = torch.tensor([0.0, 0.2, 0.5], dtype=DOUBLE)


def inputs() -> list[Tensor]:
    field = dict(Field().named_parameters())
    tensors = [*STATE, torch.tensor(0.1, dtype=DOUBLE), *(field[name] for name in TRAINED)]
    return [t.detach().clone().requires_grad_() for t in tensors]


class Problem(nn.Module):
    """The solution as a function of all that it depends on, through functional_call."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.field, self.options = Field(), options

    def forward(self, a: Tensor, b: Tensor, shift: Tensor) -> Tensor:
        found, other = solve(self.field, (a, b), TIMES, args=(shift,), **self.options).values
        return torch.cat((found[1:].flatten(), other[1:].flatten()))

    def at(self, *tensors: Tensor) -> Tensor:
        weights = {f"field.{name}": weight for name, weight in zip(TRAINED, tensors[3:], strict=True)}
        return torch.func.functional_call(self, {**weights, "field.again": weights["field.scale"]}, tensors[:3])

    def gradients(self) -> tuple[Tensor, ...]:
        values = self.at(*(tensors := inputs()))
        weights = torch.arange(1.0, 7.0, dtype=DOUBLE)
        return torch.autograd.grad((values * weights).sum(), tensors, allow_unused=True, materialize_grads=True)


def gradcheck(problem: Problem) -> None:
    """By random directions, to the accuracy of differences."""
    assert torch.autograd.gradcheck(problem.at, inputs(), fast_mode=True, atol=1e-6, rtol=1e-5)


def takes_any_f(name: str) -> bool:
    scheme = SCHEMES.build(name)
    return scheme.components == 1 and scheme.order is not None and scheme.problem == "general"


FIXED = [name for name in SCHEMES.list() if takes_any_f(name)]
"""New schemes come in by themselves."""
ADAPTIVE = [name for name in FIXED if SCHEMES.build(name).error_order is not None]


def modes(schemes: list[str]) -> list[Any]:
    """Schemes with the modes that differentiate what they have computed."""
    return [
        pytest.param(name, mode, id=f"{name}-{mode}")
        for name in schemes
        for mode in ("checkpoint", "reversible")
        if GRADIENTS.build(mode).unsupported_scheme_reason(SCHEMES.build(name)) is None
    ]


def given(scheme: str) -> dict[str, Any]:
    return {"scheme": scheme, "grid": {"name": "uniform", "steps": 2 if SCHEMES.build(scheme).implicit else 5}}


def of_its_own(scheme: str, tol: float = 1e-4) -> dict[str, Any]:
    return {"scheme": scheme, "grid": {"name": "adaptive", "rtol": tol, "atol": tol}}


@pytest.mark.parametrize("scheme", [name for name in FIXED if name in ONE_OF_A_KIND])
def test_backprop_on_given_steps_is_the_derivative(scheme):
    gradcheck(Problem(gradient="backprop", **given(scheme)))


@pytest.mark.parametrize("scheme", ADAPTIVE)
def test_backprop_on_steps_that_the_error_decides_is_the_derivative(scheme):
    """At step sizes that are constants: here the errors decide nothing."""
    grid = {"name": "adaptive", "rtol": 1e-10, "atol": 1e-10, "norm": lambda error: 0.0, "max_step": 0.15}
    gradcheck(Problem(scheme=scheme, grid=grid, gradient="backprop"))


@pytest.mark.parametrize(("scheme", "mode"), modes(FIXED))
def test_on_given_steps_modes_are_backprop(scheme, mode):
    found, exact = (Problem(gradient=m, **given(scheme)).gradients() for m in (mode, "backprop"))
    torch.testing.assert_close(found, exact, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize(("scheme", "mode"), modes(ADAPTIVE))
def test_on_steps_that_the_error_decides_modes_are_backprop(scheme, mode):
    found, exact = (Problem(gradient=m, **of_its_own(scheme)).gradients() for m in (mode, "backprop"))
    torch.testing.assert_close(found, exact, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("scheme", [name for name in ADAPTIVE if isinstance(SCHEMES.build(name), RungeKutta)])
def test_the_adjoint_is_right_to_the_tolerance(scheme):
    exact = Problem(gradient="backprop", **of_its_own("dopri5", 1e-12)).gradients()
    found = Problem(gradient="adjoint", **of_its_own(scheme, 1e-6)).gradients()
    for gradient, expected in zip(found, exact, strict=True):
        torch.testing.assert_close(gradient, expected, rtol=1e-3, atol=3e-4)


@pytest.mark.parametrize("mode", ["backprop", "checkpoint", "adjoint"])
def test_every_mode_passes_gradcheck_to_tight_tolerances(mode):
    gradcheck(Problem(gradient=mode, **of_its_own("dopri5", 1e-11)))


@pytest.mark.parametrize("mode", ["backprop", "checkpoint", "adjoint"])
def test_the_gradients_of_times_pass_gradcheck(mode):
    def end(t: Tensor) -> Tensor:
        grid = {"name": "adaptive", "rtol": 1e-11, "atol": 1e-11}
        return solve(Field(), STATE, t, args=(0.1,), grid=grid, gradient=mode).values[0][1:].flatten()

    assert torch.autograd.gradcheck(end, TIMES.clone().requires_grad_(), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("mode", ["checkpoint", "adjoint"])
def test_losses_at_inner_times_add_up(mode):
    """The gradient of a sum over output times is the sum of those of solves that end there."""
    grid = {"name": "adaptive", "rtol": 1e-10, "atol": 1e-10}

    def gradient(times: list[float], *at: int) -> Tensor:
        y0 = torch.tensor([0.5, -0.3], dtype=DOUBLE, requires_grad=True)
        values = solve(lambda t, y: torch.sin(y) * torch.cos(t), y0, times, gradient=mode, grid=grid).values
        return torch.autograd.grad(sum(values[i].square().sum() for i in at), y0)[0]

    together = gradient([0, 0.4, 0.9, 1.5], 1, 2, 3)
    apart = gradient([0, 0.4], 1) + gradient([0, 0.9], 1) + gradient([0, 1.5], 1)
    torch.testing.assert_close(together, apart, rtol=1e-7, atol=1e-9)


def test_a_norm_changes_the_work_and_not_the_gradient():
    class Wide(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.layers = nn.Sequential(nn.Linear(2, 50), nn.Tanh(), nn.Linear(50, 2)).double()

        def forward(self, t: Tensor, y: Tensor) -> Tensor:
            return self.layers(y**3)

    def largest(parts: tuple[Tensor, ...]) -> float:
        return max(float(part.detach().square().mean().sqrt()) for part in parts)

    def gradient(norm: Any) -> tuple[Tensor, int]:
        f, calls = Wide(), 0

        def count(*_: Any) -> None:
            nonlocal calls
            calls += 1

        end = odeint_adjoint(
            f, torch.tensor([[2.0, 0.0]], dtype=DOUBLE), torch.linspace(0, 1, 5), rtol=1e-6, atol=1e-6,
            adjoint_options={} if norm is None else {"norm": norm},
        )[1:].sum()  # fmt: skip
        f.register_forward_hook(count)
        return torch.cat([g.flatten() for g in torch.autograd.grad(end, list(f.parameters()))]), calls

    alone, with_all = gradient(None), gradient(lambda parts: 1e3 * largest(parts))
    assert alone[1] < with_all[1]
    assert (alone[0] - with_all[0]).norm() < 1e-4 * with_all[0].norm()


# A solver that is not ours -----------------------------------------------------------------------------------


def van_der_pol(t: Any, y: Any) -> Any:
    return y[1], 2 * (1 - y[0] ** 2) * y[1] - y[0]


def lorenz(t: Any, y: Any) -> Any:
    return 10 * (y[1] - y[0]), y[0] * (28 - y[2]) - y[1], y[0] * y[1] - 8 / 3 * y[2]


@pytest.mark.parametrize("method", ["DOP853", "Radau"])
@pytest.mark.parametrize(
    ("f", "start", "end", "stretch"),
    [(van_der_pol, [2.0, 0.0], 10.0, 1e3), (lorenz, [1.0, 1.0, 1.0], 5.0, 1e4)],
    ids=["van der Pol", "Lorenz"],
)
def test_scipy_finds_the_same(f, start, end, stretch, method):
    """To the tolerance times what the equation makes of an error by then: on the cycle of van der Pol's mu = 2 errors
    in phase stay, and grow up to hundred times where it turns; Lorenz's e^(0.906 * 5) = 93, times the size of f."""
    times = np.linspace(0, end, 6)
    tolerance = 1e-12 if method == "DOP853" else 1e-9  # Radau's order 5 takes long for more
    theirs = solve_ivp(lambda t, y: np.array(f(t, y)), (0, end), start, method, times, rtol=tolerance, atol=tolerance).y
    grid = {"name": "adaptive", "rtol": 1e-12, "atol": 1e-12}
    state = torch.tensor(start, dtype=DOUBLE)
    ours = solve(lambda t, y: torch.stack(f(t, y)), state, times.tolist(), grid=grid, scheme="dopri8").values
    torch.testing.assert_close(ours.T, torch.from_numpy(theirs), rtol=0, atol=stretch * tolerance * 10)


def test_no_warning_where_a_part_of_the_state_starts_at_zero():
    y0 = (torch.ones(2, dtype=DOUBLE, requires_grad=True), torch.zeros(1, dtype=DOUBLE))
    values = solve(lambda t, y: (-y[0], y[0][:1]), y0, [0, 1], gradient="adjoint").values
    with warnings.catch_warnings():
        warnings.simplefilter("error", AdjointDriftWarning)
        values[1].sum().backward()


SOLVED_BY = {
    "backprop": {"gradient": "backprop"},
    "checkpoint": {"gradient": "checkpoint"},
    "adjoint": {"gradient": "adjoint"},
    "reversible": {"gradient": "reversible", "scheme": "reversible_heun"},
    "uniform": {"scheme": "rk4", "grid": {"name": "uniform", "steps": 4}},
    "per_sample": {"batching": "per_sample"},
    "event": {"event": lambda t, y: pytree.tree_leaves(y)[0].sum() - 5.0},
}


@pytest.mark.parametrize(("case", "kind"), [*((case, tuple) for case in SOLVED_BY), ("checkpoint", torch.Tensor)])
def test_a_module_that_keeps_its_own_solution_is_freed(case: str, kind: type) -> None:
    """Also after its backward pass, and a gradient comes when nothing is left but the result."""

    class Kept(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Parameter(torch.ones(2, 3, dtype=DOUBLE))
            y0 = self.a if kind is torch.Tensor else (self.a, 2 * self.a)
            self.solution = solve(self, y0, [0.0, 1.0], **SOLVED_BY[case])

        def forward(self, t: Tensor, y: Any) -> Any:
            return pytree.tree_map(lambda part: -self.a * part, y)

    kept = Kept()
    loss, parameter = sum(part[-1].sum() for part in pytree.tree_leaves(kept.solution.values)), kept.a
    reference = weakref.ref(kept)
    del kept
    gc.collect()
    loss.backward()
    assert parameter.grad is not None
    del loss
    gc.collect()
    assert reference() is None
