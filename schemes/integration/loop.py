"""Loop: the steps of one solve, which a gradient mode runs and differentiates."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple, Protocol

from torch import Tensor, nn

from schemes.core.evaluation_counts import SolverCounts, Statistics
from schemes.core.interpolation import Interpolant
from schemes.core.node import Node
from schemes.core.scheme import InvertibleMap, Scheme
from schemes.core.state import State, VectorField
from schemes.core.weighting import Weighted, Weights, weigh_by
from schemes.errors import SchemenetError
from schemes.integration.compiled_loop import CompiledSolve
from schemes.integration.events import EventDetector
from schemes.integration.step_size_controller import ErrorControl

Carry = tuple[State, tuple[State, ...]]
"""A state, and the solver state of its scheme."""

StepCallback = Callable[[str, float, State, float], None]
"""Called with "callback_step" before each attempt at a step, "callback_accept_step" or "callback_reject_step" after it,
and with time, state and step size."""


class FieldOwner(nn.Module):
    """The module that owns the tensors of f: a flow, or the right-hand side of an initial value problem.

    ``closed_over`` are tensors that f reads by itself and the user has named, which says that there are no others;
    None where nothing was said.
    """

    closed_over: tuple[Tensor, ...] | None = None

    def reused(self, node: Node) -> nn.Module | None:
        """The module in which f's call at a node finds buffers that other calls have left; None where there is none."""
        return None

    def spread(self, tolerance: Any) -> Any:
        """A tolerance in the solver's form: a number, a tensor, or a list with one for each tensor of the state."""
        return tolerance

    def step_callback(self) -> StepCallback | None:
        """The callback for steps of the solve."""
        return None

    def adjoint_callback(self) -> StepCallback | None:
        """The callback for steps of the adjoint's solve backwards."""
        return None


class Recorder(Protocol):
    """Makes an f whose calls can be repeated in backward."""

    def record(self, f: VectorField) -> VectorField: ...


class LoopResult(NamedTuple):
    """The carry at the end of a loop, and the states at the output times, where there are any."""

    carry: Carry
    outputs: tuple[State, ...] = ()


class InvertiblePart(NamedTuple):
    """A step of a loop, or a part of one, on carries: what takes it, and what undoes it."""

    advance: Callable[[Node, Carry, VectorField], LoopResult]
    inverse: Callable[[Node, Carry, VectorField], Carry]


class Segments(NamedTuple):
    """Given steps from each output time back to the one before it.

    With ``perturb`` f is evaluated strictly inside the steps, never at their end points, where it may jump.
    """

    nodes: list[Sequence[Node]]
    perturb: bool


@dataclass
class Loop:
    """The steps from a carry to the end, over given ``nodes``, and the module that owns the tensors of f.

    ``walk`` takes them, ``advance`` takes one of them again. Where ``steps_known`` is False the nodes are found by
    ``walk``. ``forward`` and ``backward`` count evaluations of f. Where ``rows_share_times`` is False each row of the
    batch is at a time of its own, so that a solve that stops has no common partial result.
    """

    steps_known: ClassVar[bool] = True
    rows_share_times: ClassVar[bool] = True

    scheme: Scheme
    f: VectorField
    nodes: Sequence[Node]
    module: FieldOwner
    projection: Callable[[Tensor], Tensor] | None = None
    weights: Weights = field(default_factory=dict)
    output_fractions: list[tuple[Any, ...]] = field(default_factory=list)
    forward: SolverCounts = field(default_factory=SolverCounts)
    backward: SolverCounts = field(default_factory=SolverCounts)
    for_backward: list[Any] | None = None
    """Where a mode that evaluates f again leaves what its backward needs, if the caller keeps it with the results."""

    # Steps -----------------------------------------------------------------------------------------------------

    def weighted(self, f: VectorField) -> VectorField:
        """f with the weights that noise has drawn for this pass."""
        return Weighted(f, weigh_by(self.weights)) if self.weights else f

    def advance(self, node: Node, carry: Carry, f: VectorField) -> LoopResult:
        """The step after a node, and the states at the output times that lie in it."""
        y, solver_state = self.scheme.step(self.weighted(f), node, *carry)
        return LoopResult((y if self.projection is None else self.projection(y), solver_state))

    def invertible_parts(self, node: Node) -> list[InvertiblePart]:
        """The maps that the step after a node consists of, in order; one with output times in it is not taken apart."""
        parts = self.scheme.invertible_parts
        if len(parts) == 1 or any(self.output_fractions[node.step : node.step + 1]):
            return [InvertiblePart(self.advance, self._undoing(self.scheme))]
        return [InvertiblePart(self._taking(part), self._undoing(part)) for part in parts]

    def _taking(self, part: InvertibleMap) -> Callable[[Node, Carry, VectorField], LoopResult]:
        return lambda node, carry, f: LoopResult(part.step(self.weighted(f), node, *carry))

    def _undoing(self, part: InvertibleMap) -> Callable[[Node, Carry, VectorField], Carry]:
        return lambda node, carry, f: part.inverse(self.weighted(f), node, *carry)

    def recorded(self, recorder: Recorder) -> VectorField:
        """f for a forward pass that backward is going to repeat (see ``schemes.gradients.recomputation.replay``)."""
        return recorder.record(self.f)

    def walk(self, carry: Carry, f: VectorField) -> Iterator[tuple[Node, Carry, LoopResult]]:
        """Each step's node, the carry before it, and its result."""
        for node in self.nodes:
            taken = self.advance(node, carry, f)
            yield node, carry, taken
            carry = taken.carry

    def run(self, carry: Carry) -> LoopResult:
        """All steps, one after the other."""
        outputs: list[State] = []
        for _, _, taken in self.walk(carry, self.f):
            carry = taken.carry
            outputs += taken.outputs
        return LoopResult(carry, tuple(outputs))

    # Output times ----------------------------------------------------------------------------------------------

    def output_times(self) -> list[float]:
        """The start and the output times; none for a flow, which has its end alone."""
        return []

    def by_step(self, outputs: Sequence[Any]) -> list[tuple[Any, ...]]:
        """One entry for each output time, grouped by the step that the time lies in."""
        rest = iter(outputs)
        return [
            tuple(next(rest) for _ in output_fractions)
            for output_fractions in self.output_fractions or [()] * len(self.nodes)
        ]

    def collected(self, y: State, outputs: Sequence[State]) -> list[State]:
        """The states at the output times, from ``outputs`` of the walk; ``y`` is the first."""
        return [y, *outputs]

    # Settings before, and records after a solve ------------------------------------------------------------------

    def error_control(self) -> ErrorControl | None:
        """The tolerances and settings that decide the steps; None where the steps are given."""
        return None

    def backward_segments(self) -> Segments:
        """The given steps from each output time back to the one before it; none where steps are found."""
        return Segments([], False)

    @property
    def crosses_jump(self) -> bool:
        """Whether the walk has taken a step that ends where f jumps."""
        return False

    def detect(self, detector: EventDetector, beyond: bool) -> None:
        """End at an event; ``beyond`` the last time too, where steps are found."""
        raise SchemenetError("event: these steps are not searched for events; use grid=adaptive")

    def use_compiled(self, graphs: CompiledSolve) -> None:
        """Take steps by compiled graphs."""
        raise SchemenetError("compile=True needs grid=adaptive without norm and jump_t, and numbers as tolerances")

    def keep_interpolants(self) -> None:
        """Keep what a dense solution needs of each step."""
        raise SchemenetError("dense solutions need grid=adaptive")

    def interpolant(self, unpack: Callable[[State], Any]) -> Interpolant:
        """The states between the ends of the steps, given up by the loop; ``unpack`` makes them the user's."""
        raise SchemenetError("dense solutions need grid=adaptive")

    def statistics(self) -> Statistics:
        """Counts, times and sizes of the steps."""
        return Statistics(self.forward, self.backward, [node.t for node in self.nodes], [node.h for node in self.nodes])
