"""torchdiffeq's calls: the same values, gradients, shapes and evaluations for an unchanged program."""

from __future__ import annotations

import importlib
import math
import warnings
from typing import Any

import pytest
import torch
import torchdiffeq
from torch import Tensor, nn

import schemes
from schemes.errors import SchemenetError
from schemes.integration.events import Event
from schemes.ivp.torchdiffeq_api import UnusedOptionWarning

pytestmark = pytest.mark.filterwarnings("ignore::schemes.gradients.adjoint_ode.backsolve.AdjointDriftWarning")
DOUBLE = torch.float64
TIMES = torch.tensor([0.0, 0.3, 0.35, 2.0], dtype=DOUBLE)
START = torch.tensor([[1.0, 0.3], [0.2, -0.5]], dtype=DOUBLE)
FIXED = ["euler", "midpoint", "heun2", "heun3", "rk4"]


class Field(nn.Module):
    """Non-autonomous; counts its calls."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inside, self.outside = nn.Linear(3, 8).double(), nn.Linear(8, 2).double()
        self.calls = 0

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        assert t.shape == ()
        assert t.dtype == y.dtype
        self.calls += 1
        return self.outside(torch.tanh(self.inside(torch.cat((y, t.expand(*y.shape[:-1], 1)), -1))))


def run(library: Any, name: str, times: Tensor = TIMES, **options: Any) -> tuple[Tensor, Tensor, list[int]]:
    """Values, all gradients but those of the times in one vector, evaluations forward and with backward."""
    f, y0 = Field(), START.clone().requires_grad_()
    values = getattr(library, name)(f, y0, times, **options)
    forward = f.calls
    weights = torch.arange(values.numel(), dtype=DOUBLE).view_as(values).cos()
    gradients = torch.autograd.grad((values * weights).sum(), [y0, *f.parameters()])
    return values.detach(), torch.cat([g.flatten() for g in gradients]), [forward, f.calls]


@pytest.mark.parametrize("times", [TIMES, TIMES.flip(0)], ids=["forwards", "backwards"])
@pytest.mark.parametrize("name", ["odeint", "odeint_adjoint"])
@pytest.mark.parametrize("options", [None, {"step_size": 0.11}, {"step_size": 0.3, "interp": "cubic"}], ids=str)
@pytest.mark.parametrize("method", FIXED)
def test_given_steps_are_taken_as_torchdiffeq_takes_them(method, options, name, times):
    ours, theirs = (run(lib, name, times, method=method, options=options) for lib in (schemes, torchdiffeq))
    torch.testing.assert_close(ours[0], theirs[0], rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(ours[1], theirs[1], rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("name", ["odeint", "odeint_adjoint"])
def test_a_constructed_grid_and_perturbed_ends(name):
    def constructor(f, y0, t):
        return torch.cat((t[:1], torch.tensor([0.1, 0.2, 1.0, 1.7], dtype=DOUBLE), t[-1:]))

    options = {"grid_constructor": constructor, "perturb": True}
    ours, theirs = (run(lib, name, method="rk4", options=options) for lib in (schemes, torchdiffeq))
    torch.testing.assert_close(ours[0], theirs[0], rtol=1e-12, atol=1e-13)
    if name == "odeint":
        torch.testing.assert_close(ours[1], theirs[1], rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("times", [TIMES, TIMES.flip(0)], ids=["forwards", "backwards"])
@pytest.mark.parametrize("method", ["dopri5", "dopri8", "bosh3", "fehlberg2", "adaptive_heun"])
def test_adaptive_methods_ask_as_often_as_torchdiffeqs_and_are_not_further_off(method, times):
    tolerance = {} if "dopri" in method else {"rtol": 1e-5, "atol": 1e-6}
    exact = run(schemes, "odeint", times, rtol=1e-12, atol=1e-13)
    ours, theirs = (run(lib, "odeint", times, method=method, **tolerance) for lib in (schemes, torchdiffeq))
    if method not in ("fehlberg2", "adaptive_heun"):  # where theirs begins a step with another state's slope
        assert ours[2] == theirs[2]
    for i in (0, 1):
        assert (ours[i] - exact[i]).norm() < max(1.5 * (theirs[i] - exact[i]).norm(), 1e-7 * exact[i].norm())
        torch.testing.assert_close(ours[i], theirs[i], rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("method", [None, "dopri8", "tsit5", "scipy_solver"])
def test_the_adjoint_agrees_with_torchdiffeqs_and_asks_less(method):
    known = "dopri5" if method == "tsit5" else method  # 0.2.5 has no tsit5
    ours, theirs = run(schemes, "odeint_adjoint", method=method), run(torchdiffeq, "odeint_adjoint", method=known)
    torch.testing.assert_close(ours[0], theirs[0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours[1], theirs[1], rtol=1e-4, atol=1e-5)
    assert ours[2][1] - ours[2][0] < theirs[2][1] - theirs[2][0]


def test_all_of_torchdiffeqs_names_and_all_of_ours_are_methods():
    exact = torch.exp(torch.sin(torch.tensor(1.0, dtype=DOUBLE)))
    ours = set(schemes.SCHEMES.list("[a-eg-krt]*")) - {"asynchronous_leapfrog", "backward_euler_poly"}
    solvers = importlib.import_module("torchdiffeq._impl.odeint").SOLVERS
    names = {*solvers, "tsit5", "rk4_classic", "implicit_euler", "implicit_midpoint"}
    names |= {"trapezoid", "radauIIA3", "radauIIA5", "gl4", "gl6", "sdirk2", "trbdf2"}
    for method in names | ours:
        y0 = torch.ones(1, dtype=DOUBLE)
        tolerance = 1e-5 if method in ("adaptive_heun", "fehlberg2") else 1e-7
        times = torch.linspace(0, 1, 17, dtype=DOUBLE)
        found = schemes.odeint(lambda t, y: y * torch.cos(t), y0, times, method=method, rtol=tolerance)[-1]
        assert abs(float(found.detach() - exact)) < 0.1, method


def test_fourth_order_gauss_is_of_order_four_on_a_non_autonomous_equation():
    exact = math.exp(math.sin(1))

    def error(steps: int) -> float:
        t = torch.linspace(0, 1, steps + 1, dtype=DOUBLE)
        found = schemes.odeint(lambda t, y: y * torch.cos(t), torch.ones(1, dtype=DOUBLE), t, method="gl4")
        return abs(float(found[-1].detach()) - exact)

    assert math.log2(error(4) / error(8)) == pytest.approx(4, abs=0.3)


@pytest.mark.parametrize("name", ["odeint", "odeint_adjoint"])
def test_a_tuple_comes_back_as_a_tuple(name):
    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rate = nn.Parameter(torch.tensor(-1.3, dtype=DOUBLE))

        def forward(self, t: Tensor, y: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
            return self.rate * y[0], y[0].sum(-1).sin()

    def solved(library: Any) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        f, y0 = Pair(), (START.clone().requires_grad_(), torch.zeros(2, dtype=DOUBLE, requires_grad=True))
        found = getattr(library, name)(f, y0, TIMES, rtol=(1e-7, 1e-8), atol=(1e-9, 1e-9), **extra)
        assert isinstance(found, tuple)
        return found, torch.autograd.grad(found[0].sum() + found[1].cos().sum(), [*y0, *f.parameters()])

    extra = {"adjoint_rtol": 1e-7, "adjoint_atol": 1e-9} if name == "odeint_adjoint" else {}
    ours, theirs = solved(schemes), solved(torchdiffeq)
    assert [part.shape for part in ours[0]] == [(4, 2, 2), (4, 2)]
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_the_adjoints_norm_sees_what_torchdiffeqs_sees():
    def seen(library: Any, method: str, norm: Any) -> tuple[Tensor, list[Any], int]:
        shapes: list[Any] = []

        def watching(parts: tuple[Tensor, ...]) -> Tensor:
            shapes.append([tuple(part.shape) for part in parts])
            return norm(parts)

        found = run(library, "odeint_adjoint", method=method, adjoint_options={"norm": watching})
        return found[1], shapes[-1], found[2][1]

    def largest(parts: tuple[Tensor, ...]) -> Tensor:
        return torch.stack([part.abs().pow(2).mean().sqrt() for part in parts]).max()

    def half(parts: tuple[Tensor, ...]) -> Tensor:
        return largest(parts[:3])

    def strict(parts: tuple[Tensor, ...]) -> Tensor:
        return 1e3 * largest(parts[3:]) + largest(parts)

    all_ours, all_theirs = seen(schemes, "dopri5", largest), seen(torchdiffeq, "dopri5", largest)
    assert all_ours[1] == all_theirs[1] == [(), (2, 2), (2, 2), (8, 3), (8,), (2, 8), (2,)]
    torch.testing.assert_close(all_ours[0], all_theirs[0], rtol=1e-4, atol=1e-5)
    without = seen(schemes, "dopri5", half)
    assert without[2] <= all_ours[2] < seen(schemes, "dopri5", strict)[2]
    torch.testing.assert_close(without[0], all_ours[0], rtol=1e-4, atol=1e-5)
    named = run(schemes, "odeint_adjoint", method="dopri5", adjoint_options={"norm": "seminorm"})
    torch.testing.assert_close(named[1], all_ours[0], rtol=1e-4, atol=1e-5)


def test_the_adjoint_has_a_method_and_tolerances_of_its_own():
    def field_calls(**options: Any) -> tuple[Tensor, int]:
        _, gradient, (forward, both) = run(schemes, "odeint_adjoint", method="dopri5", **options)
        return gradient, both - forward

    exact = run(schemes, "odeint", rtol=1e-11, atol=1e-12)[1]
    loose, few = field_calls(adjoint_rtol=1e-3, adjoint_atol=1e-3)
    tight, many = field_calls(adjoint_rtol=1e-8, adjoint_atol=1e-9)
    assert few < many
    assert 10 * (tight - exact).norm() < (loose - exact).norm() < 1e-3 * exact.norm()
    rk4, calls = field_calls(adjoint_method="rk4", adjoint_options={"step_size": 0.1})
    assert calls == 4 * 21  # 3, 1 and 17 steps
    assert (rk4 - exact).norm() < 1e-4 * exact.norm()
    with pytest.raises(SchemenetError, match="adjoint_options"):
        schemes.odeint_adjoint(Field(), START, TIMES, method="rk4", options={"step_size": 0.1}, adjoint_method="dopri5")


def test_parameters_of_a_plain_function_are_named():
    net = Field()
    made = torch.tensor(0.4, dtype=DOUBLE, requires_grad=True)

    def gradients(call: Any, **options: Any) -> tuple[Tensor, ...]:
        scale = made.exp()  # no leaf
        values = call(lambda t, y: scale * net(t, y), START, TIMES, **options(scale) if options else {})
        return torch.autograd.grad(values[-1].sin().sum(), [made, *net.parameters()])

    def adjoint(f: Any, y0: Tensor, t: Tensor) -> Tensor:
        closed_over = [f.__closure__[i].cell_contents for i in range(2)]
        scale = next(x for x in closed_over if isinstance(x, Tensor))
        return schemes.odeint_adjoint(f, y0, t, adjoint_params=(scale, *net.parameters()))

    for found, expected in zip(gradients(adjoint), gradients(schemes.odeint), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)
    with pytest.raises(SchemenetError, match="adjoint_params"):
        schemes.odeint_adjoint(lambda t, y: -y, START, TIMES)
    none = schemes.odeint_adjoint(net, START.clone().requires_grad_(), TIMES, adjoint_params=())
    none.sum().backward()
    assert all(p.grad is None for p in net.parameters())


@pytest.mark.parametrize("method", ["dopri5", "rk4"])
def test_callbacks_hear_of_the_same_steps(method):
    class Told(Field):
        def __init__(self) -> None:
            super().__init__()
            self.heard: list[Any] = []

        def callback_step(self, t, y, h):
            self.heard.append(("step", float(t), float(h), tuple(y.shape)))

        def callback_accept_step(self, t, y, h):
            self.heard.append(("accept", float(t), float(h), tuple(y.shape)))

        def callback_reject_step(self, t, y, h):
            self.heard.append(("reject", float(t), float(h), tuple(y.shape)))

        def callback_step_adjoint(self, t, y, h):
            self.heard.append(("adjoint", float(t), float(h) > 0, [tuple(part.shape) for part in y[:3]]))

    def heard(library: Any) -> list[Any]:
        f, times = Told(), TIMES[[0, -1]]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            options = {"step_size": 0.5} if method == "rk4" else {"first_step": 1.5}
            y0 = START.clone().requires_grad_()
            library.odeint_adjoint(f, y0, times, method=method, options=options).sum().backward()
        return f.heard

    ours, theirs = heard(schemes), heard(torchdiffeq)
    assert any(event[0] == "adjoint" for event in ours)
    ours, theirs = ([event for event in events if event[0] != "adjoint"] for events in (ours, theirs))
    if method == "dopri5":
        assert "reject" in [event[0] for event in ours]
        ours, theirs = ours[:10], theirs[:10]  # theirs goes beyond the end
    assert [event[0] for event in ours] == [event[0] for event in theirs]
    for mine, other in zip(ours, theirs, strict=True):
        assert mine[1:3] == pytest.approx(other[1:3], rel=0.2)  # they estimate errors by Shampine's weights
        assert mine[3] == other[3]


def test_what_a_method_does_not_take_is_named():
    f, y0, t = (lambda t, y: -y), torch.ones(1, dtype=DOUBLE), torch.tensor([0.0, 1.0])
    with pytest.raises(SchemenetError, match="no method 'dopri'; did you mean 'dopri5'"):
        schemes.odeint(f, y0, t, method="dopri")
    with pytest.warns(UnusedOptionWarning, match="takes no 'frist_step'; did you mean 'first_step'"):
        schemes.odeint(f, y0, t, options={"frist_step": 0.1})
    with pytest.raises(SchemenetError, match="mutually exclusive"):
        schemes.odeint(f, y0, t, method="rk4", options={"step_size": 0.1, "grid_constructor": lambda f, y, t: t})
    with pytest.raises(SchemenetError, match="no interp 'cubik'; did you mean 'cubic'"):
        schemes.odeint(f, y0, t, method="rk4", options={"interp": "cubik"})


def test_a_jump_that_is_known_is_hit_from_both_sides_either_way_in_time():
    calls = 0

    def f(t: Tensor, y: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return torch.where(t < 0.5, y, -3 * y)

    y0, t = torch.ones(1, dtype=DOUBLE), torch.tensor([0.0, 1.0])
    for times, exact in ((t, math.exp(0.5 - 1.5)), (t.flip(0), math.exp(1.5 - 0.5))):
        counts = []
        for options in ({}, {"jump_t": torch.tensor([0.5])}):
            calls = 0
            found = float(schemes.odeint(f, y0, times, options=options)[-1])
            counts.append(calls)
        assert found == pytest.approx(exact, rel=1e-7)
        assert counts[1] < counts[0] / 2


# Events ------------------------------------------------------------------------------------------------------


class Ball(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.g = nn.Parameter(torch.tensor(9.81, dtype=DOUBLE))

    def forward(self, t: Tensor, y: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        return y[1], -self.g.expand_as(y[1])


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("name", ["odeint", "odeint_adjoint"])
def test_time_and_state_of_an_event_have_the_gradients_of_the_closed_form(name, reverse):
    def fall(height: Tensor, speed: Tensor, t0: Tensor, g: Tensor) -> Tensor:
        sign = -1 if reverse else 1
        return t0 + (speed + sign * (speed**2 + 2 * g * height).sqrt()) / g

    f = Ball()
    height, speed = (torch.tensor([x], dtype=DOUBLE, requires_grad=True) for x in (10.0, 0.5))
    t0 = torch.tensor(0.2, dtype=DOUBLE, requires_grad=True)
    inputs = [height, speed, t0, f.g]
    found, (_, v) = schemes.odeint_event(
        f, (height, speed), t0, event_fn=lambda t, y: y[0], reverse_time=reverse,
        odeint_interface=getattr(schemes, name), rtol=1e-9, atol=1e-10,
    )  # fmt: skip
    exact = fall(height, speed, t0, f.g)
    torch.testing.assert_close(found.reshape(1), exact, rtol=1e-8, atol=0)
    expected = torch.autograd.grad(exact.sum(), inputs, retain_graph=True)
    torch.testing.assert_close(torch.autograd.grad(found, inputs, retain_graph=True), expected, rtol=1e-7, atol=1e-9)
    end = speed - f.g * (exact - t0)
    expected = torch.autograd.grad(end.sum(), inputs, allow_unused=True, materialize_grads=True)
    found_end = torch.autograd.grad(v[-1].sum(), inputs)
    torch.testing.assert_close(found_end, expected, rtol=1e-7, atol=1e-8)


def test_an_events_own_parameters_get_gradients():
    level = torch.tensor(0.5, dtype=DOUBLE, requires_grad=True)
    t, _ = schemes.odeint_event(
        lambda t, y: -y, torch.ones(1, dtype=DOUBLE), torch.tensor(0.0), event_fn=lambda t, y: y - level, rtol=1e-9
    )
    assert float(t.detach()) == pytest.approx(math.log(2), abs=1e-6)
    assert float(torch.autograd.grad(t, level)[0]) == pytest.approx(-2, rel=1e-5)


def test_an_event_with_given_steps():
    def find(library: Any) -> tuple[Tensor, Tensor]:
        return library.odeint(
            lambda t, y: -y, torch.ones(2, dtype=DOUBLE), torch.tensor([0.0, 1.0], dtype=DOUBLE), method="rk4",
            options={"step_size": 0.1}, event_fn=lambda t, y: y - torch.tensor([0.5, 0.4]), atol=1e-12,
        )  # fmt: skip

    torch.testing.assert_close(find(schemes), find(torchdiffeq), rtol=0, atol=1e-9)
    with pytest.raises(SchemenetError, match="step_size"):
        schemes.odeint(lambda t, y: -y, START, torch.tensor([0.0, 1.0]), method="rk4", event_fn=lambda t, y: y)


def turning(g: Any, t: Any = (0.0, 20.0), **options: Any) -> schemes.Solution:
    """A point that goes round the unit circle from (1, 0)."""
    grid = {"name": "adaptive", "rtol": 1e-9, "atol": 1e-9, **options}
    return schemes.solve(
        lambda t, y: torch.stack((-y[1], y[0])), torch.tensor([1.0, 0.0], dtype=DOUBLE), t, grid=grid, event=g
    )


def test_the_rules_of_events():
    def ends(g: Any, **options: Any) -> float:
        solution = turning(g, **options)
        return float(solution.times[-1]) if solution.status == "event" else math.inf

    near = {"abs": 1e-6}
    assert ends(lambda t, y: y[0]) == pytest.approx(math.pi / 2, **near)
    # Zero at the start: an event there; with a direction a start on the zero is none.
    assert ends(lambda t, y: y[1]) == 0
    assert ends(Event(lambda t, y: y[1], "falling")) == pytest.approx(math.pi, **near)
    assert ends(Event(lambda t, y: y[1], "rising")) == pytest.approx(2 * math.pi, **near)
    assert ends(Event(lambda t, y: y[0], "rising")) == pytest.approx(3 * math.pi / 2, **near)
    # At the last time, and at an output time, which is then there as well.
    assert ends(lambda t, y: t - 2, t=(0.0, 1.0, 2.0)) == 2
    assert turning(lambda t, y: t - 1, t=(0.0, 1.0, 2.0)).times.tolist() == [0, 1, 1]
    # After the last time nothing is looked for.
    assert ends(lambda t, y: t - 2, t=(0.0, 1.0)) == math.inf
    # An even root changes no sign.
    assert ends(lambda t, y: (t - 1) ** 2) == math.inf
    # Two entries, or two events, in one step: the first one.
    assert ends(lambda t, y: torch.stack((t - 0.50002, t - 0.50001))) == pytest.approx(0.50001)
    both = turning(lambda t, y: torch.stack((t - 0.7, y[0] - 0.8)), first_step=1.0)
    assert float(both.times[-1]) == pytest.approx(math.acos(0.8), **near)
    # There and back within a step is not seen, unless max_step looks more often.
    assert ends(lambda t, y: (t - 10) ** 2 - 1e-4) == math.inf
    assert ends(lambda t, y: (t - 10) ** 2 - 1e-4, max_step=0.015) == pytest.approx(9.99)


def test_outputs_before_an_event_are_kept_and_it_is_found_backwards_in_time():
    solution = turning(lambda t, y: y[0] + 0.5, t=(0.0, 0.5, 1.0, 3.0, 20.0))
    assert solution.times.tolist() == pytest.approx([0, 0.5, 1, 2 * math.pi / 3], abs=1e-6)
    torch.testing.assert_close(solution.values[:, 0], solution.times.cos(), rtol=0, atol=1e-6)
    back = turning(lambda t, y: y[0] + 0.5, t=(0.0, -20.0))
    assert float(back.times[-1]) == pytest.approx(-2 * math.pi / 3, abs=1e-6)


@pytest.mark.parametrize("mode", ["checkpoint", "adjoint"])
def test_the_state_at_an_event_has_its_gradient_in_every_mode(mode):
    def gradient(mode: str) -> Tensor:
        rate = torch.tensor(1.1, dtype=DOUBLE, requires_grad=True)
        solution = schemes.solve(
            lambda t, y, a: -a * y, torch.ones(1, dtype=DOUBLE), [0, 5], args=(rate,), gradient=mode,
            grid={"name": "adaptive", "rtol": 1e-9, "atol": 1e-9}, event=lambda t, y: y - 0.3,
        )  # fmt: skip
        return torch.autograd.grad(solution.values[-1].sum(), rate)[0]

    torch.testing.assert_close(gradient(mode), gradient("backprop"), rtol=1e-7, atol=0)


# Dense -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["dopri5", "tsit5", "bosh3", "dopri8"])
def test_a_dense_solution_is_a_function_of_time(method):
    rate = torch.tensor(-1.0, dtype=DOUBLE, requires_grad=True)
    y0 = (torch.ones(2, dtype=DOUBLE), torch.zeros(1, dtype=DOUBLE))
    dense = schemes.odeint_dense(
        lambda t, y: (rate * y[0], torch.cos(t).expand(1)), y0, torch.tensor(0.0), torch.tensor(2.0), method=method,
        rtol=1e-6, atol=1e-6,
    )  # fmt: skip
    t = torch.tensor([[0.0, 0.3], [1.1, 2.0]], dtype=DOUBLE)
    first, second = dense(t)
    assert first.shape == (2, 2, 2)
    torch.testing.assert_close(first[..., 0], torch.exp(-t), rtol=0, atol=1e-4)
    torch.testing.assert_close(second[..., 0], torch.sin(t), rtol=0, atol=1e-4)
    assert float(torch.autograd.grad(dense(1.1)[0][0], rate)[0]) == pytest.approx(1.1 * math.exp(-1.1), abs=1e-3)
    with pytest.raises(SchemenetError, match=r"from t = 0 to 2, got 2\.5"):
        dense(2.5)
