"""The layers that a forward pass of a network calls, each with the states before and after it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

from torch import Tensor, nn

from architectures.supervised.network import Network
from schemes.core.node import Node
from schemes.core.state import State, flatten, unflatten
from schemes.gradients.backprop import Backprop
from schemes.integration.loop import Carry, Loop, LoopResult


class LayerCall(NamedTuple):
    """One layer x_{n+1} = F(x_n) of a forward pass.

    Attributes:
        layer: F, with the present weights at each call; of a scheme with memory a map of state and solver state.
        before: x_n.
        after: x_{n+1}, whose tensors keep their gradient in ``grad``: the costate a_{n+1} once the loss is
            differentiated. They are variables of their own, so that a_{n+1} has what later layers read of x_{n+1}, and
            nothing of the layer itself.
    """

    layer: Callable[[State], State]
    before: State
    after: State


class RecordedSteps(Backprop):
    """Plain backpropagation that appends each step to a list of layers.

    Args:
        calls: gets the steps.
    """

    def __init__(self, calls: list[LayerCall]) -> None:
        self.calls = calls

    def __call__(self, loop: Loop, carry: Carry) -> LoopResult:
        for node in loop.nodes:
            layer = partial(_step, loop, node)
            after = _variables(layer(carry))
            self.calls.append(LayerCall(layer, carry, after))
            carry = after
        return LoopResult(carry)


@contextlib.contextmanager
def recorded_layers(network: Network) -> Iterator[list[LayerCall]]:
    """Record the layers of the forward passes in this context: stem, steps of the flows, transitions, and head.

    Args:
        network: with the gradient mode backprop, and grids whose steps are known.

    Returns:
        The layers with weights, in the order of their calls; filled by the forward pass.
    """
    calls: list[LayerCall] = []

    def record(module: nn.Module, arguments: tuple[Any, ...], output: State) -> State:
        after = _variables(output)
        calls.append(LayerCall(partial(_called, module), arguments, after))
        return after

    modes = [flow.gradient for flow in network.flows]
    weighted = [module for module in network.modules_between_flows if next(module.parameters(), None) is not None]
    hooks = [module.register_forward_hook(record) for module in weighted]
    try:
        for flow in network.flows:
            flow.gradient = RecordedSteps(calls)
        yield calls
    finally:
        for hook in hooks:
            hook.remove()
        for flow, mode in zip(network.flows, modes, strict=True):
            flow.gradient = mode


def _step(loop: Loop, node: Node, carry: Carry) -> Carry:
    return loop.advance(node, carry, loop.f).carry


def _called(module: nn.Module, arguments: tuple[Any, ...]) -> State:
    return module(*arguments)


def _variables(y: State) -> State:
    """A state whose tensors are variables of their own and keep their gradients."""
    leaves, shape = flatten(y)
    views = [leaf[...] for leaf in leaves]
    for view in views:
        if view.requires_grad:
            view.retain_grad()
    return unflatten(views, shape)


def gradient_of(leaf: Tensor) -> Tensor:
    """The gradient that a tensor keeps; zeros where the loss does not depend on it."""
    return leaf.new_zeros(leaf.shape) if leaf.grad is None else leaf.grad
