"""The steps that the flows of a network take in a forward pass."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from architectures.model import Model
from schemes.flow import Flow, FlowStep, walked
from schemes.integration.loop import Carry, Loop, LoopResult


@contextlib.contextmanager
def recorded_steps(network: Model) -> Iterator[list[list[FlowStep]]]:
    """Within this context the network records the steps of each flow, differentiated by plain backprop.

    Args:
        network: all of whose flows are of class ``Flow``.
    """
    flows: list[Flow] = network.flows
    modes = [flow.gradient for flow in flows]
    recorded: list[list[FlowStep]] = [[] for _ in flows]
    try:
        for flow, steps in zip(flows, recorded, strict=True):
            flow.gradient = _recorder(steps)
        yield recorded
    finally:
        for flow, mode in zip(flows, modes, strict=True):
            flow.gradient = mode


def _recorder(steps: list[FlowStep]) -> Callable[[Loop, Carry], Any]:
    """A gradient mode that appends the steps of a loop to a list."""

    def run(loop: Loop, carry: Carry) -> LoopResult:
        for step in walked(loop, carry):
            steps.append(step)
            carry = (step.after, step.solver_state)
        return LoopResult(carry)

    return run
