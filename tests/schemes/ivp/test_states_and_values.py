"""States with empty parts, and values of f in memory that f writes to again."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from schemes import odeint, odeint_adjoint, odeint_event, solve
from schemes.core.node import Node
from schemes.errors import FieldError
from schemes.ivp.right_hand_side import RightHandSide
from schemes.registry import SCHEMES

DOUBLE = torch.float64
UNIFORM = {"name": "uniform", "steps": 3}
LOOSE = {"name": "adaptive", "rtol": 1e-2, "atol": 1e-2}
TIGHT = {"name": "adaptive", "rtol": 1e-6, "atol": 1e-6}
ON_TUPLES = [
    name
    for name in SCHEMES.list()
    if (scheme := SCHEMES.build(name)).components == 1 and scheme.order is not None and not scheme.coefficients()
]


class Decay(nn.Module):
    """y' = -a y, part by part."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.ones((), dtype=DOUBLE))

    def forward(self, t: Tensor, y: Any) -> Any:
        return tuple(-self.a * part for part in y)


def with_empty(place: int | None) -> tuple[Tensor, ...]:
    parts = [torch.ones(2, 3, dtype=DOUBLE), torch.full((2, 2), 2.0, dtype=DOUBLE)]
    if place is not None:
        parts.insert(place, torch.ones(2, 0, dtype=DOUBLE))
    return tuple(part.requires_grad_() for part in parts)


def without_empty(values: tuple[Tensor, ...]) -> list[Tensor]:
    return [value for value in values if value.numel()]


def solved_parts(call: Callable[..., Any], place: int | None) -> list[Tensor]:
    """Values and gradients of what is not empty."""
    f, y0 = Decay(), with_empty(place)
    values = call(f, y0, [0.0, 0.4, 1.0])
    if place is not None:
        assert values[place].shape == (3, 2, 0)
    loss: Any = sum(value.square().sum() for value in values)
    return [*without_empty(values), *torch.autograd.grad(loss, [*without_empty(y0), f.a])]


@pytest.mark.parametrize(
    "call",
    [
        *(
            pytest.param(lambda f, y, t, s=s, g=g: solve(f, y, t, scheme=s, grid=g).values, id=f"{s}-{g['name']}")
            for s in ON_TUPLES
            for g in (UNIFORM, LOOSE)
            if g is UNIFORM or SCHEMES.build(s).error_order is not None
        ),
        *(
            pytest.param(lambda f, y, t, m=m: solve(f, y, t, grid=TIGHT, gradient=m).values, id=m)
            for m in ("backprop", "adjoint")
        ),
        pytest.param(lambda f, y, t: solve(f, y, t, batching="per_sample").values, id="per_sample"),
        pytest.param(lambda f, y, t: solve(f, y, t, grid=TIGHT | {"rtol": (1e-5,) * len(y)}).values, id="tolerances"),
        pytest.param(odeint, id="odeint"),
        pytest.param(odeint_adjoint, id="odeint_adjoint"),
        pytest.param(lambda f, y, t: odeint_adjoint(f, y, t, method="scipy_solver"), id="scipy"),
    ],
)
def test_an_empty_part_of_a_state_is_carried_along(call):
    for one, other in zip(solved_parts(call, 0), solved_parts(call, None), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


def test_an_event_of_a_state_with_an_empty_part():
    time, _ = odeint_event(Decay(), with_empty(1), torch.tensor(0.0), event_fn=lambda t, y: y[0].mean() - 0.5)
    assert float(time.detach()) == pytest.approx(math.log(2), abs=1e-6)


# One buffer for all values ---------------------------------------------------------------------------------------


class Rotation(nn.Module):
    """y'' = -a y, its values in memory of a ``kind``."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.ones((), dtype=DOUBLE))
        self.kind, self.solver_state, self.array = kind, torch.zeros(2, dtype=DOUBLE), np.zeros(2)

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        value = torch.stack((y[1], -self.a * y[0]))
        if self.kind == "new":
            return value
        if self.kind == "numpy":
            self.array[:] = value.detach().numpy()
            return torch.from_numpy(self.array)
        if self.kind == "written to later":
            self.solver_state.zero_()
            self.solver_state = value
            return value
        self.solver_state.copy_(value)
        return {"buffer": self.solver_state, "view": self.solver_state[:], "detached": self.solver_state.detach()}[
            self.kind
        ]


START = torch.tensor([1.0, 0.0], dtype=DOUBLE)
EXPLICIT = [
    (name, grid)
    for name in ON_TUPLES
    for grid in ("uniform", "adaptive")
    if not SCHEMES.build(name).implicit and (grid == "uniform" or SCHEMES.build(name).error_order is not None)
]


@pytest.mark.parametrize(("scheme", "grid"), EXPLICIT)
def test_f_may_have_one_buffer_for_all_of_its_values(scheme, grid):
    grid = UNIFORM if grid == "uniform" else LOOSE
    with torch.no_grad():
        expected, *others = (
            solve(Rotation(kind), START, [0, 0.55, 1], scheme=scheme, grid=grid).values
            for kind in ("new", "buffer", "view", "detached", "numpy", "written to later")
        )
    for values in others:
        torch.testing.assert_close(values, expected, rtol=0, atol=0)


def test_in_inference_mode_and_by_odeint_too():
    with torch.inference_mode():
        values = [odeint(Rotation(kind), 1 * START, [0, 1], rtol=1e-6)[-1] for kind in ("new", "view", "detached")]
    assert values[0].tolist() == values[1].tolist() == values[2].tolist()


@pytest.mark.parametrize("grid", [UNIFORM, TIGHT], ids=["uniform", "adaptive"])
@pytest.mark.parametrize("kind", ["buffer", "view", "written to later"])
def test_a_buffer_of_f_does_not_spoil_gradients(kind, grid):
    def gradients(kind: str) -> list[Tensor]:
        f, y = Rotation(kind), START.clone().requires_grad_()
        values = solve(f, y, [0, 1], grid=grid, scheme="dopri5", gradient="backprop").values
        return [values, *torch.autograd.grad(values.square().sum() + values.sum(), [y, f.a])]

    for one, other in zip(gradients(kind), gradients("new"), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("mode", ["checkpoint", "adjoint"])
@pytest.mark.parametrize("kind", ["buffer", "view"])
def test_modes_that_evaluate_f_again_refuse_a_buffer_with_a_graph(kind, mode):
    values = solve(Rotation(kind), START, [0, 1], grid=UNIFORM, scheme="rk4", gradient=mode).values
    with pytest.raises(FieldError, match=r"f writes its values of shape \(2,\) into one tensor that needs a gradient"):
        values.sum().backward()


def test_a_value_that_f_has_just_made_is_not_copied():
    made: list[int] = []

    def f(t: Tensor, y: Tensor) -> Tensor:
        value = -y
        made.append(value.data_ptr())
        return value

    equation = RightHandSide([f], START, (), torch.zeros((), dtype=DOUBLE))
    values = [equation.rate(Node(0, 0.0, 0.1), START) for _ in range(3)]
    assert [value.data_ptr() for value in values] == made


# Times -----------------------------------------------------------------------------------------------------------

LATE = 1.7e9


@pytest.mark.parametrize(
    "t",
    [
        [LATE, LATE + 1, LATE + 2],
        (LATE, LATE + 1, LATE + 2),
        range(int(LATE), int(LATE) + 3),
        np.array([LATE, LATE + 1, LATE + 2]),
        np.array([LATE + 2, LATE + 1, LATE])[::-1],
        [torch.tensor(LATE + i, dtype=DOUBLE) for i in range(3)],
    ],
    ids=["list", "tuple", "range", "array", "reversed array", "list of tensors"],
)
@pytest.mark.parametrize("method", ["dopri5", "rk4"])
def test_times_that_are_no_tensor_are_float64(t, method):
    options = {} if method == "dopri5" else {"step_size": 0.5}
    y = torch.ones(1, dtype=DOUBLE)
    right = torch.tensor([1, math.exp(-1), math.exp(-2)], dtype=DOUBLE)
    torch.testing.assert_close(
        odeint(lambda t, y: -y, y, t, method=method, options=options)[:, 0], right, rtol=0, atol=1e-3
    )


def test_options_that_are_times_are_float64():
    times: list[Tensor] = []

    def grid_constructor(f: Any, y0: Any, t: Tensor) -> Tensor:
        times.append(t)
        return t

    y, t = torch.ones(1, dtype=DOUBLE), [LATE, LATE + 1]
    odeint(lambda t, y: -y, y, t, method="rk4", options={"grid_constructor": grid_constructor})
    assert times[0].tolist() == t

    def f(t: Tensor, y: Tensor) -> Tensor:
        return torch.where(t < LATE + 0.3, -y, 0.5 + 0 * y)

    calls = []
    for options in ({"jump_t": [LATE + 0.3]}, {"jump_t": torch.tensor([LATE + 0.3], dtype=DOUBLE)}):
        seen: list[Tensor] = []
        odeint(lambda t, y, seen=seen: seen.append(t) or f(t, y), y, t, options=options, rtol=1e-6, atol=1e-6)
        calls.append(len(seen))
    assert calls[0] == calls[1]


def test_a_time_in_a_list_has_its_gradient():
    time = torch.tensor(1.0, dtype=DOUBLE, requires_grad=True)
    for values in (
        solve(lambda t, y: -y, START, [0, time], grid=TIGHT).values,
        odeint(lambda t, y: -y, START, [0, time]),
    ):
        assert float(torch.autograd.grad(values[-1].sum(), time)[0]) == pytest.approx(-math.exp(-1), abs=1e-5)


def test_listed_times_of_each_sample():
    values = solve(lambda t, y: -y, torch.ones(2, 1), [[0, 1], [1, 3]], batching="per_sample").values
    assert values[-1, :, 0].tolist() == pytest.approx([math.exp(-1), math.exp(-2)], abs=2e-3)
