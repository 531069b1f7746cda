"""Captured steps: what torch.compile makes of a step is the step."""

import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn

from architectures import create_model
from schemes import SchemenetError, solve
from schemes.integration.compiled_step import NotCompiledWarning


class Field(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inside = nn.Linear(2, 2).double()

    def forward(self, t: Tensor, y: Tensor, scale: Tensor) -> Tensor:
        return torch.tanh(self.inside(y)) * scale * torch.cos(t)


class FieldOfRows(Field):
    def forward(self, t: Tensor, y: Tensor, scale: Tensor) -> Tensor:
        return super().forward(t.unsqueeze(1), y, scale)


@pytest.fixture(autouse=True)
def _quickly(monkeypatch):
    """The graph as Dynamo finds it, differentiated ahead of time, without minutes of C++."""
    inductor = torch.compile

    def quick(f, *, fullgraph=False, **options):
        return inductor(f, backend="aot_eager", dynamic=False, fullgraph=fullgraph)

    monkeypatch.setattr(torch, "compile", quick)


@pytest.mark.parametrize("mode", ["backprop", "checkpoint"])
def test_captured_steps_are_the_steps(mode):
    torch.manual_seed(0)
    f = Field()
    y0 = torch.randn(3, 2, dtype=torch.float64, requires_grad=True)
    scale = torch.tensor(1.2, dtype=torch.float64, requires_grad=True)
    found = []
    for compiled in (False, True, True):
        solution = solve(f, y0, [0.0, 0.5, 2.0], args=(scale,), gradient=mode, compile=compiled)
        gradients = torch.autograd.grad(solution.values.square().sum(), [y0, scale, *f.parameters()])
        found.append((solution.values, *gradients))
        work = solution.statistics
        counts = work.forward.evaluations, work.forward.accepted
        assert work.backward.jacobian_products == work.backward.evaluations
        found[-1] += (torch.tensor(counts),)
    for plain, *others in zip(*found, strict=True):
        for other in others:
            torch.testing.assert_close(other, plain, rtol=1e-12, atol=1e-13)


def test_one_graph_serves_all_steps_and_later_solves():
    torch.manual_seed(0)
    f, scale = Field(), torch.ones((), dtype=torch.float64)
    counter = torch._dynamo.utils.counters["stats"]
    with torch.no_grad():
        solve(f, torch.ones(3, 2, dtype=torch.float64), [0, 1], args=(scale,), compile=True)
        before = counter["unique_graphs"]
        assert before
        for end in (0.5, 2.0):
            solve(f, torch.zeros(3, 2, dtype=torch.float64) + end, [0, end], args=(2 * scale,), compile=True)
    assert counter["unique_graphs"] == before


FIRST = """
import torch
from schemes import solve

inductor = torch.compile
torch.compile = lambda f, fullgraph, **_: inductor(f, backend="eager", dynamic=False, fullgraph=fullgraph)
with torch.no_grad():
    solve(lambda t, y: -y, torch.ones(3), [0, 1], scheme="SCHEME", compile=True)
counters = torch._dynamo.utils.counters
print(counters["stats"]["unique_graphs"], sum(counters["graph_break"].values()))
"""


@pytest.mark.parametrize("scheme", ["dopri5", "bosh3"])
def test_the_first_compiled_solve_of_a_process_is_one_graph(scheme):
    done = subprocess.run(
        [sys.executable, "-c", FIRST.replace("SCHEME", scheme)], capture_output=True, text=True, check=False
    )
    assert (done.stdout.strip(), done.stderr) == ("1 0", "")


def test_a_field_that_cannot_be_captured_is_solved_without():
    def f(t, y):
        return -y if y.sum() > -1 else y

    y0 = torch.ones(3, dtype=torch.float64)
    with pytest.warns(NotCompiledWarning, match=r"cannot take this f whole \(.+\); its steps run uncompiled"):
        solution = solve(f, y0, [0, 1], compile=True)
    torch.testing.assert_close(solution.values, solve(f, y0, [0, 1]).values)


def test_a_flow_captures_its_steps():
    torch.manual_seed(0)
    network = create_model("mlp", in_chans=2, image_size=None, hidden=4, scheme="dopri5", grid="adaptive")
    x = torch.randn(5, 2)
    plain = torch.autograd.grad(network(x).square().sum(), list(network.parameters()))
    network.flows[0].compile_steps()
    calls = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    captured = torch.autograd.grad(network(x).square().sum(), list(network.parameters()))
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > calls
    for expected, found in zip(plain, captured, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_what_cannot_be_captured_is_refused():
    y0 = torch.ones(2, dtype=torch.float64)
    with pytest.raises(SchemenetError, match="explicit pairs, not of Kvaerno5"):
        solve(lambda t, y: -y, y0, [0, 1], scheme="kvaerno5", compile=True)


@pytest.mark.parametrize("mode", ["none", "backprop", "checkpoint"])
def test_the_steps_of_each_sample_are_taken_by_one_graph(mode):
    torch.manual_seed(0)
    f = FieldOfRows()
    rates = torch.tensor([[1.0], [3.0], [9.0]], dtype=torch.float64)
    t = torch.tensor([[0.0, 0.5, 2.0], [0.0, 0.1, 1.0], [1.0, 0.5, 0.0]], dtype=torch.float64)
    y0 = torch.randn(3, 2, dtype=torch.float64, requires_grad=True)
    found, counts = [], []
    for compiled in (False, True, True):
        with torch.set_grad_enabled(mode != "none"):
            solution = solve(
                f, y0, t, args=(rates,), batching="per_sample", gradient=mode.replace("none", "backprop"),
                compile=compiled,
            )  # fmt: skip
        found.append([solution.values.detach()])
        if mode != "none":
            found[-1] += torch.autograd.grad(solution.values.square().sum(), [y0, *f.parameters()])
        counts.append((solution.statistics.samples, solution.statistics.forward.accepted))
    assert counts[1:] == counts[:1] * 2
    for plain, *others in zip(*found, strict=True):
        for other in others:
            torch.testing.assert_close(other, plain, rtol=1e-12, atol=1e-13)


def test_a_sample_over_no_time_is_solved_without_a_graph():
    with pytest.warns(NotCompiledWarning, match="a sample is over no time"):
        values = solve(
            lambda t, y: -y / t.unsqueeze(1), torch.ones(2, 1), [[1, 2], [0, 0]], batching="per_sample", compile=True
        ).values
    assert values[-1].flatten().tolist() == pytest.approx([0.5, 1.0], rel=1e-3)
