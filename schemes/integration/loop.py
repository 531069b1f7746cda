"""The steps of one pass, as gradient modes are handed them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import Tensor, nn

from schemes.core.evaluation_counts import SolverCounts
from schemes.core.node import Node
from schemes.core.scheme import Scheme
from schemes.core.state import State, VectorField
from schemes.core.weighting import Weighted, Weights

Carry = tuple[State, tuple[State, ...]]
"""A state, and what the scheme remembers beside it."""


StepCallback = Callable[[str, float, State, float], None]
"""Hears "callback_step" before each attempt at a step, "callback_accept_step" or "callback_reject_step" after it."""


class LoopResult(NamedTuple):
    """The result of a loop: the carry at its end, and the states at the output times, where there are any."""

    carry: Carry
    outputs: tuple[State, ...] = ()


@dataclass
class Loop:
    """Steps still to be taken from a carry, and the module that owns the tensors of f.

    ``walk`` takes them, ``advance`` takes one of them again. On a uniform grid ``nodes`` are given; where the steps
    are only found on the way they are noted there. ``forward`` and ``backward`` count what f is asked for.
    """

    scheme: Scheme
    f: Any
    nodes: Sequence[Node]
    module: nn.Module
    projection: Callable[[Tensor], Tensor] | None = None
    weights: Weights = field(default_factory=dict)
    output_fractions: list[tuple[Any, ...]] = field(default_factory=list)
    forward: SolverCounts = field(default_factory=SolverCounts)
    backward: SolverCounts = field(default_factory=SolverCounts)
    for_backward: list[Any] | None = None
    """Where a mode that evaluates f again leaves what its backward needs, if the caller keeps it with the results."""

    def weighted(self, f: VectorField) -> VectorField:
        """f with the weights that noise has drawn for this pass."""
        return Weighted(f, self.weights) if self.weights else f

    def advance(self, node: Node, carry: Carry, f: VectorField) -> LoopResult:
        """The step after a node, and the states at the output times that lie in it."""
        y, solver_state = self.scheme.step(self.weighted(f), node, *carry)
        return LoopResult((y if self.projection is None else self.projection(y), solver_state))

    def inverse(self, node: Node, carry: Carry, f: VectorField) -> Carry:
        return self.scheme.inverse(self.weighted(f), node, *carry)

    def recorded(self, replay: Any) -> VectorField:
        """f for a forward pass that backward is going to repeat (see ``schemes.gradients.recomputation.replay``)."""
        return replay.record(self.f)

    def walk(self, carry: Carry, f: VectorField) -> Iterator[tuple[Node, Carry, LoopResult]]:
        """Each step's node, the carry before it, and what it gave."""
        for node in self.nodes:
            taken = self.advance(node, carry, f)
            yield node, carry, taken
            carry = taken.carry

    def by_step(self, outputs: Sequence[Any]) -> list[tuple[Any, ...]]:
        """What belongs to the output times, parted into what belongs to those within each step."""
        rest = iter(outputs)
        return [
            tuple(next(rest) for _ in output_fractions)
            for output_fractions in self.output_fractions or [()] * len(self.nodes)
        ]

    def collected(self, y: State, outputs: Sequence[State]) -> list[State]:
        """The states at the output times, from ``outputs`` of the walk; ``y`` is the first."""
        return [y, *outputs]

    def run(self, carry: Carry) -> LoopResult:
        """All steps, one after the other."""
        outputs: list[State] = []
        for _, _, taken in self.walk(carry, self.f):
            carry = taken.carry
            outputs += taken.outputs
        return LoopResult(carry, tuple(outputs))
