"""The contract of a grid: it steps from time to time, both ways, and a flow's grid covers the flow's time."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from schemes import solve
from schemes.core.node import Node
from schemes.errors import SchemenetError
from schemes.flow import Flow
from schemes.integration.fixed_steps import SteppedGrid
from schemes.integration.grid import FlowGrid, Grid
from schemes.integration.scipy_loop import ScipyGrid
from schemes.registry import GRIDS, SCHEMES

DOUBLE = torch.float64
TIMES = [0.0, 0.4, 1.0]


def along_times(name: str) -> Any:
    """A grid of this name for initial value problems."""
    grids = {
        "uniform": {"name": "uniform", "steps": 20},
        "adaptive": {"name": "adaptive", "rtol": 1e-7, "atol": 1e-7},
        "stepped": SteppedGrid(step_size=0.05, interpolation="cubic"),
        "scipy": ScipyGrid("DOP853", rtol=1e-7, atol=1e-7),
    }
    assert name in grids, f"grid {name!r} is new: say in this dictionary how it steps along given times"
    return grids[name]


ALL = [*GRIDS, "stepped", "scipy"]


def rotation(t: Tensor, y: Tensor) -> Tensor:
    return torch.stack((y[1], -y[0])) * torch.as_tensor(t).cos()


def exact(start: float, times: list[float]) -> Tensor:
    """The rotation by the angle sin t - sin(start), from (1, 0)."""
    angles = torch.tensor([math.sin(t) - math.sin(start) for t in times], dtype=DOUBLE)
    return torch.stack((angles.cos(), -angles.sin()), 1)


def solved(name: str, times: list[float], **options: Any) -> Tensor:
    grid = along_times(name)
    options = {"scheme": "dopri5", "gradient": "adjoint" if name == "scipy" else "checkpoint"} | options
    with torch.no_grad():
        return solve(rotation, torch.tensor([1.0, 0.0], dtype=DOUBLE), times, grid=grid, **options).values


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("times", [TIMES, TIMES[::-1], [0.0, 0.33, 0.34, 1.0]], ids=["forwards", "backwards", "close"])
def test_values_at_all_times_are_the_solution(name: str, times: list[float]) -> None:
    torch.testing.assert_close(solved(name, times), exact(times[0], times), rtol=0, atol=2e-6)


@pytest.mark.parametrize("name", ALL)
def test_a_grid_says_whether_its_steps_are_known(name: str) -> None:
    grid = along_times(name)
    grid = grid if isinstance(grid, Grid) else GRIDS.build(grid)
    assert grid.steps_known is (grid.error_control() is None)
    assert (grid.backward_segments([0.0, 1.0]).nodes != []) is grid.steps_known
    assert type(grid.for_evaluation()) is type(grid)


@pytest.mark.parametrize("name", ALL)
def test_steps_of_each_sample_or_a_reason(name: str) -> None:
    y, options = torch.ones(3, 1, dtype=DOUBLE), {"grid": along_times(name), "batching": "per_sample"}
    if name == "adaptive":
        values = solve(lambda t, y: -y, y, TIMES, **options).values
        torch.testing.assert_close(values[-1], torch.full_like(y, math.exp(-1)), rtol=0, atol=1e-5)
        return
    with pytest.raises(SchemenetError, match="needs grid=adaptive"):
        solve(lambda t, y: -y, y, TIMES, scheme="rk4" if name != "scipy" else "dopri5", **options)


class Count(torch.nn.Module):
    """y' = 1."""

    def forward(self, node: Node, y: Tensor) -> Tensor:
        return torch.ones_like(y)


@pytest.mark.parametrize("name", GRIDS)
@pytest.mark.parametrize("time", [0.5, 2.0])
def test_a_flow_covers_its_time(name: str, time: float) -> None:
    """y' = 1 moves by T, whatever the steps."""
    flow = Flow(lambda node: Count(), 5, "dopri5", "shared", {"name": name, "time": time}).double()
    y = torch.zeros(2, 1, dtype=DOUBLE)
    torch.testing.assert_close(flow(y), y + time)
    assert isinstance(flow.grid, FlowGrid)
    assert flow.grid.end_time(flow.nodes) == pytest.approx(time)
    if flow.grid.steps_known:
        ends = [node.t + node.h for node in flow.nodes]
        assert [node.t for node in flow.nodes] == pytest.approx([0.0, *ends[:-1]])
        assert ends[-1] == pytest.approx(time)
    else:
        assert flow.nodes == ()
    assert len({node.place for node in flow.visits}) == len(flow.visits) > 0


@pytest.mark.parametrize("name", GRIDS)
def test_schemes_that_a_grid_cannot_step_are_refused_with_the_reason(name: str) -> None:
    grid = GRIDS.build(name)
    for scheme in SCHEMES:
        built = SCHEMES.build(scheme)
        reason = grid.unsupported_reason(built)
        assert (reason is None) is (grid.steps_known or built.error_order is not None), scheme
        if reason is not None:
            with pytest.raises(SchemenetError, match=r"adaptive"):
                Flow(lambda node: Count(), 2, scheme, "shared", name)


@pytest.mark.parametrize(
    ("grid", "key"),
    [
        ({"name": "uniform", "steps": 0}, "steps"), ({"name": "uniform", "time": -1.0}, "time"),
        ({"name": "adaptive", "rtol": -1.0}, "rtol"), ({"name": "adaptive", "max_steps": 0}, "max_steps"),
        ({"name": "adaptive", "time": 0.0}, "time"), ({"name": "adaptive", "safety": 2.0}, "safety"),
    ],
    ids=str,
)  # fmt: skip
def test_values_out_of_range_are_refused(grid: dict[str, Any], key: str) -> None:
    with pytest.raises(SchemenetError, match=key):
        GRIDS.build(grid)
