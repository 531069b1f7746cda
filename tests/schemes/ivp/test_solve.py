"""schemes.solve: closed forms, gradients in every mode, work counted."""

import math

import pytest
import torch
from torch import Tensor, nn

from schemes import solve
from schemes.errors import StepLimitError
from schemes.integration.step_size_controller import PIDFactor

PAIRS = ["bosh3", "dopri5", "tsit5"]


def at(tol: float, **options: object) -> dict[str, object]:
    return {"name": "adaptive", "rtol": tol, "atol": tol, **options}


class Field(nn.Module):
    """Non-autonomous, with a scale that is handed in as an argument."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inside, self.outside = nn.Linear(3, 8).double(), nn.Linear(8, 2).double()

    def forward(self, t: Tensor, y: Tensor, scale: Tensor) -> Tensor:
        time = t.expand(*y.shape[:-1], 1)
        return scale * self.outside(torch.tanh(self.inside(torch.cat((y, time), -1))))


def gradients(mode: str, tol: float, **options: object) -> list[Tensor]:
    f = Field()
    y0 = torch.randn(3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()
    scale = torch.tensor(1.3, dtype=torch.float64, requires_grad=True)
    t = torch.tensor([0.0, 0.3, 0.7, 2.0], dtype=torch.float64, requires_grad=True)
    solution = solve(f, y0, t, args=(scale,), grid=at(tol), gradient=mode, **options)
    weights = torch.randn(4, 3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    return list(torch.autograd.grad((solution.values * weights).sum(), [y0, scale, t, *f.parameters()]))


@pytest.mark.parametrize("gradient", ["backprop", "checkpoint", "adjoint"])
@pytest.mark.parametrize("event", [None, lambda t, y: y[0] - 0.5])
def test_evaluations_for_derivatives_by_the_times_are_counted(gradient, event):
    calls = []
    t = torch.tensor([0.0, 0.3, 1.0], dtype=torch.float64, requires_grad=True)
    y0 = torch.ones(2, dtype=torch.float64)
    solution = solve(lambda t, y: (calls.append(t), -y)[1], y0, t, grid=at(1e-3), gradient=gradient, event=event)
    assert solution.statistics.forward.evaluations == len(calls)
    plain = solve(lambda t, y: -y, y0, t.detach(), grid=at(1e-3), gradient=gradient, event=event).statistics
    assert len(calls) > plain.forward.evaluations


@pytest.mark.parametrize("scheme", PAIRS)
def test_a_tighter_tolerance_is_a_smaller_error(scheme):
    exact = torch.exp(torch.sin(torch.tensor(5.0, dtype=torch.float64)))
    errors = []
    for tol in (1e-4, 1e-6, 1e-8):
        y0 = torch.ones(1, dtype=torch.float64)
        solution = solve(lambda t, y: y * torch.cos(t), y0, [0, 5], scheme=scheme, grid=at(tol))
        errors.append(abs(float(solution.values[-1] - exact)))
    assert errors[0] > 10 * errors[1] > 100 * errors[2]
    assert errors[2] < 1e-6


def test_work_is_two_evaluations_and_six_a_step_and_does_not_depend_on_output_times():
    y0 = torch.ones(2, dtype=torch.float64)
    few = solve(lambda t, y: -y, y0, [0, 3], grid=at(1e-6)).statistics
    many = solve(lambda t, y: -y, y0, torch.linspace(0, 3, 100), grid=at(1e-6)).statistics
    assert few.forward.evaluations == 2 + 6 * (few.forward.accepted + few.forward.rejected) == many.forward.evaluations


@pytest.mark.parametrize("scheme", PAIRS)
def test_checkpoint_is_backprop_on_the_same_grid(scheme):
    plain, found = (gradients(mode, 1e-5, scheme=scheme) for mode in ("backprop", "checkpoint"))
    for expected, gradient in zip(plain, found, strict=True):
        torch.testing.assert_close(gradient, expected, rtol=1e-12, atol=1e-13)


@pytest.mark.filterwarnings("ignore::schemes.gradients.adjoint_ode.backsolve.AdjointDriftWarning")
def test_the_adjoint_is_as_good_as_its_tolerance():
    exact = gradients("backprop", 1e-12)

    def error(tol: float) -> float:
        pairs = zip(gradients("adjoint", tol), exact, strict=True)
        return max(float((g - e).norm() / e.norm()) for g, e in pairs)

    assert error(1e-10) < 1e-7
    assert error(1e-6) > 10 * error(1e-10)


@pytest.mark.parametrize("mode", ["backprop", "checkpoint", "adjoint"])
def test_gradients_of_exponential_decay_are_its_closed_forms(mode):
    a = torch.tensor(-1.0, dtype=torch.float64, requires_grad=True)
    y0 = torch.ones(1, dtype=torch.float64, requires_grad=True)
    t = torch.tensor([0.0, 1.0], dtype=torch.float64, requires_grad=True)
    end = solve(lambda t, y, a: a * y, y0, t, args=(a,), grid=at(1e-10), gradient=mode).values[-1]
    of_y, of_a, of_t = torch.autograd.grad(end.sum(), [y0, a, t])
    e = math.exp(-1)
    torch.testing.assert_close(of_y, torch.tensor([e], dtype=torch.float64), rtol=1e-8, atol=0)
    torch.testing.assert_close(of_a, torch.tensor(e, dtype=torch.float64), rtol=1e-8, atol=0)
    torch.testing.assert_close(of_t, torch.tensor([e, -e], dtype=torch.float64), rtol=1e-8, atol=0)


def van_der_pol(mu: Tensor):
    def f(t: Tensor, y: Tensor) -> Tensor:
        x, v = y.unbind(-1)
        return torch.stack((v, mu[: len(x)] * (1 - x * x) * v - x + 0.1 * torch.cos(t)), -1)

    return f


@pytest.mark.parametrize("times", [[0.0, 3.0], [0.0, 0.4, 0.5, 2.9, 3.0], [1.0, 0.98, 0.95]])
def test_per_sample_each_row_takes_the_steps_that_it_takes_alone(times):
    mu = torch.tensor([1.0, 20.0, 4.0], dtype=torch.float64)
    y0 = torch.tensor([[2.0, 0.0], [2.0, 0.5], [-1.0, 1.0]], dtype=torch.float64)
    together = solve(van_der_pol(mu), y0, times, grid=at(1e-5), batching="per_sample")
    assert together.statistics.samples is not None
    for i in range(3):
        alone = solve(van_der_pol(mu[i : i + 1]), y0[i : i + 1], times, grid=at(1e-5))
        work, counted = alone.statistics.forward, together.statistics.samples[i]
        assert (counted.accepted, counted.rejected, counted.evaluations) == (
            work.accepted,
            work.rejected,
            work.evaluations,
        )
        torch.testing.assert_close(together.values[:, i], alone.values[:, 0], rtol=1e-12, atol=1e-12)
    joint = solve(van_der_pol(mu), y0, times, grid=at(1e-5)).statistics.forward
    assert any(work.accepted != joint.accepted for work in together.statistics.samples)


@pytest.mark.parametrize("mode", ["backprop", "checkpoint"])
def test_per_sample_gradients_are_those_of_the_samples_alone(mode):
    y0 = torch.tensor([[2.0, 0.0], [2.0, 0.5]], dtype=torch.float64)
    times = torch.tensor([[0.0, 0.7, 3.0], [1.0, 1.0, 1.5]], dtype=torch.float64)

    def of(rows: list[int], **options: object) -> list[Tensor]:
        mu = torch.tensor([1.0, 8.0], dtype=torch.float64)[rows].requires_grad_()
        start, t = y0[rows].requires_grad_(), times[rows].requires_grad_()

        def f(t: Tensor, y: Tensor, mu: Tensor) -> Tensor:
            return van_der_pol(mu)(t, y)

        given = t if "batching" in options else t[0]
        values = solve(f, start, given, args=(mu,), grid=at(1e-5), gradient=mode, **options).values
        return list(torch.autograd.grad(values.square().sum(), [start, t, mu]))

    together = of([0, 1], batching="per_sample")
    for i in range(2):
        for both, alone in zip(together, of([i]), strict=True):
            torch.testing.assert_close(both[i], alone[0], rtol=1e-10, atol=1e-11)


def test_the_reversible_wrap_is_undone_for_as_many_steps_as_rounding_allows():
    y0 = torch.ones(1, dtype=torch.float64, requires_grad=True)
    with pytest.raises(StepLimitError, match=r"can undo 2301 steps of ReversibleWrap"):
        solve(
            lambda t, y: torch.cos(50 * t) * y, y0, [0, 100], gradient="reversible",
            scheme={"name": "reversible_wrap", "base": "bosh3"}, grid=at(1e-5),
        )  # fmt: skip


@pytest.mark.parametrize(
    ("name", "exponents"),
    [("I", (-1 / 5, 0, 0)), ("PI", (-0.7 / 5, 0.4 / 5, 0)), ("PID", (-0.7 / 5, 0.4 / 5, -0.1 / 5))],
)
def test_the_next_step_size_is_by_the_last_three_error_ratios(name, exponents):
    """Söderlind's digital filters: r_n^-(p + i + d)/k r_{n-1}^(p + 2 d)/k r_{n-2}^-d/k."""
    ratios = (0.3, 0.8, 0.5)
    expected = 0.9 * math.prod(ratio**power for ratio, power in zip(ratios, exponents, strict=True))
    assert PIDFactor(name, 5).factor(ratios[0], ratios[1:]) == pytest.approx(expected, rel=1e-14)
    rejected = 0.9 * 2.0 ** (-1 / 5)
    assert PIDFactor(name, 5).factor(2.0, ratios[1:]) == pytest.approx(rejected, rel=1e-14)


def test_each_controller_takes_steps_of_its_own_to_the_same_tolerance():
    y0, taken = torch.tensor([1.0, 0.0], dtype=torch.float64), set()

    def swing(t, y):
        return torch.stack((y[1], -y[0] - t * y[1]))

    best = solve(swing, y0, [0.0, 5.0], grid={"name": "adaptive", "rtol": 1e-11, "atol": 1e-11})
    for name in ("I", "PI", "PID"):
        grid = {"name": "adaptive", "rtol": 1e-6, "atol": 1e-6, "controller": name}
        solution = solve(swing, y0, [0.0, 5.0], grid=grid)
        assert float((solution.values[-1] - best.values[-1]).abs().max()) < 1e-5
        taken.add(tuple(solution.statistics.step_sizes))
    assert len(taken) == 3
