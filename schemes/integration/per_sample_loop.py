"""The adaptive loop in which each sample of a batch has steps of its own."""

from __future__ import annotations

import math
import time as clock
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from schemes.core.evaluation_counts import Statistics
from schemes.core.interpolation import Interpolant
from schemes.core.node import Node
from schemes.core.scheme import StepResult
from schemes.core.state import State, VectorField, along, axpy, detached, flatten, rows_where, unflatten
from schemes.errors import SchemenetError, SolverError
from schemes.integration.adaptive_loop import AdaptiveLoop, warn_of_least_steps
from schemes.integration.compiled_loop import CompiledSolve
from schemes.integration.loop import Carry, Loop, LoopResult
from schemes.integration.one_sided import jumps_at, limits
from schemes.integration.step_size_controller import StepSizeController, first_size, refined


@dataclass
class PerSampleLoop(AdaptiveLoop):
    """As :class:`schemes.integration.adaptive_loop.AdaptiveLoop`, every row of the batch at its own pace.

    All rows are attempted together, with times and step sizes of shape (batch,); a row whose attempt was rejected, or
    that has arrived, stays where it is, which is a step of size zero: so the recorded nodes, taken again, give the same
    states. f must act on each row alone. ``controllers`` have the times and step sizes of each sample;
    ``output_fractions`` are tensors (batch,), one for each round of output times within a step, ``places`` the rows and
    output times that they are for. ``limits`` are, for each step with a row that begins or ends where f jumps, the
    least and the greatest times (batch,) at which f may be evaluated. For a row of no length f gets the time and state
    of another row, a stand-in.
    """

    rows_share_times: ClassVar[bool] = False

    controllers: list[StepSizeController] = field(default_factory=list)
    places: list[tuple[list[int], list[int]]] = field(default_factory=list)
    limits: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)
    stand_ins: Tensor | None = None

    def _steps(self, carry: Carry, f: VectorField) -> Iterator[tuple[Node, Carry, LoopResult]]:
        like = flatten(carry[0])[0][0]
        batch = like.shape[0]
        rows: Any = self.times if isinstance(self.times[0], Sequence) else [self.times] * batch
        order = self.scheme.error_order or 1
        self.controllers = [StepSizeController(self.settings, order, times) for times in rows]
        self.nodes = nodes = list[Node]()
        began = clock.monotonic()
        self._find_stand_ins(like)
        t = self._numbers([controller.t for controller in self.controllers], like)
        node = Node(0, t, 0.0)  # a time for each row
        self._note_limits(
            node,
            [
                (controller.end - controller.t) * (controller.t in self.settings.jump_t)
                for controller in self.controllers
            ],
            like,
        )
        slope = self._inside_jumps(f, node)(node, carry[0])
        self._begin(self._inside_jumps(f, node._replace(step=-1)), carry[0], slope, t, like)
        solver_state: tuple[State, ...] = (slope,)
        for controller in self.controllers:
            controller.counts.evaluations = 0 if controller.arrived else self.forward.evaluations
        while any(not controller.arrived for controller in self.controllers):
            sizes = [0.0 if controller.arrived else controller.proposal() for controller in self.controllers]
            t, h = (
                self._numbers(numbers, like) for numbers in ([controller.t for controller in self.controllers], sizes)
            )
            node = Node(len(nodes), t, h)
            before = self.forward.evaluations
            self._note_limits(node, sizes, like)
            rates = self._inside_jumps(f, node)
            solver_state = solver_state or (rates(node, carry[0]),)
            attempt = self.scheme.attempt(rates, node, carry[0], solver_state)
            for controller, size in zip(self.controllers, sizes, strict=True):
                controller.counts.evaluations += (self.forward.evaluations - before) * bool(size)
            ratios = self.ratios(carry[0], attempt)
            taken = [
                bool(size) and controller.judge(size, r)
                for controller, size, r in zip(self.controllers, sizes, ratios, strict=True)
            ]
            self._raise_where_too_small(f, carry[0], sizes, taken, ratios)
            self.forward.accepted += sum(taken)
            self.forward.rejected += sum(map(bool, sizes)) - sum(taken)
            if any(taken):
                if not all(taken):
                    accepted = torch.tensor(taken, device=like.device)
                    node = node._replace(h=torch.where(accepted, h, 0.0))
                    solver_state = (rows_where(accepted, attempt.solver_state[0], solver_state[0]),)
                    if torch.is_grad_enabled():  # what was rejected must not be part of the graph
                        attempt = self.scheme.attempt(rates, node, *carry)
                    else:
                        attempt = attempt._replace(
                            y=rows_where(accepted, attempt.y, carry[0]), solver_state=solver_state
                        )
                nodes.append(node)
                self._note_outputs(taken, like)
                if any(controller.jumped for controller, took in zip(self.controllers, taken, strict=True) if took):
                    self.slope_dropped_after.add(node.step)
                result = self._loop_result(node, attempt)
                yield node, carry, result
                carry = result.carry
                solver_state = carry[1]
            for row, controller in enumerate(self.controllers):
                if not controller.arrived:
                    try:
                        self._check_limits(controller, began)
                    except SolverError as error:
                        raise type(error)(f"sample {row}: {error}") from None
        warn_of_least_steps(self.controllers)

    def _find_stand_ins(self, like: Tensor) -> None:
        """For each row the one at whose time and state f is evaluated: itself, or the first one of any length."""
        moving = [row for row, controller in enumerate(self.controllers) if not controller.arrived]
        if len(moving) < len(self.controllers):
            rows = [moving[0] if controller.arrived else row for row, controller in enumerate(self.controllers)]
            self.stand_ins = torch.tensor(rows, device=like.device)

    def _note_limits(self, node: Node, sizes: Sequence[float], like: Tensor) -> None:
        """The times at which f may be evaluated in the steps of these sizes, if it jumps at an end of one of them."""
        self.limits.pop(node.step, None)
        jumps = [
            jumps_at(controller.t, h, self.settings.jump_t)
            for controller, h in zip(self.controllers, sizes, strict=True)
        ]
        if any(map(any, jumps)):
            bounds = [limits(like.dtype, p.t, h, *at) for p, h, at in zip(self.controllers, sizes, jumps, strict=True)]
            least, greatest = (self._numbers([pair[i] for pair in bounds], like) for i in (0, 1))
            self.limits[node.step] = least, greatest

    def _inside_jumps(self, f: VectorField, node: Node) -> VectorField:
        time_limits, rows = self.limits.get(node.step), self.stand_ins
        if time_limits is None and rows is None:
            return f

        def rates(node: Node, y: State) -> State:
            t = node.t if time_limits is None else torch.clamp(node.t, *time_limits)
            if rows is not None:
                t = t[rows]
                leaves, shape = flatten(y)
                y = unflatten([leaf[rows] for leaf in leaves], shape)
            return f(node._replace(t=t), y)

        return rates

    def _numbers(self, numbers: Sequence[float], like: Tensor) -> Tensor:
        return torch.tensor(numbers, dtype=like.real.dtype, device=like.device)

    def advance(self, node: Node, carry: Carry, f: VectorField) -> LoopResult:
        return self._loop_result(node, self.scheme.attempt(self._inside_jumps(f, node), node, *carry))

    def _loop_result(self, node: Node, attempt: StepResult) -> LoopResult:
        states = tuple(
            rows_where(theta == 1, attempt.y, attempt.interpolate(theta)) for theta in self.output_fractions[node.step]
        )
        return LoopResult((attempt.y, () if node.step in self.slope_dropped_after else attempt.solver_state), states)

    def _note_outputs(self, taken: Sequence[bool], like: Tensor) -> None:
        """The rounds of output times within a step: each row's first, each row's second, ..."""
        output_fractions = [
            controller.output_fractions if took else ()
            for controller, took in zip(self.controllers, taken, strict=True)
        ]
        rounds = []
        for i in range(max(map(len, output_fractions))):
            here = [row for row, fractions in enumerate(output_fractions) if len(fractions) > i]
            rounds.append(self._numbers([part[i] if len(part) > i else 0.0 for part in output_fractions], like))
            times = [self.controllers[row].outputs_done - len(output_fractions[row]) + i for row in here]
            self.places.append((here, times))
        self.output_fractions.append(tuple(rounds))

    def collected(self, y: State, outputs: Sequence[State]) -> list[State]:
        """The states at the output times, from those of the rounds; ``y`` is the first."""
        leaves, shape = flatten(y)
        count = len(self.controllers[0].times)
        tables = [torch.stack([leaf] * count) for leaf in leaves]
        for (rows, times), state in zip(self.places, outputs, strict=True):
            for i, leaf in enumerate(flatten(state)[0]):
                index = torch.tensor(times, device=leaf.device), torch.tensor(rows, device=leaf.device)
                tables[i] = tables[i].index_put(index, leaf[index[1]])
        return [unflatten([table[j] for table in tables], shape) for j in range(count)]

    def use_compiled(self, graphs: CompiledSolve) -> None:
        Loop.use_compiled(self, graphs)  # refuses

    def interpolant(self, unpack: Callable[[State], Any]) -> Interpolant:
        return Loop.interpolant(self, unpack)  # refuses

    def statistics(self) -> Statistics:
        times, sizes = ([[step[i] for step in controller.steps] for controller in self.controllers] for i in (0, 1))
        counts = [controller.counts for controller in self.controllers]
        return Statistics(self.forward, self.backward, times, sizes, counts)

    def ratios(self, y: State, attempt: StepResult) -> list[float]:
        """The error ratio of each row; one read from the device."""
        with torch.no_grad():
            return self._sizes(attempt.error(), y, attempt.y)

    def _sizes(self, amount: State, *states: State) -> list[float]:
        squares: Tensor | None = None
        count = 0
        parts = zip(*(flatten(detached(state))[0] for state in (amount, *states)), strict=True)
        for i, (part, *entries) in enumerate(parts):
            scaled = (part / self._scale(i, entries)).abs().square().unsqueeze(-1).flatten(1)
            count += scaled.shape[1]
            squares = scaled.sum(1) if squares is None else squares + scaled.sum(1)
        assert squares is not None
        return (squares / count).sqrt().tolist()

    def _begin(self, f: VectorField, y: State, slope: State, t: Tensor, like: Tensor) -> None:
        with torch.no_grad():
            if self.settings.first_step is not None:
                sizes = [self.settings.first_step] * len(self.controllers)
            else:
                d0, d1 = self._sizes(y, y), self._sizes(slope, y)
                if bad := [row for row, size in enumerate(d1) if not math.isfinite(size)]:
                    raise self._not_finite_in(bad[0], self.controllers[bad[0]].t, slope)
                spans = [controller.span for controller in self.controllers]
                h0 = [first_size(a, b, s) if s else 0.0 for a, b, s in zip(d0, d1, spans, strict=True)]
                signed = self._numbers(
                    [controller.direction * h for controller, h in zip(self.controllers, h0, strict=True)], like
                )
                ahead = f(Node(0, t + signed, 0.0, trial=True), axpy(y, slope, signed))
                change = self._sizes(axpy(ahead, slope, -1), y)
                order = self.scheme.error_order or 1
                sizes = [
                    refined(h, b, c, order, s) if s else 0.0 for h, b, c, s in zip(h0, d1, change, spans, strict=True)
                ]
        for controller, size in zip(self.controllers, sizes, strict=True):
            if not controller.arrived:
                controller.begin(size)

    def _raise_where_too_small(
        self, f: VectorField, y: State, sizes: Sequence[float], taken: Sequence[bool], ratios: Sequence[float]
    ) -> None:
        """Raise for the first row whose step was rejected and can become no smaller."""
        for row, (controller, size, took) in enumerate(zip(self.controllers, sizes, taken, strict=True)):
            if size and not took and controller.too_small(size):
                error = self._too_small(controller, y, _row_of(f, row, len(self.controllers)), ratios[row])
                raise type(error)(f"sample {row}: {error}")

    def _not_finite_in(self, row: int, t: float, value: State) -> SchemenetError:
        leaves, shape = flatten(value)
        error = self._not_finite(t, unflatten([leaf[row : row + 1] for leaf in leaves], shape))
        return type(error)(f"sample {row}: {error}")


def _row_of(f: VectorField, row: int, batch: int) -> VectorField:
    """f at one time for all rows, its value that of one row and zero elsewhere."""

    def value(node: Node, y: State) -> State:
        leaves, shape = flatten(y)
        t = torch.full((batch,), node.t, dtype=leaves[0].real.dtype, device=leaves[0].device)
        values = flatten(f(node._replace(t=t), y))[0]
        only = torch.arange(batch, device=t.device) == row
        return unflatten([torch.where(along(only, leaf), leaf, 0) for leaf in values], shape)

    return value
