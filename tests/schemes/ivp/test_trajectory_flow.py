"""A path is a flow along given times: any scheme, grid and gradient, and every gradient arrives."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from architectures import create_model
from architectures.fields.timed import TimedDenseBranch
from schemes import SchemenetError, solve
from schemes.ivp.trajectory_flow import Timed, TrajectoryFlow

FINE = {"name": "adaptive", "rtol": 1e-11, "atol": 1e-11}


class Driven(nn.Module):
    """f = A tanh(y) + cos(3 t) e, with a tensor e that is handed along."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 3)

    def forward(self, t: Any, y: Tensor, e: Tensor) -> Tensor:
        return self.linear(y.tanh()) + torch.cos(3 * t) * e


def made(coupled: bool = False, **axes: Any) -> TrajectoryFlow:
    torch.manual_seed(0)
    return TrajectoryFlow([Driven(), Driven()] if coupled else Driven(), **axes).double()


def given(requires_grad: bool = True) -> tuple[Tensor, Tensor, Tensor]:
    stream = torch.Generator().manual_seed(1)
    y, e = torch.randn(2, 4, 3, generator=stream, dtype=torch.float64).unbind()
    times = torch.tensor([0.1, 0.3, 0.9], dtype=torch.float64)
    return tuple(x.clone().requires_grad_(requires_grad) for x in (y, times, e))  # type: ignore[return-value]


def gradients(path: TrajectoryFlow) -> list[Tensor]:
    y, times, e = given()
    path(y, times, e).values.pow(2).sum().backward()
    return [x.grad for x in (y, times, e, *path.parameters())]  # type: ignore[misc]


REFERENCE = {"scheme": "dopri5", "grid": FINE, "gradient": "backprop"}


@pytest.mark.parametrize("gradient", ["checkpoint", "adjoint"])
def test_all_gradients_are_those_of_backprop_through_the_same_solve(gradient: str) -> None:
    plain, other = (gradients(made(**REFERENCE | {"gradient": mode})) for mode in ("backprop", gradient))
    for expected, found in zip(plain, other, strict=True):
        assert_close(found, expected, rtol=1e-7, atol=1e-8)


def test_the_reversible_gradient_is_backprop_of_its_scheme() -> None:
    axes: dict[str, Any] = {"scheme": "leapfrog", "grid": {"name": "uniform", "steps": 40}}
    plain, inverted = (gradients(made(**axes, gradient=mode)) for mode in ("backprop", "reversible"))
    for expected, found in zip(plain, inverted, strict=True):
        assert_close(found, expected, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize(("grid", "most"), [("adaptive", 2301), ({"name": "uniform", "steps": 40}, 40)])
def test_a_reversible_wrap_is_made_for_the_steps_that_are_taken(grid: Any, most: int) -> None:
    """Its coupling depends on how many there are; where that is not known, it is one for many."""
    axes: dict[str, Any] = {"scheme": "reversible_wrap", "grid": grid}
    plain, inverted = (gradients(made(**axes, gradient=mode)) for mode in ("backprop", "reversible"))
    for expected, found in zip(plain, inverted, strict=True):
        assert_close(found, expected, rtol=1e-9, atol=1e-10)
    path = made(**axes)
    path(*given())
    assert path.scheme.max_reversible_steps == most  # type: ignore[attr-defined]


def test_an_end_time_that_is_learned_gets_its_gradient() -> None:
    y, _, e = given(requires_grad=False)

    def loss(end: Tensor) -> Tensor:
        return made(grid=FINE)(y, torch.stack([torch.zeros_like(end), end]), e).values[-1].pow(2).sum()

    end = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    loss(end).backward()
    ahead, behind = (float(loss(torch.tensor(0.7 + h, dtype=torch.float64)).detach()) for h in (1e-5, -1e-5))
    assert float(end.grad) == pytest.approx((ahead - behind) / 2e-5, rel=1e-6)  # type: ignore[arg-type]


def test_a_coupled_scheme_takes_a_pair_of_fields_and_of_states() -> None:
    y, times, e = given()
    path = made(coupled=True, scheme="verlet", grid={"name": "uniform", "steps": 50})
    q, p = path((y, y), times, e).values
    assert q.shape == p.shape == (3, 4, 3)
    (q.sum() + p.sum()).backward()
    assert all(parameter.grad is not None for parameter in path.parameters())


def test_work_is_counted_anew_unless_a_solve_goes_on() -> None:
    y, _, e = given()
    path = made(scheme="rk4", grid={"name": "uniform", "steps": 5, "time": None})
    path(y, [0.0, 1.0], e)
    assert path.forward_counts.evaluations == 20
    path(y, [0.0, 1.0], e)
    assert path.forward_counts.evaluations == 20
    path(y, [1.0, 2.0], e, accumulate=True).values.sum().backward()
    assert (path.forward_counts.evaluations, path.backward_counts.evaluations) == (40, 20)


def test_evaluation_has_tolerances_of_its_own() -> None:
    y, times, e = given()
    path = made(grid={"name": "adaptive", "rtol": 1e-3, "atol": 1e-3, "eval_rtol": 1e-9, "eval_atol": 1e-9})
    with torch.no_grad():
        path(y, times, e)
        coarse = path.forward_counts.evaluations
        path.eval()(y, times, e)
    assert path.forward_counts.evaluations > 3 * coarse


def test_on_the_meta_device_one_step_stands_for_all() -> None:
    path = TrajectoryFlow(Driven()).to("meta")
    y, e = (torch.empty(2, 3, device="meta") for _ in range(2))
    for times in ([0.0, 0.4, 1.0], torch.empty(3, device="meta")):
        found = path(y, times, e)
        assert found.values.shape == (3, 2, 3)
        found.values.sum().backward()
        assert path.forward_counts.accepted == 1


def test_a_registered_field_as_a_function_of_time() -> None:
    torch.manual_seed(0)
    field = TimedDenseBranch(channels=2, out=2, inner=8)
    path = TrajectoryFlow(Timed(field))
    y = torch.randn(5, 2)
    found = path(y, [0.0, 1.0]).values
    assert_close(found, solve(Timed(field), y, [0.0, 1.0]).values)
    assert not torch.equal(found[-1], path(y, [1.0, 2.0]).values[-1])  # it reads the time


@pytest.mark.parametrize(
    ("axes", "told"),
    [
        ({"scheme": "verlet"}, "couples 2 parts of a state, and here is a field for 1"),
        ({"scheme": "rk4"}, "needs a scheme that estimates its errors"),
        ({"scheme": "rk4", "grid": "uniform"}, "expected steps, and no time"),
        ({"scheme": "rk4", "grid": {"name": "uniform", "steps": 4, "time": 1.0}}, "expected steps, and no time"),
        ({"gradient": "reversible"}, "needs a scheme whose step can be undone"),
        (
            {"scheme": "linear_multistep", "grid": {"name": "uniform", "steps": 4}},
            "learns a coefficient for each of its steps",
        ),
    ],
)
def test_what_cannot_be_is_refused_with_the_reason(axes: dict[str, Any], told: str) -> None:
    with pytest.raises(SchemenetError, match=told):
        TrajectoryFlow(Driven(), **axes)


def test_units_of_time_are_stepped_one_after_the_other() -> None:
    """Two steps in each, whatever times are asked for: those of one solve of twice as many steps as units."""
    path = made(scheme="rk4", grid={"name": "uniform", "steps": 2})
    y, _, e = given(requires_grad=False)
    ends = torch.arange(7, dtype=torch.float64) / 4
    whole = made(scheme="rk4", grid={"name": "uniform", "steps": 6})(y, ends, e).values
    every = path.through(y, ends[1:], e, start=0.0, unit=0.5)
    assert_close(every, whole[1:], rtol=1e-12, atol=1e-12)
    some = path.through(y, ends[[2, 5]], e, start=0.0, unit=0.5)
    assert_close(some, whole[[2, 5]], rtol=1e-12, atol=1e-12)


def test_a_compiled_flow_has_the_values_and_gradients_of_an_eager_one():
    torch.manual_seed(0)
    density = create_model("cnf", in_chans=2, image_size=None).double()
    x = torch.randn(6, 2, dtype=torch.float64)
    plain, weights = density.loss(x), [p for p in density.parameters() if p.requires_grad]
    expected = torch.autograd.grad(plain, weights)
    paths = [flow for flow in density.flows if isinstance(flow, TrajectoryFlow)]
    for path in paths:
        path.compile_steps("eager")
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    compiled = density.loss(x)
    torch.testing.assert_close(compiled, plain, rtol=1e-10, atol=1e-12)
    gradients = torch.autograd.grad(compiled, weights)
    for ours, theirs in zip(gradients, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-10)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > graphs


def test_steps_that_are_given_are_not_compiled():
    path = TrajectoryFlow(nn.Linear(2, 2), scheme="rk4", grid={"name": "uniform", "steps": 4})
    with pytest.raises(SchemenetError, match="explicit pairs such as dopri5; this flow has RK4 on UniformGrid"):
        path.compile_steps()
