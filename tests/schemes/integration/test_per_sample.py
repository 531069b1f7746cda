"""Steps of its own for each sample: where f jumps, parts without dimensions, rows of no length; and least steps."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from schemes import odeint, odeint_adjoint, solve
from schemes.errors import SchemenetError
from schemes.integration.adaptive_loop import LeastStepWarning
from schemes.registry import SCHEMES

DOUBLE = torch.float64


def tight(**options: Any) -> dict[str, Any]:
    return {"name": "adaptive", "rtol": 1e-8, "atol": 1e-8, **options}


def jumping(after: Any) -> Any:
    def f(t: Tensor, y: Tensor) -> Tensor:
        late = after(t).reshape(-1, *[1] * (y.dim() - 1)) if t.dim() else after(t)
        return torch.where(late, torch.full_like(y, 3.0), -y)

    return f


SIDES = pytest.mark.parametrize("after", [lambda t: t >= 0.5, lambda t: t > 0.5], ids=["from it on", "after it"])


@SIDES
def test_a_jump_is_seen_from_both_sides_as_by_a_sample_alone(after):
    f, y0 = jumping(after), torch.ones(3, 1, dtype=DOUBLE)
    together = solve(f, y0, [0, 1], grid=tight(jump_t=(0.5,)), batching="per_sample")
    alone = solve(f, y0[:1], [0, 1], grid=tight(jump_t=(0.5,)))
    assert together.statistics.forward.evaluations == alone.statistics.forward.evaluations <= 51
    torch.testing.assert_close(together.values[-1], (math.exp(-0.5) + 1.5) * y0, rtol=1e-8, atol=0)


@SIDES
def test_rows_jump_at_different_steps_either_way_in_time_and_at_their_ends(after):
    f, grid = jumping(after), tight(jump_t=(0.5,))
    t = torch.tensor([[0.0, 1.0], [0.5, 1.0], [0.2, 0.5], [1.0, 0.0], [0.5, 0.0], [0.5, 0.5]], dtype=DOUBLE)
    y0 = torch.ones(6, 1, dtype=DOUBLE, requires_grad=True)
    alone = [solve(f, row, times, grid=grid) for row, times in zip(y0.split(1), t, strict=True)]
    values = torch.cat([solution.values[-1] for solution in alone])
    (expected,) = torch.autograd.grad(values.sum(), y0)
    for mode in ("backprop", "checkpoint"):
        together = solve(f, y0, t, grid=grid, batching="per_sample", gradient=mode)
        torch.testing.assert_close(together.values[-1], values, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(torch.autograd.grad(together.values[-1].sum(), y0)[0], expected)
        for samples, solution in zip(together.statistics.samples or (), alone, strict=True):
            assert (
                abs(samples.evaluations - solution.statistics.forward.evaluations) <= 1
            )  # the slope after a jump of another row


@SIDES
def test_a_solve_that_begins_at_a_jump_begins_after_it(after):
    values = [
        solve(jumping(after), torch.ones(1, 1, dtype=DOUBLE), times, grid=tight(jump_t=(0.5,)), batching=batching)
        for times in ([0.5, 1.0], [0.5, 0.0])
        for batching in ("joint", "per_sample")
    ]
    ends = [float(solution.values[-1]) for solution in values]
    assert ends == pytest.approx([2.5, 2.5, math.exp(0.5), math.exp(0.5)], rel=1e-7)


@pytest.mark.parametrize("mode", ["backprop", "checkpoint"])
def test_parts_of_one_dimension(mode):
    y0 = torch.tensor([[1.0, 2.0], [3.0, 4.0]], dtype=DOUBLE), torch.zeros(2, dtype=DOUBLE)
    y0[0].requires_grad_()
    values = solve(
        lambda t, y: (-y[0], y[0].sum(-1)), y0, [0, 0.4, 1], batching="per_sample", gradient=mode,
        grid=tight(rtol=(1e-8, 1e-8), atol=(1e-8, torch.full((2,), 1e-8, dtype=DOUBLE))),
    ).values  # fmt: skip
    total = (1 - math.exp(-1)) * y0[0].detach().sum(-1)
    torch.testing.assert_close(values[1][-1].detach(), total, rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(
        torch.autograd.grad(values[1][-1].sum(), y0[0])[0], torch.full_like(y0[0], 1 - math.exp(-1))
    )
    single = solve(lambda t, y: -y, torch.ones(3), [0, 1], batching="per_sample").values
    assert single.shape == (2, 3)
    assert single[-1].tolist() == pytest.approx([math.exp(-1)] * 3, rel=1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
def test_times_of_all_samples_have_a_gradient(dtype):
    def f(t: Tensor, y: Tensor) -> Tensor:
        assert (*t.shape, t.dtype) == (3, dtype)
        return -rate * y * t[:, None]

    rate, t = (
        torch.tensor([[1.0], [2.0], [3.0]], dtype=dtype),
        torch.tensor([0.5, 1.0], dtype=DOUBLE, requires_grad=True),
    )
    y1 = solve(f, torch.ones(3, 2, dtype=dtype), t, batching="per_sample", grid=tight(rtol=1e-5, atol=1e-5)).values[-1]
    end = 2 * rate * torch.exp(-rate * 0.375)
    right = [float(0.5 * end.sum()), -float(end.sum())]
    assert torch.autograd.grad(y1.sum(), t)[0].tolist() == pytest.approx(right, rel=1e-4)


@pytest.mark.parametrize("mode", ["backprop", "checkpoint"])
def test_f_is_not_asked_for_a_row_of_no_length(mode):
    y0, asked = torch.ones(3, 1, dtype=DOUBLE, requires_grad=True), []

    def f(t: Tensor, y: Tensor) -> Tensor:
        asked.append(t.detach())
        return 2 * y / t[:, None]

    solution = solve(f, y0, [[0, 0], [1, 2], [-1, -1]], batching="per_sample", grid=tight(), gradient=mode)
    torch.testing.assert_close(solution.values[-1].flatten(), torch.tensor([1.0, 4.0, 1.0], dtype=DOUBLE))
    (gradient,) = torch.autograd.grad(solution.values[-1].sum(), y0)
    torch.testing.assert_close(gradient.flatten(), torch.tensor([1.0, 4.0, 1.0], dtype=DOUBLE))
    assert min(float(t.min()) for t in asked) >= 1
    assert [samples.evaluations for samples in solution.statistics.samples or ()][::2] == [0, 0]


@pytest.mark.parametrize("mode", ["backprop", "checkpoint"])
def test_a_row_of_no_length_moves_with_its_times_by_f_and_not_at_all_where_f_is_singular(mode):
    """t y' = 2 y and z' = 1: rows at t = 0 where f is no number, at t = 3 where it is, and one over [1, 2]."""
    t = torch.tensor([[0.0, 0.0], [1.0, 2.0], [3.0, 3.0]], dtype=DOUBLE, requires_grad=True)
    y0 = torch.ones(3, 1, dtype=DOUBLE, requires_grad=True), torch.zeros(3, dtype=DOUBLE)
    rate = torch.tensor(2.0, dtype=DOUBLE, requires_grad=True)

    def f(t: Tensor, y: tuple[Tensor, Tensor], rate: Tensor) -> tuple[Tensor, Tensor]:
        return rate * y[0] / t[:, None], torch.ones_like(y[1])

    y, z = solve(f, y0, t, args=(rate,), batching="per_sample", gradient=mode, grid=tight()).values
    assert y[-1].flatten().tolist() == pytest.approx([1, 4, 1])
    by_t, by_y0, by_rate = torch.autograd.grad(y[-1].sum(), (t, y0[0], rate), retain_graph=True)
    assert by_t.flatten().tolist() == pytest.approx([0, 0, -8, 4, -2 / 3, 2 / 3])
    assert by_y0.flatten().tolist() == pytest.approx([1, 4, 1])
    assert float(by_rate) == pytest.approx(4 * math.log(2))
    assert torch.autograd.grad(z[-1].sum(), t)[0].flatten().tolist() == pytest.approx([-1, 1] * 3)


def test_second_derivatives_of_rows_of_which_one_is_singular():
    t = torch.tensor([[0.0, 0.0], [1.0, 2.0], [3.0, 3.0]], dtype=DOUBLE, requires_grad=True)
    y0 = torch.ones(3, 1, dtype=DOUBLE, requires_grad=True)
    solution = solve(lambda t, y: 2 * y / t[:, None], y0, t, batching="per_sample", gradient="backprop", grid=tight())
    (by_t,) = torch.autograd.grad(solution.values[-1].sum(), t, create_graph=True)
    assert torch.autograd.grad(by_t[:, 1].sum(), y0)[0].flatten().tolist() == pytest.approx([0, 4, 2 / 3])


@pytest.mark.parametrize("batching", ["joint", "per_sample"])
@pytest.mark.parametrize("mode", ["backprop", "checkpoint"])
def test_a_solve_of_no_length_where_f_is_singular_is_its_start(mode, batching):
    t = torch.tensor([0.0, 0.0], dtype=DOUBLE, requires_grad=True)
    y0 = torch.ones(2, 1, dtype=DOUBLE, requires_grad=True)
    y1 = solve(lambda t, y: y / t.reshape(-1, 1), y0, t, batching=batching, gradient=mode).values[-1]
    assert y1.tolist() == [[1], [1]]
    by_y0, by_t = torch.autograd.grad(y1.sum(), (y0, t))
    assert (by_y0.tolist(), by_t.tolist()) == ([[1], [1]], [0, 0])


# The least step ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batching", ["joint", "per_sample"])
@pytest.mark.parametrize("times", [[0, 5.2], [5.2, 0]], ids=["on", "back"])
def test_no_step_but_the_last_is_below_the_least_one(times, batching):
    with pytest.warns(LeastStepWarning, match=r"above the tolerance, up to .* none may be smaller than min_step=0.5"):
        solution = solve(
            lambda t, y: -y, torch.ones(2, dtype=DOUBLE), times, batching=batching,
            grid={"name": "adaptive", "rtol": 1e-9, "atol": 1e-9, "min_step": 0.5},
        )  # fmt: skip
    sizes = solution.statistics.step_sizes
    for row in sizes if batching == "per_sample" else [sizes]:
        assert [abs(h) for h in row] == pytest.approx([0.5] * 10 + [0.2])


def test_a_least_step_that_lets_the_tolerance_be_met_is_silent():
    values = solve(lambda t, y: -y, torch.ones(2), [0, 1], grid={"name": "adaptive", "min_step": 1e-3}).values
    assert values[-1].tolist() == pytest.approx([math.exp(-1)] * 2, rel=1e-3)


@pytest.mark.parametrize("call", [odeint, odeint_adjoint])
def test_the_least_step_of_torchdiffeqs_calls(call):
    calls = []

    def f(t: Tensor, y: Tensor) -> Tensor:
        calls.append(t)
        return -y

    options = {"adjoint_params": ()} if call is odeint_adjoint else {}
    with pytest.warns(LeastStepWarning):
        call(f, torch.ones(2, dtype=DOUBLE), torch.tensor([0.0, 5.0]), options={"min_step": 0.5}, **options)
    assert len(calls) == 2 + 10 * 6


def test_a_least_step_above_the_greatest_is_refused():
    with pytest.raises(SchemenetError, match=r"min_step expected to be at least 0 and at most max_step=0\.1, got 0\.5"):
        solve(lambda t, y: -y, torch.ones(2), [0, 1], grid={"name": "adaptive", "min_step": 0.5, "max_step": 0.1})


# All samples at once ------------------------------------------------------------------------------------------------

RATES = torch.tensor([0.3, 1.0, 2.0, 4.0, 7.0], dtype=DOUBLE)


def oscillator(t: Tensor, y: Tensor) -> Tensor:
    """Of van der Pol, the parameter of each row a part of its state: f takes any rows."""
    return torch.stack((y[:, 1], y[:, 2] * (1 - y[:, 0] ** 2) * y[:, 1] - y[:, 0], 0 * y[:, 2]), 1)


def rotation(t: Tensor, y: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    return y[1][:, :, 0], -y[0].unsqueeze(-1) * (1 + y[1] ** 2)


def spiral(t: Tensor, y: Tensor) -> Tensor:
    return (2j - 0.3) * y * y.abs()


def start(kind: str) -> Any:
    numbers = torch.linspace(0.5, 2.0, 5, dtype=DOUBLE)
    return {
        "tensor": torch.stack((numbers, -numbers, RATES), 1),
        "tuple": (numbers.unsqueeze(1).repeat(1, 2), RATES.reshape(-1, 1, 1).repeat(1, 2, 1)),
        "complex": torch.complex(RATES, numbers).unsqueeze(1),
    }[kind]


FIELDS = {"tensor": oscillator, "tuple": rotation, "complex": spiral}
EXPLICIT_PAIRS = sorted(name for name in SCHEMES if SCHEMES.built(name).explicit_pair is not None)
EACH_ONES_TIMES = torch.tensor([[0, 1, 2], [0, 0.1, 0.1], [3, 2.9, 2.5], [0, 2, 9], [1, 1, 1.5]], dtype=DOUBLE)


def row(state: Any, i: int) -> Any:
    return tuple(part[i : i + 1] for part in state) if isinstance(state, tuple) else state[i : i + 1]


def check_rows_are_as_alone(f: Any, y0: Any, t: Any, **options: Any) -> None:
    """Values, times, sizes and counts of each row."""
    together = solve(f, y0, t, batching="per_sample", **options)
    counts = together.statistics.samples or []
    assert sum(each.accepted for each in counts) == together.statistics.forward.accepted
    assert sum(each.rejected for each in counts) == together.statistics.forward.rejected
    for i, count in enumerate(counts):
        alone = solve(f, row(y0, i), t[i] if isinstance(t, Tensor) else t, **options)
        work = alone.statistics.forward
        assert (count.evaluations, count.accepted, count.rejected) == (work.evaluations, work.accepted, work.rejected)
        assert together.statistics.times[i] == pytest.approx(alone.statistics.times, rel=1e-5)
        assert together.statistics.step_sizes[i] == pytest.approx(alone.statistics.step_sizes, rel=1e-4)
        pairs = zip(*(v if isinstance(v, tuple) else (v,) for v in (together.values, alone.values)), strict=True)
        for ours, its in pairs:
            torch.testing.assert_close(ours[:, i : i + 1], its, rtol=1e-7, atol=1e-8)


def plain(**options: Any) -> dict[str, Any]:
    return {"name": "adaptive", "rtol": 1e-4, "atol": 1e-4, **options}


@pytest.mark.parametrize("scheme", EXPLICIT_PAIRS)
def test_every_pair_takes_the_steps_that_each_sample_takes_alone(scheme):
    with torch.no_grad():
        check_rows_are_as_alone(oscillator, start("tensor"), [0, 0.3, 0.35, 2], scheme=scheme, grid=plain())


@pytest.mark.parametrize("kind", FIELDS)
@pytest.mark.parametrize("graph", [False, True])
def test_states_of_every_kind(kind, graph):
    with torch.set_grad_enabled(graph):
        y0 = start(kind)
        (y0[0] if isinstance(y0, tuple) else y0).requires_grad_(graph)
        check_rows_are_as_alone(FIELDS[kind], y0, [0, 0.3, 0.35, 1], grid=plain(), gradient="backprop")


@pytest.mark.parametrize(
    "options",
    [
        {"controller": "PI"},
        {"controller": "PID"},
        {"step_t": (0.7, 1.0), "max_step": 0.25},
        {"first_step": 0.01, "safety": 0.8, "shrink": 0.5, "growth": 2.0},
        {"rtol": 1e-3, "atol": torch.tensor([1e-3, 1e-4, 1e-2], dtype=DOUBLE)},
    ],
    ids=lambda options: " ".join(options),
)
def test_settings_of_the_grid_and_times_of_each_sample(options):
    with torch.no_grad():
        moving = [0, 2, 3, 4]  # a solve over no time takes no step alone
        y0, t = start("tensor")[moving], EACH_ONES_TIMES[moving]
        check_rows_are_as_alone(oscillator, y0, t, grid=plain(**options))


def test_one_warning_counts_the_least_steps_of_all_samples():
    with pytest.warns(LeastStepWarning) as warned:
        together = solve(oscillator, start("tensor"), [0, 1], batching="per_sample", grid=plain(min_step=0.1))
    assert f" of {together.statistics.forward.accepted} steps" in str(warned[0].message)
    assert [min(sizes[:-1]) for sizes in together.statistics.step_sizes] == pytest.approx([0.1] * 5)


@pytest.mark.parametrize("mode", ["backprop", "checkpoint"])
def test_gradients_are_those_of_each_sample_alone(mode):
    y0, rate = start("tensor").requires_grad_(), torch.tensor(1.1, dtype=DOUBLE, requires_grad=True)

    def f(t: Tensor, y: Tensor, rate: Tensor) -> Tensor:
        return rate * oscillator(t, y)

    together = solve(f, y0, EACH_ONES_TIMES, args=(rate,), batching="per_sample", gradient=mode, grid=plain())
    found = torch.autograd.grad(together.values.square().sum(), (y0, rate))
    loss = sum(
        solve(f, part, t, args=(rate,), gradient="backprop", grid=plain()).values.square().sum()
        for part, t in zip(y0.split(1), EACH_ONES_TIMES, strict=True)
    )
    for ours, its in zip(found, torch.autograd.grad(loss, (y0, rate)), strict=True):  # type: ignore[arg-type]  # a tensor
        torch.testing.assert_close(ours, its, rtol=1e-8, atol=1e-9)


# Rows that are left out ---------------------------------------------------------------------------------------------

ENDS = torch.tensor([[0, 0.5, 1], [0, 1, 2], [0, 1, 3], [0, 4, 5], [0, 8, 20]], dtype=DOUBLE)


@pytest.mark.parametrize("mode", ["none", "backprop", "checkpoint"])
def test_samples_that_have_arrived_are_left_out_when_fewer_than_half_are_left(mode):
    rows: list[int] = []

    def f(t: Tensor, y: Tensor) -> Tensor:
        assert len(t) == len(y)
        rows.append(len(y))
        return -y * y

    def solved(f: Any, y0: Tensor) -> tuple[Any, Tensor]:
        with torch.set_grad_enabled(mode != "none"):
            solution = solve(
                f, y0, ENDS, batching="per_sample", gradient=mode.replace("none", "backprop"), grid=tight()
            )
        if mode == "none":
            return solution, y0
        return solution, torch.autograd.grad(solution.values[-1].sum(), y0)[0]

    y0 = torch.ones(5, 1, dtype=DOUBLE, requires_grad=True)
    solution, gradient = solved(f, y0)
    assert set(rows) == {5, 2}
    torch.testing.assert_close(solution.values[..., 0].T, 1 / (1 + ENDS), rtol=1e-6, atol=0)
    numbers = torch.ones(5, 1, dtype=DOUBLE)
    kept, by_y0 = solved(lambda t, y: -y * y * numbers, y0)
    assert kept.statistics.samples == solution.statistics.samples
    torch.testing.assert_close(solution.values, kept.values, rtol=1e-13, atol=0)
    torch.testing.assert_close(gradient, by_y0, rtol=1e-13, atol=0)


def checked(k: Tensor, y: Tensor) -> Tensor:
    assert k.shape == y.shape
    return k


@pytest.mark.parametrize("take", [lambda k, y: k, lambda k, y: k[: len(y)], checked], ids=["all", "as many", "checked"])
def test_numbers_of_each_row_that_f_has_stay_those_of_the_row(take):
    rates = torch.tensor([[1.0], [2.0], [3.0], [0.5], [0.1]], dtype=DOUBLE)
    y0 = torch.ones(5, 1, dtype=DOUBLE)
    values = solve(lambda t, y: -take(rates, y) * y, y0, ENDS, batching="per_sample", grid=tight()).values
    torch.testing.assert_close(values[..., 0].T, torch.exp(-rates * ENDS), rtol=1e-5, atol=1e-7)


def test_tolerances_of_each_row_stay_those_of_the_row():
    rows: list[int] = []

    def f(t: Tensor, y: Tensor) -> Tensor:
        rows.append(len(y))
        return -y

    atol = torch.logspace(-3, -8, 5, dtype=DOUBLE).unsqueeze(1)
    check_rows = solve(f, torch.ones(5, 1, dtype=DOUBLE), ENDS, batching="per_sample", grid=plain(atol=atol, rtol=0.0))
    assert set(rows) == {5}
    assert (check_rows.values[-1].flatten() - torch.exp(-ENDS[:, -1])).abs().lt(20 * atol.flatten()).all()
