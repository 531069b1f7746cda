"""Weights of evaluations of f in the sum of a step, by which noise acts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from torch import Tensor

from schemes.core.node import Node
from schemes.core.state import FlatState, State, VectorField


class Weight(NamedTuple):
    """A factor of one evaluation: a number, or a tensor of shape () or (batch, 1, ...).

    ``backward``, where given, is the factor of the gradient instead (shake-shake draws the two apart).
    """

    forward: float | Tensor
    backward: float | Tensor | None = None

    def times(self, value: State) -> State:
        """``value`` with this weight, in its own precision."""
        if not isinstance(value, Tensor):
            return None if value is None else tuple(map(self.times, value))
        if self.backward is None:
            return (value * self.forward).to(value.dtype)
        straight = value * self.backward
        return (straight + (value * self.forward - straight).detach()).to(value.dtype)


Weights = Mapping[tuple[int, int, int], Weight]
"""Place of a node (step, stage, component) to the weight of its evaluation; 1 where there is none."""


Weigh = Callable[[Node, State], State]
"""A function that weighs a value of f at a node."""


def weigh_by(weights: Weights) -> Weigh:
    """The function that gives the value at a node its weight."""

    def weigh(node: Node, value: State) -> State:
        weight = weights.get(node.place)
        return value if weight is None else weight.times(value)

    return weigh


class Weighted:
    """f with weights: its values as they enter the sum of a step (see :func:`separate_weights`)."""

    def __init__(self, f: VectorField, weigh: Weigh) -> None:
        self.f, self.weigh = f, weigh

    def __call__(self, node: Node, y: State) -> State:
        return self.weigh(node, self.f(node, y))


def separate_weights(f: VectorField) -> tuple[VectorField, Weigh]:
    """f without weights, and the function that weighs its values.

    A step of several stages calls both: the plain f for the arguments of later stages, the weighed values for the sum
    that is added to the state. So noise acts on what a step adds, never on its arguments, and the mean of a noisy step
    is the step.

    Args:
        f: the right-hand side as :meth:`Scheme.step` gets it.

    Returns:
        ``(plain, weigh)``, with ``weigh(node, plain(node, y))`` equal to ``f(node, y)``.
    """
    return (f.f, f.weigh) if isinstance(f, Weighted) else (f, lambda node, value: value)


def on_vectors(f: VectorField, joined: FlatState) -> VectorField:
    """f as a function of the vector of ``joined``; its weights stay separate."""
    plain, weigh = separate_weights(f)

    def flat(node: Node, vector: Tensor) -> Tensor:
        return joined.vector(plain(node, joined.parts(vector)))

    if plain is f:
        return flat
    return Weighted(flat, lambda node, vector: joined.vector(weigh(node, joined.parts(vector))))
