"""Loops and grids whose steps are given, and the states between the ends of a step."""

from __future__ import annotations

import abc
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar, Literal

from schemes.core.interpolation import hermite
from schemes.core.node import Node
from schemes.core.scheme import Scheme
from schemes.core.state import State, VectorField, lerp
from schemes.errors import SchemenetError
from schemes.integration.events import EventDetector
from schemes.integration.grid import Grid
from schemes.integration.loop import Carry, FieldOwner, Loop, LoopResult, Segments, StepCallback
from schemes.integration.one_sided import one_sided
from schemes.integration.step_size_controller import NEAR

Interpolation = Literal["cubic", "linear"]
TOLERANCE = 1e-9
"""How near, in steps, an output time must be to the end of a step to be taken for it."""


@dataclass
class FixedStepLoop(Loop):
    """The loop over given steps, with the states at output times.

    ``output_fractions`` are the output times in each step, as fractions of it; 1 is its very end. Between the ends of a
    step the state is the cubic through both with their slopes (two more evaluations of f), or the straight line. A
    multistep scheme restarts where the step size changes. With ``perturb`` f is evaluated strictly inside a
    step, never at its end points, where it may jump. A ``detector`` ends the loop at its event; ``callback`` is called
    before each step.
    """

    interpolation: Interpolation = "cubic"
    perturb: bool = False
    detector: EventDetector | None = None
    callback: StepCallback | None = None

    def advance(self, node: Node, carry: Carry, f: VectorField) -> LoopResult:
        if self.scheme.multistep and self._changes(node.step):
            carry = (carry[0], self.scheme.init_state(carry[0]))
        f = one_sided(f, node, self.perturb, self.perturb)
        taken = super().advance(node, carry, f)
        interpolate = self._between(node, carry[0], taken.carry[0], f)
        if self.detector is not None and self.detector.time is None:
            self._end_at_event(node, carry[0], taken.carry[0], f)
        return taken._replace(outputs=tuple(map(interpolate, self.output_fractions[node.step])))

    def walk(self, carry: Carry, f: VectorField) -> Iterator[tuple[Node, Carry, LoopResult]]:
        for node in self.nodes:
            if self.callback is not None:
                self.callback("callback_step", node.t, carry[0], node.h)
            taken = self.advance(node, carry, f)
            yield node, carry, taken
            if self.detector is not None and self.detector.time is not None:
                return
            carry = taken.carry

    def _end_at_event(self, node: Node, y0: State, y1: State, f: VectorField) -> None:
        """Where the event lies in this step, it is the last one, and ends with it."""
        assert self.detector is not None
        if (theta := self.detector.locate(node, y0, y1, self._between(node, y0, y1, f))) is not None:
            self.nodes = self.nodes[: node.step + 1]
            passed = (before for before in self.output_fractions[node.step] if before <= theta + NEAR)
            self.output_fractions = [*self.output_fractions[: node.step], (*passed, theta)]

    def _changes(self, step: int) -> bool:
        h, before = self.nodes[step].h, self.nodes[max(0, step - 1)].h
        return abs(h - before) > TOLERANCE * abs(h)

    def _between(self, node: Node, y0: State, y1: State, f: VectorField) -> Callable[[float], State]:
        """The state as a function of the fraction of a step; f is called at its first use."""
        slopes: list[State] = []

        def interpolate(theta: float) -> State:
            if theta == 1:
                return y1
            if self.interpolation == "linear":
                return lerp(y0, y1, theta)
            if not slopes:
                start, end = node._replace(stage=-1), Node(node.step, node.t + node.h, node.h, stage=-2)
                slopes.extend((self._slope(f, start, y0), self._slope(f, end, y1)))
            return hermite(theta, node.h, y0, y1, *slopes)

        return interpolate

    def _slope(self, f: VectorField, node: Node, y: State) -> State:
        """f, each component of a pair driven by the other one."""
        if self.scheme.components == 1:
            return f(node, y)
        return f(node._replace(component=0), y[1]), f(node._replace(component=1), y[0])

    def output_times(self) -> list[float]:
        inner = zip(self.nodes, self.output_fractions, strict=True)
        return [
            self.nodes[0].t,
            *(node.t + theta * node.h for node, output_fractions in inner for theta in output_fractions),
        ]

    def backward_segments(self) -> Segments:
        forward = segments(self.nodes, self.output_fractions)
        backward = ([Node(i, node.t + node.h, -node.h) for i, node in enumerate(reversed(nodes))] for nodes in forward)
        return Segments(list(backward), self.perturb)

    def detect(self, detector: EventDetector, beyond: bool) -> None:
        self.detector = detector


def nodes_at(times: Sequence[float]) -> list[Node]:
    """The steps from each of these times to the next."""
    return [Node(i, a, b - a) for i, (a, b) in enumerate(pairwise(times))]


def output_fractions_of(nodes: Sequence[Node], times: Sequence[float]) -> list[tuple[float, ...]]:
    """For each step the output times in it, but for the first one (the start), as fractions of it."""
    fractions: list[list[float]] = [[] for _ in nodes]
    step = 0
    for t in times[1:]:
        while step + 1 < len(nodes) and (t - nodes[step].t) / nodes[step].h > 1 + TOLERANCE:
            step += 1
        theta = (t - nodes[step].t) / nodes[step].h
        fractions[step].append(1.0 if abs(theta - 1) <= TOLERANCE else theta)
    return list(map(tuple, fractions))


def segments(nodes: Sequence[Node], output_fractions: Sequence[tuple[float, ...]]) -> list[list[Node]]:
    """The steps from each output time to the next, cut where an output time lies inside one. Empty where none is."""
    complete: list[list[Node]] = []
    segment: list[Node] = []
    for node, inner in zip(nodes, output_fractions, strict=True):
        at = 0.0
        for theta in inner:
            if theta > at:
                segment.append(Node(len(segment), node.t + at * node.h, (theta - at) * node.h))
            complete.append(segment)
            segment, at = [], theta
        if at < 1:
            segment.append(Node(len(segment), node.t + at * node.h, (1 - at) * node.h))
    return complete


class FixedGrid(Grid):
    """A grid whose steps follow from the output times.

    Between the ends of a step states are interpolated by ``interpolation``. With ``perturb`` f is evaluated strictly
    inside the steps, never at their end points.
    """

    steps_known: ClassVar[bool] = True
    interpolation: Interpolation
    perturb: bool = False

    @abc.abstractmethod
    def nodes_over(self, times: Sequence[float]) -> Sequence[Node]:
        """The step nodes of an initial value problem with these output times."""

    def ivp_loop(
        self, scheme: Scheme, f: VectorField, owner: FieldOwner, times: Sequence[float], batching: str
    ) -> FixedStepLoop:
        nodes = self.nodes_over(times)
        scheme.allocate(len(nodes))
        return FixedStepLoop(
            scheme, f, nodes, owner, output_fractions=output_fractions_of(nodes, times),
            interpolation=self.interpolation, perturb=self.perturb, callback=owner.step_callback(),
        )  # fmt: skip

    def backward_segments(self, times: Sequence[float]) -> Segments:
        nodes = (() if start == end else self.nodes_over((end, start)) for start, end in pairwise(times))
        return Segments(list(nodes), self.perturb)


class SteppedGrid(FixedGrid):
    """Steps that follow from the output times: from each to the next, unless one of the first two arguments is given.

    Args:
        step_size: size of the steps; the last one is shorter where it does not divide the span.
        times_of: from the output times to the ends of all steps, from the first to the last of them.
        interpolation: between the ends of a step: the cubic through both slopes, or a straight line.
        perturb: whether f is evaluated strictly inside the steps, never at their end points.
    """

    def __init__(
        self,
        step_size: float | None = None,
        times_of: Callable[[Sequence[float]], Sequence[float]] | None = None,
        interpolation: Interpolation = "linear",
        perturb: bool = False,
    ) -> None:
        self.step_size, self.times_of = step_size, times_of
        self.interpolation = interpolation
        self.perturb = perturb

    def nodes_over(self, times: Sequence[float]) -> list[Node]:
        first, last = times[0], times[-1]
        if self.times_of is not None:
            ends = list(self.times_of(times))
            if len(ends) < 2 or ends[0] != first or ends[-1] != last or not _monotone(ends):
                raise SchemenetError(
                    f"the ends of the steps are expected to lead from t = {first:g} to {last:g} one way, got {ends}"
                )
        elif self.step_size is None:
            ends = list(times)
        else:
            if not self.step_size > 0:
                raise SchemenetError(f"step_size expected to be positive, got {self.step_size}")
            h = math.copysign(self.step_size, last - first)
            count = math.ceil((last - first) / h - TOLERANCE)
            ends = [*(first + i * h for i in range(max(count, 1))), last]
        return nodes_at([first, *(b for a, b in pairwise(ends) if a != b)])


def _monotone(times: Sequence[float]) -> bool:
    return all(a <= b for a, b in pairwise(times)) or all(a >= b for a, b in pairwise(times))
