"""Events and output times: where they are found, and what their first and second derivatives are."""

from __future__ import annotations

import gc
import math
from typing import Any

import pytest
import torch
import torchdiffeq
from torch import Tensor, nn

import schemes
from schemes import odeint, odeint_adjoint, odeint_dense, odeint_event, solve
from schemes.errors import NonFiniteError, SchemenetError, SolverError
from schemes.integration.events import Event, bracket
from schemes.integration.scipy_loop import ScipyGrid

DOUBLE = torch.float64
TIGHT = {"name": "adaptive", "rtol": 1e-10, "atol": 1e-12}
ZERO = torch.tensor(0.0, dtype=DOUBLE)
MODES = ("backprop", "checkpoint", "adjoint")


def number(x: float) -> Tensor:
    return torch.tensor(x, dtype=DOUBLE, requires_grad=True)


def hessian(function: Any, *inputs: Tensor) -> Tensor:
    """The matrix of second derivatives in numbers, and the gradient as its first row."""
    first = torch.autograd.grad(function(*inputs), inputs, create_graph=True)
    rows = [torch.autograd.grad(g, inputs, retain_graph=True, materialize_grads=True) for g in first]
    return torch.stack([torch.stack(row) for row in (first, *rows)])


# Output times ------------------------------------------------------------------------------------------------


def decayed(y0: Tensor, t0: Tensor, t1: Tensor, p: Tensor) -> Tensor:
    """The solution of y' = -p cos(t) y at t1, in a form with second derivatives by everything."""
    return (y0 * torch.exp(p * (t0.sin() - t1.sin()))) ** 2 * t1


def by_solver(form: str, **options: Any) -> Any:
    """The same by a solver, as one part of a state of this form."""

    def function(y0: Tensor, t0: Tensor, t1: Tensor, p: Tensor) -> Tensor:
        def f(t: Tensor, y: Any) -> Any:
            rate = -p * torch.cos(t)
            return {"tuple": lambda: (y[0] * 0, rate * y[1]), "dict": lambda: {"a": rate * y["a"]}}.get(
                form, lambda: rate * y
            )()

        t = torch.stack((t0, t0.detach() + 0.1, t1))
        y = {
            "tensor": lambda: y0.reshape(1), "scalar": lambda: y0, "complex": lambda: y0.reshape(1) + 0j,
            "tuple": lambda: (torch.ones(2, dtype=DOUBLE), y0.reshape(1, 1)), "dict": lambda: {"a": y0.reshape(1)},
        }[form]()  # fmt: skip
        values = options["call"](f, y, t)
        values = {"tuple": lambda: values[1], "dict": lambda: values["a"]}.get(form, lambda: values)()
        return values[-1].real.sum() ** 2 * t1

    return function


def by_solve(**options: Any) -> Any:
    return lambda f, y, t: solve(f, y, t, **{"gradient": "backprop", "grid": TIGHT, **options}).values


UNIFORM = {"name": "uniform", "steps": 16}
CALLS = {
    "dopri5": by_solve(), "tsit5": by_solve(scheme="tsit5"), "rk4": by_solve(scheme="rk4", grid=UNIFORM),
    "odeint": odeint, "odeint-rk4": lambda f, y, t: odeint(f, y, t, method="rk4", options={"step_size": 0.05}),
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "form"),
    [
        *((name, "tensor") for name in CALLS),
        ("dopri5", "scalar"), ("dopri5", "tuple"), ("dopri5", "dict"), ("dopri5", "complex"), ("odeint", "tuple"),
    ],
)  # fmt: skip
def test_second_derivatives_by_output_times_are_the_solutions(name, form):
    inputs = [number(x) for x in (0.8, 0.3, 1.1, 0.5)]
    found = hessian(by_solver(form, call=CALLS[name]), *inputs)
    torch.testing.assert_close(found, hessian(decayed, *inputs), rtol=2e-5, atol=2e-5)


def test_a_pair_of_coupled_states_has_second_derivatives_by_its_times():
    def turned(t: Tensor) -> Tensor:
        f = (lambda t, p: p, lambda t, q: -q)
        grid = {"name": "uniform", "steps": 100}
        q, _ = solve(f, (torch.ones(1, dtype=DOUBLE), torch.zeros(1, dtype=DOUBLE)), torch.stack((ZERO, t)),
                     scheme="verlet", grid=grid, gradient="backprop").values  # fmt: skip
        return q[-1, 0]

    t = number(1.0)
    torch.testing.assert_close(hessian(turned, t), hessian(torch.cos, t), rtol=0, atol=1e-4)


def test_each_sample_has_second_derivatives_by_its_own_times():
    t = torch.tensor([[0.0, 1.0], [0.2, 0.7]], dtype=DOUBLE, requires_grad=True)
    y0, rates = torch.ones(2, 1, dtype=DOUBLE), torch.tensor([[1.0], [2.0]], dtype=DOUBLE)
    y = solve(lambda t, y: -rates * y, y0, t, grid=TIGHT, gradient="backprop", batching="per_sample").values[-1]
    (first,) = torch.autograd.grad(y.sum(), t, create_graph=True)
    (second,) = torch.autograd.grad(first[:, 1].sum(), t)
    exact = rates**2 * torch.exp(-rates * (t[:, 1:] - t[:, :1])).detach()
    torch.testing.assert_close(second, torch.cat((-exact, exact), 1), rtol=1e-8, atol=0)


@pytest.mark.parametrize("mode", ["checkpoint", "adjoint"])
def test_other_modes_refuse_second_derivatives_by_times_and_of_events(mode):
    t, level, y0 = torch.tensor([0.0, 1.0], dtype=DOUBLE, requires_grad=True), number(0.5), number(1.0)
    y = solve(lambda t, y: -y, torch.ones(1, dtype=DOUBLE), t, gradient=mode).values[-1]
    with pytest.raises(SchemenetError, match=f"'{mode}' gives first derivatives only.*need gradient=backprop"):
        torch.autograd.grad(y.sum(), t, create_graph=True)
    y = solve(lambda t, y: -y, y0, [0, 2], gradient=mode, event=lambda t, y: y - level)
    for variable in (level, y0):
        with pytest.raises(SchemenetError, match=f"'{mode}' gives first derivatives only"):
            torch.autograd.grad(y.times[-1], variable, create_graph=True)


@pytest.mark.parametrize("mode", MODES)
def test_an_interval_of_no_length_has_the_gradients_of_its_times(mode):
    t = torch.tensor([2.0, 2.0], dtype=DOUBLE, requires_grad=True)
    (end,) = solve(lambda t, y: -t * y, torch.full((1,), 3.0, dtype=DOUBLE), t, gradient=mode).values[-1]
    assert torch.autograd.grad(end, t)[0].tolist() == pytest.approx([6, -6])


# The derivative of an event ----------------------------------------------------------------------------------


def crossing(y0: Tensor, t0: Tensor, p: Tensor, level: Tensor) -> Tensor:
    """y' = -p y^2, z' = y from z = 0 until y = level: a function of the time and z there."""
    return (t0 + (1 / level - 1 / y0) / p) ** 2 + torch.log(y0 / level) / p


def ways() -> dict[str, Any]:
    """Calls that return the time and the state of an event, from f, its parameter, y0, t0 and g."""
    tight = {"rtol": 1e-10, "atol": 1e-12}

    def direct(**options: Any) -> Any:
        def call(f: Any, p: Tensor, y0: Any, t0: Tensor, g: Any) -> Any:
            solution = solve(f, y0, torch.stack((t0, t0.detach() + 9)), parameters=[p], event=g, **options)
            return solution.times[-1], solution.values

        return call

    def of_event(**options: Any) -> Any:
        return lambda f, p, y0, t0, g: odeint_event(f, y0, t0, event_fn=g, **{**tight, **options})

    def adjoint(f: Any, p: Tensor, y0: Any, t0: Tensor, g: Any) -> Any:
        t = torch.stack((t0, t0.detach() + 1))
        return odeint_adjoint(f, y0, t, event_fn=g, adjoint_params=[p], **tight)

    def through_adjoint(f: Any, p: Tensor, y0: Any, t0: Tensor, g: Any) -> Any:
        options = {"odeint_interface": odeint_adjoint, "adjoint_params": [p]}
        return odeint_event(f, y0, t0, event_fn=g, **options, **tight)

    return {
        "odeint_event": of_event(), "odeint_event-dopri8": of_event(method="dopri8"),
        "odeint": lambda f, p, y0, t0, g: odeint(f, y0, torch.stack((t0, t0.detach() + 1)), event_fn=g, **tight),
        "uniform": direct(scheme="rk4", grid={"name": "uniform", "steps": 150}, gradient="backprop"),
        "solve": direct(grid=TIGHT, gradient="backprop"), "odeint_adjoint": adjoint,
        "odeint_event-adjoint": through_adjoint, "checkpoint": direct(grid=TIGHT, gradient="checkpoint"),
        "adjoint": direct(grid=TIGHT, gradient="adjoint"),
    }  # fmt: skip


WAYS = ways()
ONCE = ("odeint_adjoint", "odeint_event-adjoint", "checkpoint", "adjoint")


@pytest.mark.parametrize("way", WAYS)
def test_an_event_has_the_derivatives_of_the_closed_form(way):
    def found(y0: Tensor, t0: Tensor, p: Tensor, level: Tensor) -> Tensor:
        def f(t: Tensor, y: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
            return -p * y[0] ** 2, y[0].expand(2)

        t, (_, z) = WAYS[way](f, p, (y0.reshape(1), torch.zeros(2, dtype=DOUBLE)), t0, lambda t, y: y[0] - level)
        return t**2 + z[-1, 0]

    inputs = [number(x) for x in (0.7, 0.4, 0.9, 0.3)]
    if way in ONCE:
        first = torch.autograd.grad(found(*inputs), inputs)
        torch.testing.assert_close(first, torch.autograd.grad(crossing(*inputs), inputs), rtol=1e-6, atol=1e-7)
    else:
        torch.testing.assert_close(hessian(found, *inputs), hessian(crossing, *inputs), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("interface", [odeint, odeint_adjoint])
def test_a_complex_states_event_has_the_gradient_of_torchs_convention(interface):
    class Spiral(nn.Module):
        def forward(self, t: Tensor, y: Tensor) -> Tensor:
            return (1j - 0.2) * y

    def event(y0: Tensor) -> Tensor:
        t, y = odeint_event(Spiral(), y0, ZERO, event_fn=lambda t, y: y.real[0] - 0.1 * t, odeint_interface=interface)
        return torch.stack((t, y[-1, 0].real, y[-1, 0].imag, y[-1, 1].abs()))

    y0 = torch.tensor([1 + 0.3j, 0.5 - 0.2j], dtype=torch.complex128, requires_grad=True)
    assert torch.autograd.gradcheck(event, y0, rtol=1e-5, atol=1e-6)
    with pytest.raises(SchemenetError, match="complex numbers, which have no sign"):
        odeint_event(Spiral(), y0, ZERO, event_fn=lambda t, y: y[0])


def falling(h: Tensor, g: Any, **options: Any) -> tuple[Tensor, Any]:
    """Bodies that fall from heights h from rest."""
    n = len(h)
    f = lambda t, y: torch.cat((y[n:], torch.where(h.detach() > 0, -9.81, 0.0)))  # short
    return odeint_event(f, torch.cat((h, torch.zeros_like(h))), ZERO, event_fn=g, rtol=1e-9, atol=1e-9, **options)


def test_the_gradient_of_an_event_is_that_of_the_entry_that_crossed():
    def of(heights: list[float], g: Any, **options: Any) -> list[float]:
        h = torch.tensor(heights, dtype=DOUBLE, requires_grad=True)
        return torch.autograd.grad(falling(h, g, **options)[0], h)[0].tolist()

    def exact(height: float) -> Any:
        return pytest.approx(1 / math.sqrt(2 * 9.81 * height), rel=1e-6)

    # One entry rests on the zero, or comes nearer to it than the one that crosses and turns back.
    assert of([0.0, 2.0], Event(lambda t, y: y[:2], "falling")) == [0, exact(2.0)]
    assert of([1.0, 2.0], lambda t, y: torch.stack((y[0] * 1e-30 + 1e-30, y[1]))) == [0, exact(2.0)]
    # Three cross in one step: the first one, in whatever place and form.
    for order in ([2.001, 2.0, 2.002], [2.0, 2.001, 2.002], [2.002, 2.001, 2.0]):
        expected = [exact(2.0) if height == 2 else 0 for height in order]
        assert of(order, lambda t, y: y[:3].reshape(3, 1), options={"first_step": 0.5}) == expected
    # An entry that goes down and up again within the step does not count.
    both = lambda t, y: torch.stack(((t - 0.3) * (t - 0.31), y[0]))  # short
    assert of([2.0], both, options={"first_step": 2.0}) == [exact(2.0)]


def test_an_event_that_is_none_for_differentiation_refuses_its_gradient():
    def event(g: Any) -> Any:
        y0 = number(2.0)
        solution = solve(lambda t, y: -y, y0, [0, 0.2, 3], grid=TIGHT, event=g)
        return solution, y0

    for g in (lambda t, y: y > 0.5, lambda t, y: y.detach() - 0.5, lambda t, y: (y > 0.5).int() - 0.5):
        solution, y0 = event(g)
        assert float(solution.times[-1].detach()) == pytest.approx(math.log(4), abs=1e-8)
        with pytest.raises(SchemenetError, match=r"no gradient, because entry 0 .* truth values or detached"):
            solution.times[-1].backward(retain_graph=True)
        with pytest.raises(SchemenetError, match="no gradient, because entry 0"):
            solution.values.sum().backward(retain_graph=True)
        solution.values[:-1].sum().backward()  # what comes before the event has one
        assert float(y0.grad) == pytest.approx(1 + math.exp(-0.2))
    with pytest.raises(SchemenetError, match="has the derivative 0 along the solution at t = 0 and"):
        event(lambda t, y: 0 * y)[0].times[-1].backward()
    with pytest.raises(SchemenetError, match=r"torch\.func's transforms do not see"):
        torch.func.grad(lambda y: odeint_event(lambda t, y: -y, y, ZERO, event_fn=lambda t, y: y - 0.5)[0])(number(1.0))
    # One that depends on time alone is a constant, and the state there one at a constant time.
    solution, y0 = event(lambda t, y: t - 0.5)
    assert not solution.times.requires_grad
    assert float(torch.autograd.grad(solution.values[-1], y0)[0]) == pytest.approx(math.exp(-0.5))


# Where events are --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("grid", [TIGHT, {"name": "uniform", "steps": 40}])
def test_truth_values_and_functions_that_are_zero_on_an_interval_have_their_event_where_they_change(grid):
    def at(g: Any, y0: float = 1.0) -> tuple[float, float]:
        y = number(y0)
        t = solve(lambda t, y: -y, y, [0, 1.0, 3], grid=grid, scheme="dopri5", event=g).times[-1]
        return float(t.detach()), float(torch.autograd.grad(t, y)[0]) if t.requires_grad else math.nan

    level = 0.2
    exact = pytest.approx(math.log(5), abs=1e-6)
    one = pytest.approx(1, abs=1e-5)
    for direction in ("both", "falling"):
        assert at(Event(lambda t, y: torch.relu(y - level), direction)) == (exact, one)
    assert at(lambda t, y: -torch.relu(y - level)) == (exact, one)
    assert at(Event(lambda t, y: torch.relu(level - y), "rising")) == (exact, one)
    assert at(Event(lambda t, y: torch.nn.functional.softshrink(y, level), "falling")) == (exact, one)

    def changes(g: Any) -> float:
        with torch.no_grad():
            return at(g)[0]

    for g, wrong in ((lambda t, y: y > level, "rising"), (lambda t, y: y < level, "falling")):
        other = "falling" if wrong == "rising" else "rising"
        assert changes(g) == changes(Event(g, other)) == exact
        assert changes(Event(g, wrong)) == 3  # none in that direction
    assert changes(lambda t, y: torch.stack((y > -1, y > level, y > 0.1))) == exact


def test_a_bracket_is_narrow_whatever_the_function():
    functions = {
        "line": lambda x: 0.3 - x, "cubic": lambda x: (0.3 - x) ** 3, "step": lambda x: 1.0 if x < 0.3 else -1.0,
        "flat": lambda x: max(0.3 - x, 0.0), "steep": lambda x: 1 - math.exp(50 * (x - 0.3)),
        "huge": lambda x: math.inf if x < 0.3 else -1.0,
    }  # fmt: skip
    for name, g in functions.items():
        calls = []

        def value(x: float, g: Any = g, calls: list[float] = calls) -> tuple[float, bool]:
            calls.append(x)
            return g(x), g(x) <= 0

        low, high = bracket(value, g(0.0), g(1.0))
        assert 0 < high - low <= 4e-15, name
        assert g(low) > 0 >= g(high), name
        assert low == pytest.approx(0.3, abs=1e-5 if name == "cubic" else 1e-14), name
        assert len(calls) <= (12 if name in ("line", "steep") else 150), (name, len(calls))


def test_an_event_at_an_output_time_backwards_and_at_the_start():
    for t, y0 in (([0.0, 0.5, 1.0, 2.0], 1.0), ([0.0, -0.5, -1.0, -2.0], -1.0)):
        start = torch.full((1,), y0, dtype=DOUBLE)
        for grid, scheme in (("adaptive", "dopri5"), ({"name": "uniform", "steps": 8}, "rk4")):
            event = lambda t, y: y  # short
            solution = solve(lambda t, y: -torch.ones_like(y), start, t, grid=grid, scheme=scheme, event=event)
            assert solution.status == "event"
            assert solution.times.tolist() == pytest.approx([*t[:3], t[2]])
            assert (solution.times.diff() * t[-1] >= 0).all()
    # At the start its time and state still depend on all.
    y0, t0 = number(0.0), number(2.0)
    t, _ = odeint_event(lambda t, y: 3 + y, y0, t0, event_fn=lambda t, y: y)
    assert t.item() == 2
    assert [g.item() for g in torch.autograd.grad(t, (y0, t0))] == pytest.approx([-1 / 3, 1])


def test_an_event_after_a_late_start_in_float32_is_as_precise_as_the_state():
    def late(t0: Tensor, **options: Any) -> Tensor:
        y0, g = torch.ones(2, dtype=DOUBLE), lambda t, y: y[0] - 0.5
        return odeint_event(lambda t, y: -0.01 * y, y0, t0, event_fn=g, **options)[0]

    for start, options in ((2e7, {}), (-2e7, {"method": "rk4", "options": {"step_size": 1.0}})):
        t0 = torch.tensor(start, requires_grad=True)
        found, exact = (late(t, **options) for t in (t0, t0.detach().double()))
        assert found.dtype == DOUBLE
        assert found.item() == exact.item() == pytest.approx(start + 100 * math.log(2), abs=2e-3)
        assert torch.autograd.grad(found, t0)[0] == 1
    t, _ = odeint_event(lambda t, y: -y, torch.ones(1), torch.tensor(0.0), event_fn=lambda t, y: y - 0.5)
    assert t.dtype == torch.float32  # as both are
    with pytest.raises(SchemenetError, match=r"second time tells the direction .* got t = \[2.0, 2.0\]"):
        odeint(lambda t, y: -y, torch.ones(1), torch.tensor([2.0, 2.0]), event_fn=lambda t, y: y - 0.5)


def test_what_is_no_event_function_is_told():
    def ends(g: Any, steps: int = 50) -> Any:
        grid = {"name": "uniform", "steps": steps}
        return solve(lambda t, y: -y, torch.ones(1, dtype=DOUBLE), [0, 3], scheme="rk4", grid=grid, event=g)

    with pytest.raises(SchemenetError, match="expected to be a tensor of one entry or more, got"):
        ends(lambda t, y: (y, y))
    with pytest.raises(NonFiniteError, match=r"event: g\(t, y\) is not a number at t = "):
        ends(lambda t, y: torch.sqrt(y - 0.5) - 0.1, steps=3)
    assert float(ends(lambda t, y: float(y) - 0.5).times[-1]) == pytest.approx(math.log(2), abs=1e-3)
    with pytest.raises(SolverError, match="event: there is none up to t = "):
        odeint_event(lambda t, y: 0 * y, torch.ones(1), torch.tensor(0.0), event_fn=lambda t, y: y + 1)


def test_scipys_solvers_look_for_no_events():
    with pytest.raises(SchemenetError, match="SciPy's solvers look for no events"):
        solve(lambda t, y: -y, torch.ones(1), [0, 3], grid=ScipyGrid(), event=lambda t, y: y - 0.5)


# What is left behind, and what else torchdiffeq's calls do ---------------------------------------------------


class Pulled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear, self.unused = nn.Linear(3, 3), nn.Parameter(torch.ones(2))

    def forward(self, t: Tensor, y: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (torch.tanh(self.linear(y[0])) - y[0] - 0.5,)


@pytest.mark.parametrize("way", ["odeint", "odeint_adjoint", *MODES, "uniform"])
def test_no_tensor_is_left_in_a_cycle_after_an_event(way):
    f, g, y0 = Pulled(), lambda t, y: y[0].mean() - 0.2, (torch.ones(2, 3, requires_grad=True),)

    def run() -> None:
        if way.startswith("odeint"):
            interface = odeint if way == "odeint" else odeint_adjoint
            options = {"rtol": 1e-4, "atol": 1e-4, "options": {"norm": lambda parts: parts[0].abs().max()}}
            t, y = odeint_event(f, y0, torch.tensor(0.0), event_fn=g, odeint_interface=interface, **options)
        else:
            grid = {"name": "uniform", "steps": 40} if way == "uniform" else "adaptive"
            options = {"grid": grid, "gradient": way if way in MODES else "checkpoint", "dense": grid == "adaptive"}
            solution = solve(f, y0, [0, 5], event=g, **options)
            assert solution.status == "event"
            t, y = solution.times[-1], solution.values
        (t + y[0].sum()).backward()

    run()  # what is imported and made once
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        run()
        gc.collect()
        left = sum(isinstance(x, Tensor) for x in gc.garbage)
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
    assert left == 0


def test_a_dense_solution_of_no_length_is_its_state():
    f, y0 = lambda t, y: tuple(-part for part in y), (torch.ones(2), torch.full((1,), 3.0))
    for dense in (solve(f, y0, [2.0, 2.0], dense=True), odeint_dense(f, y0, 2.0, 2.0)):
        assert [part.tolist() for part in dense(2.0)] == [[1, 1], [3]]
        with pytest.raises(SchemenetError, match=r"known from t = 2 to 2, got 2\.1"):
            dense(2.1)
    started = solve(f, y0, [2.0, 3.0], dense=True, event=lambda t, y: t - 2)
    assert started.status == "event"
    assert started(2.0)[1] == 3
    assert odeint_dense(lambda t, y: -y, y0[0], torch.tensor(0.1), torch.tensor(0.1))(0.1).tolist() == [1, 1]


@pytest.mark.parametrize("interface", [odeint, odeint_adjoint])
def test_a_norm_is_handed_a_tuple_of_one_for_a_tuple_of_one(interface):
    forms = set()

    def norm(parts: Any) -> Tensor:
        forms.add((type(parts), len(parts), tuple(parts[0].shape)))
        return parts[0].abs().max()

    f, y0 = Pulled(), torch.ones(2, 3, requires_grad=True)
    (y,) = interface(f, (y0,), torch.tensor([0.0, 1.0]), rtol=1e-3, atol=1e-3, options={"norm": norm})
    y[-1].sum().backward()
    assert forms == {(tuple, 1, (2, 3))}
    # The norm of a tuple is the largest of its parts': of one part that of the tensor.
    calls = []
    for state in (y0.detach(), (y0.detach(),)):
        g = lambda t, y: calls.append(1) or (f(t, (y,))[0] if isinstance(y, Tensor) else f(t, y))
        calls.append(0)
        odeint(g, state, torch.tensor([0.0, 4.0]), rtol=1e-5, atol=1e-5)
    counts = "".join(map(str, calls)).split("0")[1:]
    assert len(counts[0]) == len(counts[1])


def test_parameters_that_f_does_not_use_have_the_zeros_of_torchdiffeq():
    for library in (torchdiffeq, schemes):
        f = Pulled()
        (y,) = library.odeint_adjoint(f, (torch.ones(2, 3),), torch.tensor([0.0, 1.0]), rtol=1e-3, atol=1e-3)
        y[-1].sum().backward()
        assert f.unused.grad.tolist() == [0, 0]
