"""Bytes that a flow keeps for backward, peak bytes, and work in backward."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from schemes.core.node import Node
from schemes.gradients.adjoint_ode.backsolve import AdjointDriftWarning
from schemes.registry import GRADIENTS
from tests.support.problems import (
    CHANNELS,
    Storages,
    batch,
    bytes_kept,
    make_flow,
    spec_id,
    weighted,
)
from tests.support.selections import pairs

# Memory

STATE = 64 * CHANNELS * 8  # bytes of one state


def kept(mode: str, spec: Any, steps: int) -> int:
    flow = make_flow(scheme=spec, gradient=mode, steps=steps, sharing="shared")
    return bytes_kept(flow, batch(64).requires_grad_())


@pytest.mark.parametrize(("mode", "spec"), pairs(["reversible", "adjoint"], one_of_a_kind=True))
def test_bytes_kept_are_flat_in_depth(mode: str, spec: Any) -> None:
    few, many = kept(mode, spec, 5), kept(mode, spec, 20)
    assert few == many
    assert few <= 3 * STATE


@pytest.mark.parametrize(("mode", "spec"), pairs(["checkpoint"], one_of_a_kind=True))
def test_bytes_kept_by_checkpoint_are_a_carry_a_step(mode: str, spec: Any) -> None:
    """The state, and beside it what a step leaves to the next one: a value of f, a second state or both."""
    few, middle, many = (kept(mode, spec, n) for n in (3, 5, 9))
    assert 0 < many - middle == 2 * (middle - few)
    kinds = {"adams": 2, "reversible_wrap": 2, "asynchronous_leapfrog": 2, "reversible_heun": 3}
    parts = next((parts for kind, parts in kinds.items() if spec_id(spec).startswith(kind)), 1)
    assert many - middle == 4 * STATE * parts
    # Three states a step are more than backprop keeps of a field of one layer.
    assert parts == 3 or many < kept("backprop", spec, 9)


def peak(mode: str, spec: Any, steps: int) -> int:
    flow = make_flow(scheme=spec, gradient=mode, steps=steps, sharing="shared")
    x = batch(64).requires_grad_()
    with Storages(x, *flow.parameters()) as storages, warnings.catch_warnings():
        warnings.simplefilter("ignore", AdjointDriftWarning)
        weighted(flow(x)).backward()
    return storages.peak


@pytest.mark.parametrize("mode", [mode for mode in GRADIENTS if mode != "backprop"])
def test_work_in_backward_is_linear_in_depth(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where each step has weights of its own, the engine is inputs for a step's and not for all of them each time."""
    inputs: list[int] = []
    grad = torch.autograd.grad
    monkeypatch.setattr(torch.autograd, "grad", lambda o, i, *a, **k: (inputs.append(len(i)), grad(o, i, *a, **k))[1])
    counts = []
    for steps in (4, 8):
        inputs.clear()
        weighted(
            make_flow(scheme="symplectic_euler" if mode == "reversible" else "heun", gradient=mode, steps=steps)(
                batch()
            )
        ).backward()
        counts.append(sum(inputs))
    assert 0 < counts[1] == 2 * counts[0]


def flops(mode: str, spec: Any, backward: bool = True) -> int:
    flow, x = make_flow(scheme=spec, gradient=mode, steps=3, sharing="shared"), batch().requires_grad_()
    with FlopCounterMode(display=False) as counter, warnings.catch_warnings():
        warnings.simplefilter("ignore", AdjointDriftWarning)
        loss = weighted(flow(x))
        if backward:
            loss.backward()
    return counter.get_total_flops()


@pytest.mark.parametrize(("mode", "spec"), pairs(["checkpoint", "reversible", "adjoint"], one_of_a_kind=True))
def test_the_flop_counter_of_torch_sees_the_second_evaluations(mode: str, spec: Any) -> None:
    """Its hooks on modules, which ask the engine about their arguments, may find no leaves among them."""
    assert flops(mode, spec) > flops("backprop", spec)


@pytest.mark.parametrize("spec", ["heun", "verlet"])
def test_checkpoint_costs_one_forward_pass_more_than_backprop(spec: str) -> None:
    assert flops("checkpoint", spec) == flops("backprop", spec) + flops("backprop", spec, backward=False) > 0


@pytest.mark.usefixtures("no_collector")
@pytest.mark.parametrize(("mode", "spec"), pairs(["reversible", "adjoint"], one_of_a_kind=True))
def test_peak_bytes_of_forward_and_backward_are_flat_in_depth(mode: str, spec: Any) -> None:
    assert peak(mode, spec, 8) == peak(mode, spec, 24)


class Unit(nn.Module):
    """The branch of a RevNet unit, of which autograd saves four tensors; its weights are small beside its input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        layers = [(nn.BatchNorm1d(channels), nn.ReLU(), nn.Linear(channels, channels, bias=False)) for _ in range(2)]
        self.layers = nn.Sequential(*(layer for group in layers for layer in group))

    def forward(self, node: Node, y: Tensor) -> Tensor:
        return self.layers(y)


@pytest.mark.usefixtures("no_collector")
@pytest.mark.parametrize(("scheme", "states"), [("symplectic_euler", 8), ("verlet", 8), ("reversible_wrap", 23)])
def test_reversible_holds_the_graphs_of_one_part_of_a_step_alone(scheme: str, states: int) -> None:
    """RevLib needs 8 inputs of a block for the first one. The base of the wrap, Heun's method, has two evaluations."""
    flow = make_flow(Unit, scheme, "reversible", steps=4)
    x = batch(4096).requires_grad_()
    with Storages(*flow.parameters(), *flow.buffers()) as storages:
        flow(x.clone()).square().mean().backward()
    assert storages.peak <= states * x.nbytes


def test_a_second_backward_finds_the_end_state_where_the_graph_is_retained() -> None:
    """The first one may let go of what it has read only where there is no other."""
    gradients = {}
    for mode in ("backprop", "checkpoint", "reversible"):
        flow, x = make_flow(scheme="verlet", gradient=mode), batch().requires_grad_()
        loss = weighted(flow(x))
        loss.backward(retain_graph=True)
        loss.backward()
        gradients[mode] = x.grad
    torch.testing.assert_close(gradients["checkpoint"], gradients["backprop"])
    torch.testing.assert_close(gradients["reversible"], gradients["backprop"])


@pytest.mark.usefixtures("no_collector")
def test_peak_bytes_of_checkpoint_are_a_state_a_step() -> None:
    assert peak("checkpoint", "heun", 24) - peak("checkpoint", "heun", 8) == 16 * STATE
    assert peak("backprop", "heun", 24) - peak("backprop", "heun", 8) >= 32 * STATE


def test_bytes_kept_by_backprop_are_seen() -> None:
    """The measure itself: backprop keeps something of each evaluation."""
    assert kept("backprop", "heun", 20) - kept("backprop", "heun", 10) >= 10 * 2 * STATE
