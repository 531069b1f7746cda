"""The whole solve as one graph: its steps, counts and errors are those of the loop on the host."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor

from architectures import create_model
from schemes import solve
from schemes.errors import NonFiniteError, StepLimitError, StepSizeError
from schemes.integration.adaptive_loop import AdaptiveLoop, LeastStepWarning
from schemes.integration.compiled_loop import CHUNK
from schemes.integration.compiled_step import NotCompiledWarning


@pytest.fixture(autouse=True)
def _quickly(monkeypatch):
    """The graph as Dynamo finds it, without minutes of C++; no gradients, for which steps are compiled one by one."""
    inductor = torch.compile

    def quick(f, *, fullgraph=False, **options):
        return inductor(f, backend="eager", dynamic=False, fullgraph=fullgraph)

    monkeypatch.setattr(torch, "compile", quick)
    with torch.no_grad():
        yield


@pytest.fixture
def captured(monkeypatch):
    """The solves whose whole loop was a graph."""
    solves = []
    chunks = AdaptiveLoop._chunks

    def recorded(loop, compiled, *arguments, **options):
        try:
            yield from chunks(loop, compiled, *arguments, **options)
        finally:
            solves.append(compiled.loop.captured)

    monkeypatch.setattr(AdaptiveLoop, "_chunks", recorded)
    return solves


def oscillator(t: Tensor, y: Tensor, stiffness: Tensor | None = None) -> Tensor:
    x, v = y.unbind(-1)
    mu = 2.0 if stiffness is None else stiffness
    return torch.stack((v, mu * (1 - x * x) * v - x + torch.cos(t)), -1)


START = torch.tensor([[1.0, 0.5], [-0.3, 2.0]], dtype=torch.float64)


def same(f, y0, times, grid, scheme="dopri5", **options):
    """The statistics of a solve by a graph, which are those of one without it."""
    grid = {"name": "adaptive", "rtol": 1e-6, "atol": 1e-8, **grid}
    plain = solve(f, y0, times, grid=grid, scheme=scheme, **options)
    whole = solve(f, y0, times, grid=grid, scheme=scheme, compile=True, **options)
    torch.testing.assert_close(whole.values, plain.values, rtol=1e-10, atol=1e-11)
    ours, theirs = whole.statistics, plain.statistics
    assert (ours.forward.accepted, ours.forward.rejected) == (theirs.forward.accepted, theirs.forward.rejected)
    first_again = (
        theirs.forward.rejected if "first_step" in grid else 0
    )  # a rejected first attempt evaluates f there again
    assert 0 <= theirs.forward.evaluations - ours.forward.evaluations <= first_again
    assert ours.step_sizes == pytest.approx(theirs.step_sizes, rel=1e-6)
    assert ours.times == pytest.approx(theirs.times, rel=1e-6)
    return ours


@pytest.mark.parametrize("controller", ["I", "PI", "PID"])
def test_steps_are_those_of_each_controller(controller, captured):
    statistics = same(oscillator, START, [0.0, 6.0], {"controller": controller})
    assert statistics.forward.rejected or controller != "I"
    assert captured == [True]


@pytest.mark.parametrize(
    ("times", "grid", "scheme"),
    [
        ([6.0, 0.0], {}, "tsit5"),
        ([0.0, 3.0], {"max_step": 0.05}, "bosh3"),
        ([0.0, 3.0], {"first_step": 0.5, "safety": 0.8, "growth": 2.0, "shrink": 0.4}, "dopri5"),
        ([-1.0, 2.0], {"rtol": 1e-3}, "adaptive_heun"),
    ],
)
def test_steps_obey_the_settings(times, grid, scheme, captured):
    same(oscillator, START, times, grid, scheme)
    assert captured == [True]


def test_more_steps_than_the_host_waits_for(captured):
    statistics = same(oscillator, START, [0.0, 1.0], {"max_step": 0.9 / CHUNK})
    assert statistics.forward.accepted > CHUNK
    assert captured == [True]


def test_a_nest_of_states_and_arguments(captured):
    def f(t, y, k):
        return {"a": -k * y["b"], "b": y["a"] + torch.sin(t)}

    y0 = {"a": torch.ones(3, dtype=torch.float64), "b": torch.zeros(2, 3, dtype=torch.float64).sum(0)}
    k = torch.tensor(2.0, dtype=torch.float64)
    plain, whole = (solve(f, y0, [0, 2], args=(k,), compile=compile) for compile in (False, True))
    torch.testing.assert_close(whole.values["a"], plain.values["a"])
    torch.testing.assert_close(whole.values["b"], plain.values["b"])
    assert captured == [True]


def test_one_graph_serves_other_times_tolerances_and_limits(captured):
    counter = torch._dynamo.utils.counters["stats"]
    stiffness = torch.tensor(1.0, dtype=torch.float64)
    grids = {"rtol": 1e-4}, {"rtol": 1e-6, "atol": 1e-3}, {"max_step": 0.1}, {"min_step": 1e-6}, {"first_step": 0.01}
    counts = []
    for i, grid in enumerate(grids):
        solve(
            oscillator,
            START + i,
            [i, 2 * i + 1.5],
            args=(stiffness + i,),
            grid={"name": "adaptive", **grid},
            compile=True,
        )
        counts.append(counter["unique_graphs"])
    assert len(set(counts)) == 1
    assert captured == [True] * 5


@pytest.mark.parametrize("scheme", ["dopri5", "tsit5", "bosh3", "dopri8"])
def test_states_between_the_ends_are_those_of_each_step(scheme, captured):
    times = torch.linspace(0.0, 3.0, 40, dtype=torch.float64)
    same(oscillator, START, [-0.5, -0.5, *times.tolist()], {}, scheme)
    same(oscillator, START, (times / 3).flip(0).tolist(), {}, scheme)
    assert captured == [True] * 2


@pytest.mark.parametrize("gradient", ["checkpoint", "adjoint"])
def test_gradients_are_those_of_the_steps(gradient, captured):
    stiffness = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    gradients = []
    with torch.enable_grad():
        for compiled in (False, True):
            y0 = START.clone().requires_grad_()
            grid = {"name": "adaptive", "rtol": 1e-6, "atol": 1e-8}
            times = [0.0, 0.3, 1.0]
            values = solve(
                oscillator, y0, times, args=(stiffness,), grid=grid, gradient=gradient, compile=compiled
            ).values
            gradients.append(torch.autograd.grad(values.square().sum(), (y0, stiffness)))
    assert captured[:1] == [True]
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-10)


def test_a_chunk_records_no_more_than_it_may(captured):
    y0 = torch.randn(2000, 2, dtype=torch.float64)
    same(oscillator, y0, [0.0, 0.5, 1.0], {"rtol": 1e-3})
    assert captured == [True]


def test_what_is_looked_at_is_stepped_by_the_graph_of_a_step(captured):
    for options in ({"dense": True}, {"event": lambda t, y: y[..., 0].sum()}):
        solve(oscillator, START, [0, 1], compile=True, **options)
    solve(oscillator, START, [0, 1], grid={"name": "adaptive", "step_t": (0.3,)}, compile=True)
    with torch.enable_grad():
        y0 = START.clone().requires_grad_()
        solve(oscillator, y0, [0, 1], gradient="backprop", compile=True).values.sum().backward()
    assert captured == []


def test_errors_are_those_of_the_host(captured):
    with pytest.raises(StepLimitError, match="max_steps=7 is reached at t = "):
        solve(oscillator, START, [0, 6], grid={"name": "adaptive", "rtol": 1e-9, "max_steps": 7}, compile=True)
    with pytest.raises(StepSizeError, match=r"fell to .* at t = 1\b|fell to .* at t = 0\.99"):
        solve(lambda t, y: y * y, torch.ones(1, dtype=torch.float64), [0, 2], compile=True)
    with pytest.raises(NonFiniteError, match="NaN or infinite"):
        solve(lambda t, y: torch.sqrt(0.5 - t) * y, torch.ones(1, dtype=torch.float64), [0, 2], compile=True)


def test_steps_that_may_not_be_smaller_are_missed_as_on_the_host():
    messages = []
    for compiled in (False, True):
        grid = {"name": "adaptive", "rtol": 1e-9, "atol": 1e-9, "min_step": 0.2}
        with pytest.warns(LeastStepWarning) as caught:
            solve(oscillator, START, [0, 3], grid=grid, compile=compiled)
        messages.append(str(caught[0].message))
    assert messages[0] == messages[1]


def test_a_loop_that_cannot_be_captured_is_stepped(captured, monkeypatch):
    quick = torch.compile

    def refusing(*_):
        raise torch._dynamo.exc.UncapturedHigherOrderOpError("no such loop")

    monkeypatch.setattr(torch, "compile", lambda f, **o: refusing if f.__name__ == "_loop" else quick(f, **o))

    def f(t, y):
        return -y

    y0 = torch.ones(3, dtype=torch.float64)
    with pytest.warns(NotCompiledWarning, match="the loop is not captured .*; its steps are, one by one"):
        first = solve(f, y0, [0, 1], compile=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = solve(f, y0, [0, 1], compile=True)
    assert captured == [False]
    torch.testing.assert_close(first.values, again.values)
    torch.testing.assert_close(first.values, solve(f, y0, [0, 1]).values)
    assert first.statistics.forward == solve(f, y0, [0, 1]).statistics.forward


def test_an_f_that_differentiates_is_stepped_and_trained():
    """As the exact trace of a density does; the slope at the start has a derivative, too."""

    def f(t, y):
        with torch.enable_grad():
            y = y if y.requires_grad else y.detach().requires_grad_()
            (slope,) = torch.autograd.grad(y.cos().sum(), y, create_graph=True)
        return slope * 2

    gradients = []
    for compile in (True, False):
        y0 = torch.linspace(1, 2, 3, dtype=torch.float64).requires_grad_()
        with torch.enable_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore", NotCompiledWarning)
            solve(f, y0, [0, 1], gradient="checkpoint", compile=compile).values[-1].sum().backward()
        gradients.append(y0.grad)
    torch.testing.assert_close(*gradients)


def test_a_flow_in_evaluation_is_one_graph(captured):
    torch.manual_seed(0)
    network = create_model("mlp", in_chans=2, image_size=None, hidden=4, scheme="dopri5", grid="adaptive").eval()
    x = torch.randn(5, 2)
    plain, nfe = network(x), network.nfe.forward
    network.flows[0].compile_steps()
    torch.testing.assert_close(network(x), plain, rtol=1e-4, atol=1e-5)
    assert network.nfe.forward == nfe
    assert captured == [True]
