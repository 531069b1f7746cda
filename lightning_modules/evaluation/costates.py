"""Costates and Hamiltonians along the depth of a network: how large the loss's gradient is at each of its states."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch.nn.modules.batchnorm import _BatchNorm

from architectures.model import Model
from lightning_modules.evaluation.visited_steps import recorded_steps
from schemes.analysis.costates import along_steps, hamiltonian, rates, states_of
from schemes.core.node import Node
from schemes.core.state import State, flatten
from schemes.errors import SchemenetError
from schemes.flow import Flow


class FlowCostates(NamedTuple):
    """What is measured along one flow of N steps.

    Attributes:
        times: of its N + 1 states, from 0 to 1 in units of T.
        norms: |a_n| at each of them, the root mean square over the samples of the gradient of a sample's loss.
        hamiltonians: H_n = a_n . f_n at the beginning of each step, the mean over the samples; None where the steps are
            of no method for u' = f.
        drift: (max H - min H) / mean |H|, where one field without time serves at all of two steps or more; else None.
            H is constant along the exact solution, so that this is an error of the scheme.
    """

    times: tuple[float, ...]
    norms: tuple[float, ...]
    hamiltonians: tuple[float, ...] | None
    drift: float | None


def costates_along_depth(network: Model, batch: Any) -> list[FlowCostates]:
    """Costates of the network's loss along each of its flows, in order.

    Batch norm normalises by the statistics of the batch, as in training: the running ones of a fresh network normalise
    nothing. All else is as in evaluation, and the network stays as it is.

    Args:
        network: whose flows have steps of their own.
        batch: inputs and targets of its loss.

    Raises:
        SchemenetError: for a network without such flows.
    """
    if not network.flows or not all(isinstance(flow, Flow) for flow in network.flows):
        raise SchemenetError("the network has no flow with steps of its own, along which costates could be drawn")
    network = copy.deepcopy(network).eval()
    for module in network.modules():
        if isinstance(module, _BatchNorm):
            module.train()
    with torch.enable_grad(), recorded_steps(network) as flows:
        loss = network.loss(batch)
        gradients = along_steps(flows, [loss])
    samples = len(batch[0])
    measured = []
    for flow, steps, costates in zip(network.flows, flows, gradients, strict=True):
        nodes = [step.node for step in steps]
        end = nodes[-1].t + nodes[-1].h
        times = tuple(float(t / end) for t in (*(node.t for node in nodes), end))
        norms = tuple(math.sqrt(samples) * _norm(a) for a in costates)
        values = _hamiltonians(flow, nodes, states_of(steps), costates)
        constant = values is not None and _is_autonomous(flow, nodes, steps[0].before)
        measured.append(FlowCostates(times, norms, values, drift(values) if constant and values else None))
    return measured


def drift(hamiltonians: Sequence[float]) -> float:
    """(max H - min H) / mean |H|."""
    mean = math.fsum(map(abs, hamiltonians)) / len(hamiltonians)
    return (max(hamiltonians) - min(hamiltonians)) / mean if mean else 0.0


def _norm(a: State) -> float:
    return math.sqrt(math.fsum(float(part.norm()) ** 2 for part in flatten(a)[0]))


def _hamiltonians(
    flow: Flow, nodes: Sequence[Node], states: Sequence[State], costates: Sequence[State]
) -> tuple[float, ...] | None:
    if flow.scheme.order is None or flow.sharing.of_stages:  # with weights of each stage there is no one f
        return None
    along = zip(nodes, states, costates, strict=False)
    return tuple(float(hamiltonian(flow, node, u, a)) for node, u, a in along)


def _is_autonomous(flow: Flow, nodes: Sequence[Node], y: State) -> bool:
    """Whether f at the first and at the last step is one function, by its value at y."""
    if not flow.sharing.is_constant or len(nodes) < 2 or flow.projection is not None:
        return False
    with torch.no_grad():
        first, last = (flatten(rates(flow, node, y))[0] for node in (nodes[0], nodes[-1]))
    return all(map(torch.equal, first, last))
