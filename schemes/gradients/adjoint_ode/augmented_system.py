"""The system of state, costate and parameters' gradient that the continuous adjoint solves."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from schemes.core.evaluation_counts import count_products
from schemes.core.node import Node
from schemes.core.state import State, VectorField, flatten, unflatten
from schemes.gradients.recomputation.autograd import Pullback, leaves_of

ParameterGradients = tuple[Tensor | None, ...]


def costate_rates(
    f: VectorField, node: Node, y: State, costate: State, parameters: Sequence[Tensor]
) -> tuple[State, State, ParameterGradients]:
    """f, -(df/dy)^T a and -(df/dtheta)^T a at a node, by one evaluation and one product."""
    shape = flatten(y)[1]
    with torch.enable_grad():
        y, fresh = leaves_of(y)
        value = f(node, y)
    pull_back = Pullback(parameters)
    of_y = pull_back(flatten(value)[0], list(flatten(costate)[0]), fresh)
    count_products()
    rates = unflatten([_minus(g) for g in of_y], shape)
    return unflatten([v.detach() for v in flatten(value)[0]], shape), rates, tuple(map(_minus, pull_back.of_parameters))


def augmented(
    f: VectorField, parameters: Sequence[Tensor], stage_of: Callable[[int], int] = lambda stage: stage
) -> VectorField:
    """Rates of (y, a, g) of the component that f drives, from state and costate of the one it reads."""

    def rates(node: Node, state: State) -> State:
        y, costate, _ = state
        return costate_rates(f, node._replace(stage=stage_of(node.stage)), y, costate, parameters)

    return rates


def join_augmented(y: State, costate: State, of_parameters: ParameterGradients, paired: bool) -> State:
    """The augmented state: (y, a, g), or one such triple for each component.

    x' = f_0(y) pulls the costate of x back to y: each part travels with the costate of the other.
    """
    if not paired:
        return y, costate, of_parameters
    nothing = (None,) * len(of_parameters)
    return (y[0], costate[1], of_parameters), (y[1], costate[0], nothing)


def split_augmented(state: State, paired: bool) -> tuple[State, State, ParameterGradients]:
    """The inverse of :func:`joined`."""
    if not paired:
        return state
    first, second = state
    of_parameters = tuple(
        b if a is None else a if b is None else a + b for a, b in zip(first[2], second[2], strict=True)
    )
    return (first[0], second[0]), (second[1], first[1]), of_parameters


def zeros(y: State) -> State:
    return torch.zeros_like(y) if isinstance(y, Tensor) else tuple(map(zeros, y))


def plus(costate: State, gradient: State) -> State:
    """The sum with a nest of gradients, None standing for zero."""
    if gradient is None:
        return costate
    if isinstance(costate, Tensor):
        return costate + gradient
    return tuple(map(plus, costate, gradient))


def _minus(gradient: Tensor | None) -> Tensor | None:
    return None if gradient is None else -gradient
