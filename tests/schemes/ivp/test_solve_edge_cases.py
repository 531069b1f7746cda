"""What can go wrong in a solve, and what is then said or done."""

from __future__ import annotations

import math
import pickle
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from schemes import odeint, odeint_adjoint, solve
from schemes.errors import (
    FieldError,
    NonFiniteError,
    SchemenetError,
    SolverError,
    StepLimitError,
    StepSizeError,
    TimeLimitError,
)
from schemes.gradients.adjoint_ode.backsolve import AdjointDriftWarning
from schemes.integration.adaptive_grid import AdaptiveGrid, ToleranceWarning

DOUBLE = torch.float64
ONES = torch.ones(2, dtype=DOUBLE)
MODES = ["backprop", "checkpoint", "adjoint"]
Solve = Callable[..., Any]


def at(tol: float, **options: Any) -> dict[str, Any]:
    return {"name": "adaptive", "rtol": tol, "atol": tol, **options}


def by_solve(f: Any, y0: Any, t: Any, tol: float = 1e-6, **options: Any) -> Any:
    return solve(f, y0, t, grid=at(tol, **options)).values


def by_odeint(f: Any, y0: Any, t: Any, tol: float = 1e-6, **options: Any) -> Any:
    times = t if isinstance(t, Tensor) else torch.tensor(t)
    options = {{"max_steps": "max_num_steps"}.get(key, key): value for key, value in options.items()}
    return odeint(f, y0, times, rtol=tol, atol=tol, options=options)


both = pytest.mark.parametrize("call", [by_solve, by_odeint])
every_mode = pytest.mark.parametrize("mode", MODES)


class Field(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(2, 2).double()

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return torch.tanh(self.layer(y)) * torch.cos(t)


# Solves that cannot go on ------------------------------------------------------------------------------------


@both
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_f_is_no_number_at_once(call, bad):
    with pytest.raises(NonFiniteError, match=r"f returned 2 entries that are NaN or infinite, of 2, at t = 0;"):
        call(lambda t, y: y * bad, ONES, [0, 1])


@both
def test_f_is_no_number_later_which_smaller_steps_cannot_avoid(call):
    def f(t: Tensor, y: Tensor) -> Tensor:
        return torch.stack((-y[0], torch.where(t < 0.5, -y[1], math.nan)))

    with pytest.raises(NonFiniteError, match=r"f returned 1 entries .* of 2, at t = 0\.5") as caught:
        call(f, ONES, [0, 0.25, 0.4, 1])
    reached = caught.value.partial
    assert reached.times.tolist() == pytest.approx([0, 0.25, 0.4])
    assert reached.status == "NonFiniteError"
    torch.testing.assert_close(reached.values[:, 0], torch.exp(-reached.times).double(), rtol=1e-5, atol=0)


def test_a_number_that_smaller_steps_do_find():
    """The square root is no number beyond the domain, which the solution touches only at its end."""
    found = by_solve(lambda t, y: -torch.sqrt(y), torch.ones(1, dtype=DOUBLE), [0, 1.9])
    assert float(found[-1]) == pytest.approx((1 - 1.9 / 2) ** 2, abs=1e-5)


@both
def test_a_solution_that_blows_up_is_told_with_its_time(call):
    with pytest.raises(StepSizeError, match="may blow up") as caught:
        call(lambda t, y: y * y, ONES, [0, 0.5, 2])
    at = float(str(caught.value).split(" at t = ")[1].split(" ")[0])
    assert at == pytest.approx(1, abs=1e-4)
    torch.testing.assert_close(caught.value.partial.values[-1], 2 * ONES, rtol=1e-4, atol=0)


@both
def test_the_step_limit_says_what_was_reached(call):
    with pytest.raises(StepLimitError, match=r"max_steps=50 is reached at t = .* 302 evaluations .*stiff") as caught:
        call(lambda t, y: -1000 * (y - torch.cos(t)), ONES, [0, 0.01, 10], max_steps=50)
    assert caught.value.partial.times.tolist() == pytest.approx([0, 0.01])
    assert isinstance(caught.value, SolverError)
    assert isinstance(caught.value, ValueError)


def test_the_time_limit_ends_a_solve():
    def slow(t: Tensor, y: Tensor) -> Tensor:
        time.sleep(0.005)
        return -y

    with pytest.raises(TimeLimitError, match=r"seconds=0\.01 is reached at t ="):
        by_solve(slow, ONES, [0, 1], tol=1e-12, seconds=0.01)


@every_mode
def test_what_is_raised_inside_f_leaves_nothing_behind(mode):
    values: list[weakref.ref[Tensor]] = []
    field = Field()

    def f(self: Any, t: Tensor, y: Tensor) -> Tensor:
        values.append(weakref.ref(value := Field.forward(self, t, y)))
        if len(values) == 5:
            raise KeyboardInterrupt
        return value

    field.forward = f.__get__(field)  # type: ignore[method-assign]
    y0 = ONES.clone().requires_grad_()
    with pytest.raises(KeyboardInterrupt):
        solve(field, y0, [0, 1], gradient=mode)
    assert all(value() is None for value in values)
    solve(field, y0, [0, 1], gradient=mode).values.sum().backward()
    assert y0.grad is not None


# Times -------------------------------------------------------------------------------------------------------


@both
def test_times_that_turn_round_are_named(call):
    with pytest.raises(SchemenetError, match=r"expected increasing times, got t\[2\] = 0.5 after t\[1\] = 1"):
        call(lambda t, y: -y, ONES, [0, 1, 0.5, 2])
    with pytest.raises(SchemenetError, match=r"got t\[1\] = nan"):
        call(lambda t, y: -y, ONES, [0, math.nan, 1])


@both
@pytest.mark.parametrize("method", ["adaptive", "fixed"])
def test_repeated_times_repeat_the_state(call, method):
    times = torch.tensor([0, 0, 1, 1, 2, 2], dtype=DOUBLE)
    if method == "adaptive":
        found = call(lambda t, y: -y, ONES, times)
    elif call is by_odeint:
        found = odeint(lambda t, y: -y, ONES, times, method="rk4", options={"step_size": 0.02})
    else:
        found = solve(lambda t, y: -y, ONES, times, scheme="rk4", grid={"name": "uniform", "steps": 100}).values
    torch.testing.assert_close(found, torch.exp(-times)[:, None].expand(-1, 2), rtol=0, atol=1e-5)
    assert torch.equal(found[0::2], found[1::2])


@every_mode
def test_repeated_times_have_gradients(mode):
    y0 = ONES.clone().requires_grad_()
    found = solve(lambda t, y: -y, y0, [0, 0, 1, 1], gradient=mode, grid=at(1e-8))
    (gradient,) = torch.autograd.grad(found.values.sum(), y0)
    torch.testing.assert_close(gradient, (2 + 2 * math.exp(-1)) * ONES, rtol=1e-6, atol=0)


@both
def test_no_interval_no_work(call):
    def never(t: Tensor, y: Tensor) -> Tensor:
        raise AssertionError("nothing to ask")

    assert torch.equal(call(never, ONES, [1.0, 1.0]), torch.stack((ONES, ONES)))
    assert torch.equal(call(never, ONES, [1.0]), ONES[None])
    assert call(never, ONES[:0], [0.0, 1.0]).shape == (2, 0)
    assert call(never, ONES.expand(3, 2)[:0], [0.0, 1.0]).shape == (2, 0, 2)


@both
def test_whole_numbers_are_times(call):
    seen = set()

    def f(t: Tensor, y: Tensor) -> Tensor:
        seen.add(t.dtype)
        return -y

    found = call(f, ONES, torch.tensor([0, 1]))
    assert float(found[-1, 0]) == pytest.approx(math.exp(-1), rel=1e-5)
    assert seen == {DOUBLE}


@both
def test_back_in_time_with_an_f_that_knows_it(call):
    found = call(lambda t, y: -y * torch.cos(t), ONES, torch.tensor([1.0, 0.0]), tol=1e-9)
    assert float(found[-1, 0]) == pytest.approx(math.exp(math.sin(1)), rel=1e-7)


@pytest.mark.parametrize("times", [[0, 1], [1, 0]])
def test_a_step_ends_where_it_is_told_to(times):
    solution = solve(lambda t, y: -y, ONES, times, grid={"name": "adaptive", "step_t": [0.3, 0.7, 5.0]})
    assert {0.3, 0.7} <= set(solution.statistics.times)


def test_late_times_are_told_apart():
    """float32 would see no two different times between t and t + 1/16."""
    late = torch.tensor([1e6, 1e6 + 1], dtype=DOUBLE)
    found = by_solve(lambda t, y: -y * torch.cos(t - 1e6), torch.ones(1), late, tol=1e-5)
    assert found.dtype == torch.float32
    assert float(found[-1]) == pytest.approx(math.exp(-math.sin(1)), rel=1e-4)


@every_mode
def test_gradients_of_times(mode):
    t = torch.tensor([0.0, 0.5, 1.0], dtype=DOUBLE, requires_grad=True)
    grid = at(1e-9)
    values = solve(lambda t, y: -y * t, torch.ones(1, dtype=DOUBLE), t, gradient=mode, grid=grid).values
    (gradient,) = torch.autograd.grad(values.sum(), t)
    exact = torch.tensor([0, -0.5 * math.exp(-0.125), -math.exp(-0.5)], dtype=DOUBLE)
    torch.testing.assert_close(gradient, exact, rtol=1e-7, atol=1e-9)


# Precision ---------------------------------------------------------------------------------------------------


@both
def test_tolerances_below_the_precision_are_warned_of_where_they_were_asked_for(call):
    with pytest.warns(
        ToleranceWarning, match=r"rtol=1e-08 and atol=1e-08 are below what torch.float32 resolves"
    ) as caught:
        call(lambda t, y: -y, ONES.float(), [0, 1], tol=1e-8)
    assert caught[0].filename == __file__


@both
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.int64])
def test_states_that_no_step_can_be_added_to_are_refused(call, dtype):
    with pytest.raises(SchemenetError, match=r"y0: .*float"):
        call(lambda t, y: -y, ONES.to(dtype), [0, 1])


@every_mode
def test_under_autocast_f_is_coarse_and_the_state_is_not(mode):
    field, seen = Field().float(), set()
    field.layer.register_forward_hook(lambda layer, inputs, output: seen.add(output.dtype))
    y0 = ONES.float().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        values = solve(field, y0, [0, 1], gradient=mode).values
    assert values.dtype == torch.float32
    values[-1].sum().backward()  # outside of it
    assert seen == {torch.bfloat16}
    assert field.layer.weight.grad is not None
    exact = solve(field, y0, [0, 1], gradient="backprop").values
    (expected,) = torch.autograd.grad(exact[-1].sum(), y0)
    torch.testing.assert_close(y0.grad, expected, rtol=0.02, atol=0.02)


@every_mode
def test_complex_states(mode):
    z = torch.ones(1, dtype=torch.complex128, requires_grad=True)
    w = torch.tensor(1.0, dtype=DOUBLE, requires_grad=True)
    grid = at(1e-9)
    end = solve(lambda t, y, w: 1j * w * y, z, [0, 1], args=(w,), gradient=mode, grid=grid).values[-1]
    assert complex(end.detach()) == pytest.approx(complex(math.cos(1), math.sin(1)), rel=1e-7)
    of_z, of_w = torch.autograd.grad(end.real.sum(), [z, w])
    assert complex(of_z) == pytest.approx(complex(math.cos(1), -math.sin(1)), rel=1e-7)
    assert float(of_w) == pytest.approx(-math.sin(1), rel=1e-7)


# What f may not do, and may ----------------------------------------------------------------------------------


@both
@pytest.mark.parametrize(
    ("f", "message"),
    [
        (lambda t, y: y[:1], r"f returned \(1,\) in torch.float64 for a state of shape \(2,\)"),
        (lambda t, y: y.float(), r"in torch.float32 for a state of shape \(2,\) in torch.float64"),
        (lambda t, y: (y,), "f returned a tuple of 1 tensors for a state that is a tensor"),
        (lambda t, y: None, "f returned None for a state that is a tensor"),
        (lambda t, y: y.mul_(-1), "f changes y in place"),
        (lambda t, y: -y + torch.rand(2), "f drew random numbers"),
    ],
    ids=["shape", "dtype", "form", "nothing", "in place", "random"],
)
def test_what_f_must_not_do_is_told_at_the_first_call(call, f, message):
    with pytest.raises(FieldError, match=message):
        call(f, ONES.clone(), [0, 1])


class Wrapped(nn.Module):
    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(2, 2), *layers).double()

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return self.layers(y)


@both
def test_layers_in_training_mode_that_make_f_another_function_at_each_call(call):
    rows = ONES.expand(3, 2)
    for layer, message in (
        (nn.Dropout(0.5), "dropout in training mode"),
        (nn.BatchNorm1d(2), "BatchNorm1d in training"),
    ):
        with pytest.raises(FieldError, match=message):
            call(Wrapped(layer), rows, [0, 1])
        assert call(Wrapped(layer).eval(), rows, [0, 1]).isfinite().all()


def test_a_sample_that_f_draws_once_is_no_harm():
    noise: list[Tensor] = []

    def f(t: Tensor, y: Tensor) -> Tensor:
        if not noise:
            noise.append(torch.randn(2, dtype=DOUBLE))
        return -y + noise[0]

    assert by_odeint(f, ONES, [0, 1]).isfinite().all()


@pytest.mark.parametrize("mode", ["backprop", "checkpoint"])
def test_on_given_steps_dropout_is_replayed(mode):
    def gradient(mode: str) -> tuple[Tensor, ...]:
        torch.manual_seed(1)
        f, t = Wrapped(nn.Dropout(0.5)), torch.linspace(0, 1, 5)
        return torch.autograd.grad(odeint(f, ONES, t, method="rk4", gradient=mode)[-1].sum(), list(f.parameters()))

    torch.testing.assert_close(gradient(mode), gradient("backprop"), rtol=1e-12, atol=1e-12)


@every_mode
def test_f_may_return_a_view_of_y(mode):
    y0 = ONES.clone().requires_grad_()
    for f in (lambda t, y: y, lambda t, y: y.view(2), lambda t, y: y.flip(0)):
        end = solve(f, y0, [0, 1], gradient=mode, grid=at(1e-8)).values[-1]
        torch.testing.assert_close(end.detach(), math.e * ONES, rtol=1e-6, atol=0)
        torch.testing.assert_close(torch.autograd.grad(end.sum(), y0)[0], math.e * ONES, rtol=1e-6, atol=0)


@both
@pytest.mark.parametrize("end", [1.0, 1e3])
def test_where_nothing_moves_two_steps_will_do(call, end):
    calls = 0

    def f(t: Tensor, y: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return torch.zeros_like(y)

    assert torch.equal(call(f, ONES, [0, end])[-1], ONES)
    assert calls <= 2 + 3 * 6


# States and parameters ---------------------------------------------------------------------------------------


@every_mode
def test_states_of_many_parts(mode):
    def f(t: Tensor, y: dict[str, Any]) -> dict[str, Any]:
        return {"a": -y["a"], "b": (y["a"].sum(), torch.zeros_like(y["b"][1]))}  # the last one from nothing

    a, b, c = ONES.clone().requires_grad_(), torch.zeros((), dtype=DOUBLE), torch.ones(1, dtype=DOUBLE).requires_grad_()
    grid = {"name": "adaptive", "rtol": 1e-8, "atol": [1e-8, 1e-8, 1e-8]}
    values = solve(f, {"a": a, "b": (b, c)}, [0, 1, 2], gradient=mode, grid=grid).values
    assert values["b"][0].shape == (3,)
    of_a, of_c = torch.autograd.grad(values["b"][0][-1] + values["b"][1].sum() + values["a"][1].sum(), [a, c])
    torch.testing.assert_close(of_a, (1 - math.exp(-2) + math.exp(-1)) * ONES, rtol=1e-6, atol=0)
    assert of_c.tolist() == [3]


@every_mode
def test_parameters_that_are_shared_frozen_or_not_used(mode):
    class Scales(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.unused = nn.Parameter(torch.ones((), dtype=DOUBLE)), nn.Parameter(torch.ones(3, dtype=DOUBLE))
            self.frozen = nn.Parameter(torch.ones((), dtype=DOUBLE), requires_grad=False)
            self.again = self.a

        def forward(self, t: Tensor, y: Tensor) -> Tensor:
            return -self.a * self.again * self.frozen * y

    f = Scales()
    solve(f, ONES[:1], [0, 1], gradient=mode, grid=at(1e-9)).values[-1].backward()
    assert f.a.grad is not None
    assert float(f.a.grad) == pytest.approx(-2 * math.exp(-1), rel=1e-6)
    assert f.unused.grad is None or not f.unused.grad.any()
    assert f.frozen.grad is None


# What is around a solve --------------------------------------------------------------------------------------


@every_mode
def test_without_gradients(mode):
    field = Field()
    with torch.inference_mode():
        inferred = solve(field, ONES.clone(), [0, 1], gradient=mode).values
    with torch.no_grad():
        plain = solve(field, ONES, [0, 1], gradient=mode)
    assert not plain.values.requires_grad
    torch.testing.assert_close(inferred, plain.values, rtol=0, atol=0)


@every_mode
def test_backward_twice_and_twice_differentiated(mode):
    field, y0 = Field(), ONES.clone().requires_grad_()
    end = solve(field, y0, [0, 1], gradient=mode).values[-1].sin().sum()
    first, second = (torch.autograd.grad(end, [y0, *field.parameters()], retain_graph=True) for _ in range(2))
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    if mode == "backprop":
        assert torch.autograd.gradgradcheck(lambda y: solve(field, y, [0, 1], gradient=mode).values[-1], y0)
        return
    with pytest.raises(SchemenetError, match="gradient=backprop"):
        torch.autograd.grad(end, y0, create_graph=True)


@every_mode
def test_functional_call(mode):
    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.field = Field()

        def forward(self, y: Tensor) -> Tensor:
            return solve(self.field, y, [0, 1], gradient=mode, grid=AdaptiveGrid(rtol=1e-9, atol=1e-9)).values[-1]

    network, doubled = Network(), Network()
    with torch.no_grad():
        for p in doubled.parameters():
            p.mul_(2)
    weights = {name: p.detach().clone().requires_grad_() for name, p in network.named_parameters()}
    end = torch.func.functional_call(network, {name: 2 * p for name, p in weights.items()}, (ONES,))
    found = torch.autograd.grad(end.sum(), list(weights.values()))
    expected = torch.autograd.grad(doubled(ONES).sum(), list(doubled.parameters()))
    torch.testing.assert_close(found, tuple(2 * g for g in expected), rtol=1e-6, atol=1e-9)


def test_transforms_of_functions():
    field = Field()

    def on_steps(y: Tensor) -> Tensor:
        grid = {"name": "uniform", "steps": 4}
        return solve(field, y, [0, 1], scheme="rk4", grid=grid, gradient="backprop").values[-1]

    rows = torch.stack((ONES, 2 * ONES))
    torch.testing.assert_close(torch.func.vmap(on_steps)(rows), on_steps(rows))
    with pytest.raises(SchemenetError, match="per_sample"):
        torch.func.vmap(lambda y: solve(field, y, [0, 1]).values)(rows)


def test_what_a_solve_leaves_can_be_pickled():
    with torch.no_grad():
        solution = solve(Field(), ONES, [0, 0.5, 1])
        dense = solve(Field(), ONES, [0, 1], dense=True)
    again = pickle.loads(pickle.dumps(solution))
    assert torch.equal(again.values, solution.values)
    assert again.statistics == solution.statistics
    with pytest.raises(SolverError) as caught:
        by_solve(lambda t, y: y * y, ONES, [0, 0.5, 2])
    error = pickle.loads(pickle.dumps(caught.value))
    assert type(error) is StepSizeError
    assert str(error) == str(caught.value)
    assert torch.equal(error.partial.values, caught.value.partial.values)
    assert vars(pickle.loads(pickle.dumps(AdaptiveGrid(rtol=1e-5, jump_t=[0.5])))) == vars(
        AdaptiveGrid(rtol=1e-5, jump_t=[0.5])
    )
    with pytest.raises(SchemenetError, match="dense"):
        pickle.dumps(dense)

    network = WithOdeint()
    torch.testing.assert_close(pickle.loads(pickle.dumps(network))(ONES), network(ONES), rtol=0, atol=0)


class WithOdeint(nn.Module):
    def __init__(self, call: str = "odeint_adjoint") -> None:
        super().__init__()
        self.field, self.call = Field(), call

    def forward(self, y: Tensor) -> Tensor:
        t = torch.tensor([0.0, 1.0])
        if self.call == "odeint_adjoint":
            return odeint_adjoint(self.field, y, t, rtol=1e-9, atol=1e-9)[-1]
        return odeint(self.field, y, t, rtol=1e-9, atol=1e-9, gradient=self.call)[-1]


def in_process(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    for call in ("checkpoint", "odeint_adjoint"):
        network = WithOdeint(call)
        parallel = nn.parallel.DistributedDataParallel(network)
        parallel((rank + 1) * ONES).sin().sum().backward()  # each with steps of its own
        torch.save([p.grad for p in network.parameters()], f"{folder}/{call}{rank}.pt")
    torch.distributed.destroy_process_group()


def test_two_processes_have_the_mean_of_their_gradients(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(in_process, (str(tmp_path),), nprocs=2)
    network = WithOdeint("backprop")
    (sum(network(k * ONES).sin().sum() for k in (1, 2)) / 2).backward()
    expected = [p.grad for p in network.parameters()]
    for call in ("checkpoint", "odeint_adjoint"):
        for rank in (0, 1):
            found = torch.load(tmp_path / f"{call}{rank}.pt", weights_only=True)
            torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("rate", [1, 20])
def test_a_state_that_cannot_be_solved_backwards_is_warned_of(rate):
    y0 = ONES.clone().requires_grad_()
    end = odeint_adjoint(lambda t, y: -rate * y, y0, torch.tensor([0.0, 2.0]), adjoint_params=())[-1].sum()
    if rate == 1:
        torch.autograd.grad(end, y0)
        return
    with pytest.warns(AdjointDriftWarning, match="gradient=checkpoint"):
        torch.autograd.grad(end, y0)


# What an independent reader of this code found


def test_a_gradient_that_nothing_was_told_of_is_refused_and_not_lost():
    net = nn.Linear(2, 2)
    for hidden in ({}, {"args": ({"weight": net.weight},)}):
        f = (lambda t, y, given: y @ given["weight"]) if hidden else (lambda t, y: net(y).tanh())
        with pytest.raises(FieldError, match=r"needs a gradient.*gradient=backprop"):
            solve(f, torch.ones(3, 2), [0, 1], **hidden)
        assert solve(f, torch.ones(3, 2), [0, 1], gradient="backprop", **hidden).values.requires_grad
        with torch.no_grad():
            solve(f, torch.ones(3, 2), [0, 1], **hidden)


def test_times_of_a_higher_precision_leave_a_state_without_dimensions_what_it_is():
    t = torch.tensor([0.0, 1.0], dtype=torch.float64, requires_grad=True)
    values = solve(lambda t, y: -y, torch.tensor(1.0), t).values
    assert values.dtype == torch.float32
    values[-1].backward()
    assert t.grad is not None
    assert t.grad[1] == pytest.approx(-math.exp(-1), rel=1e-2)


def test_listed_times_far_from_zero_keep_what_tells_them_apart():
    grid = {"name": "adaptive", "rtol": 1e-5, "atol": 1e-5}
    found = solve(lambda t, y: torch.cos(t) + 0 * y, torch.zeros(1), [1e6, 1e6 + 1], grid=grid).values[-1]
    assert float(found) == pytest.approx(math.sin(1e6 + 1) - math.sin(1e6), abs=1e-5)


def test_tolerances_are_numbers_tensors_or_a_nest_like_the_state():
    def f(t: Any, y: Any) -> Any:
        return {"b": -y["b"], "a": 2 * y["a"]}  # in another order than the state

    y0 = {"a": torch.ones(1), "b": torch.ones(2)}
    fine = solve(f, y0, [0, 1], grid={"name": "adaptive", "rtol": {"b": 1e-2, "a": 1e-5}, "atol": 1e-5}).values
    assert float(fine["a"][-1]) == pytest.approx(math.exp(2), rel=1e-4)
    assert float(fine["b"][-1, 0]) == pytest.approx(math.exp(-1), rel=1e-2)
    odeint(lambda t, y: -y, torch.ones(2), torch.tensor([0.0, 1.0]), rtol=torch.tensor([1e-5, 1e-4]), atol=1e-6)
    with pytest.raises(SchemenetError, match="a nest like the state"):
        solve(f, y0, [0, 1], grid={"name": "adaptive", "rtol": [1e-3]})


def test_a_limit_of_one_sample_names_it_and_claims_no_common_result():
    grid = {"name": "adaptive", "max_steps": 30, "rtol": 1e-5, "atol": 1e-5}
    rates = torch.tensor([[1.0], [1000.0]])
    with pytest.raises(StepLimitError, match="sample 1") as caught:
        solve(lambda t, y: -y * rates, torch.ones(2, 1), [0, 0.5, 1], batching="per_sample", grid=grid)
    assert caught.value.partial is None


def test_a_dense_solution_ends_at_its_event():
    solution = solve(lambda t, y: -y, torch.ones(1), [0, 3], dense=True, event=lambda t, y: y[0] - 0.5)
    assert float(solution(float(solution.times[-1]))) == pytest.approx(0.5, rel=1e-4)
    with pytest.raises(SchemenetError, match="is known from"):
        solution(2.9)


def test_complex_arguments_get_their_gradient_in_every_mode():
    found = []
    for mode in ("backprop", "checkpoint"):
        w = torch.tensor(1j, requires_grad=True)
        y0 = torch.ones(1, dtype=torch.complex64)
        solve(lambda t, y, w: w * y, y0, [0, 1], args=(w,), gradient=mode).values[-1].abs().sum().backward()
        found.append(w.grad)
    torch.testing.assert_close(*found)


def test_nan_is_named_with_a_least_step_and_on_known_steps():
    def f(t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return torch.where(t > 0.9, math.nan, 1.0) * y

    with pytest.raises(NonFiniteError):
        solve(f, torch.ones(1), [0, 1], grid={"name": "adaptive", "min_step": 0.3})
    with pytest.raises(NonFiniteError, match="at t = 1,"):
        solve(f, torch.ones(1), [0, 0.5, 1], scheme="rk4", grid={"name": "uniform", "steps": 10})
