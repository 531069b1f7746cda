"""Costates: the gradient of a cost with respect to the state at each step of a flow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from schemes.core.node import Node
from schemes.core.state import State, detached, flatten, unflatten
from schemes.flow import Flow, FlowStep


class Costates(NamedTuple):
    """States and costates along the steps of a flow.

    Attributes:
        nodes: of the N steps.
        states: u_0 to u_N, each a tuple of components where the scheme is coupled.
        costates: a_0 to a_N, each of the form of its state.
    """

    nodes: tuple[Node, ...]
    states: tuple[State, ...]
    costates: tuple[State, ...]


def costates(flow: Flow, y: Any, a_end: Any, past: tuple[Tensor, ...] = ()) -> Costates:
    """States and costates along the steps of a flow as they were taken, whatever its gradient mode is.

    a_n = dJ/du_n for a cost J whose gradient at the end is a_N, by plain backprop. For forward Euler that is

        a_n = a_{n+1} + h (df_n/du)^T a_{n+1}       at u_n.

    For a scheme with memory the later steps read u_n, and what was computed from it, too; a_n has all of that.

    Args:
        flow: in the mode, training or evaluation, in which its steps are to be taken.
        y: the initial state, as of ``Flow.forward``.
        a_end: dJ/du_N, of the form of ``y``.
        past: older states, the latest first.

    Reference: Li, Chen, Tai, E, "Maximum Principle Based Algorithms for Deep Learning", JMLR 18, 2018,
    arXiv:1710.09513.
    """
    with torch.enable_grad():
        leaves, shape = flatten(y)
        start = unflatten([leaf.detach().requires_grad_() for leaf in leaves], shape)
        steps = list(flow.walk(start, past))
        end = flow.split(a_end)
        gradients = along_steps([steps], flatten(steps[-1].after)[0], flatten(end)[0])[0]
    states = tuple(detached(state) for state in states_of(steps))
    return Costates(tuple(step.node for step in steps), states, gradients)


def states_of(steps: Sequence[FlowStep]) -> list[State]:
    """The states at the ends of steps, with their graphs: one more than there are steps."""
    return [steps[0].before, *(step.after for step in steps)]


def along_steps(
    flows: Sequence[Sequence[FlowStep]], outputs: Sequence[Tensor], cotangents: Sequence[Tensor] | None = None
) -> list[tuple[State, ...]]:
    """The gradients of a cost with respect to the states at the ends of steps.

    Args:
        flows: the steps of each flow that the cost was computed through.
        outputs: tensors computed from the states, or the cost itself.
        cotangents: the gradients of the cost with respect to ``outputs``; None where it is a scalar.

    Returns:
        For each flow the gradients with respect to its states, zero where the cost does not depend on one.
    """
    leaves, shape = flatten(tuple(tuple(states_of(steps)) for steps in flows))
    gradients = torch.autograd.grad(outputs, leaves, cotangents, materialize_grads=True)
    return list(unflatten(gradients, shape))


def hamiltonian(flow: Flow, node: Node, y: State, a: State) -> Tensor:
    """H = a . f(t, u), of all samples together: a costate of the mean cost makes it a mean.

    Args:
        flow: whose field f is.
        node: at which f is evaluated.
        y: the state u there.
        a: the costate there.
    """
    with torch.no_grad():
        pairs = zip(flatten(a)[0], flatten(rates(flow, node, y))[0], strict=True)
        return torch.stack([(p * f).sum() for p, f in pairs]).sum()


def rates(flow: Flow, node: Node, y: State) -> State:
    """f(t, u) at a node, of each component where the scheme is coupled."""
    if flow.scheme.components == 1:
        return flow.bank(node, y)
    return tuple(flow.bank(node.at(component=i), y[1 - i]) for i in range(flow.scheme.components))
