"""The adaptive loop in which each sample of a batch has steps of its own."""

from __future__ import annotations

import contextlib
import time as clock
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple, Protocol

import torch
from torch import Tensor

from schemes.core.evaluation_counts import Statistics
from schemes.core.interpolation import Interpolant
from schemes.core.node import Node
from schemes.core.scheme import StepResult
from schemes.core.state import (
    State,
    VectorField,
    along,
    axpy,
    detached,
    flatten,
    rows_at,
    rows_of,
    rows_where,
    unflatten,
)
from schemes.errors import SchemenetError, SolverError
from schemes.integration.adaptive_loop import AdaptiveLoop, warn_of_least_steps
from schemes.integration.compiled_loop import CompiledSolve
from schemes.integration.compiled_step import NotCompiledWarning
from schemes.integration.loop import Carry, Loop, LoopResult
from schemes.integration.one_sided import limits_of_rows
from schemes.integration.row_controller import RowController, first_sizes, refined_sizes


class RowOutputs(Protocol):
    """States of some rows at output times, which a step gives.

    Attributes:
        samples: the rows in the whole batch, one entry for each state.
        time_index: of their output times; a number where it is one for all.
    """

    @property
    def samples(self) -> Tensor: ...

    @property
    def time_index(self) -> Tensor | int: ...

    def states(self, attempt: StepResult) -> State: ...


class Inside(NamedTuple):
    """States of the rows ``rows``, each at a fraction theta of its step."""

    samples: Tensor
    time_index: Tensor
    rows: Tensor
    theta: Tensor

    def states(self, attempt: StepResult) -> State:
        ends = rows_at(self.rows, attempt.y)
        if attempt.interpolate_rows is None:  # steps end at output times
            return ends
        return rows_where(self.theta == 1, ends, attempt.interpolate_rows(self.rows, self.theta))


class Ends(NamedTuple):
    """States of the rows ``rows``, or of all, at the end of a step, which is their last output time."""

    samples: Tensor
    time_index: int
    rows: Tensor | None

    def states(self, attempt: StepResult) -> State:
        return attempt.y if self.rows is None else rows_at(self.rows, attempt.y)


@dataclass
class PerSampleLoop(AdaptiveLoop):
    """As :class:`schemes.integration.adaptive_loop.AdaptiveLoop`, every row of the batch at its own pace.

    All rows are attempted together, with times and step sizes of shape (batch,); a row whose attempt was rejected, or
    that has arrived, stays where it is, which is a step of size zero: so the recorded nodes, taken again, give the same
    states. f must act on each row alone. ``controller`` has the times and step sizes of all rows; ``output_fractions``
    are :class:`RowOutputs`. ``limits`` are, for each step with a row that begins or ends where f jumps, the least and
    the greatest times (batch,) at which f may be evaluated. For a row of no length f gets the time and state of another
    row, a stand-in.

    Where fewer than half of the rows have not arrived, the others are left out: ``rows_kept`` are, by the step after
    which that was, the rows that go on. ``leaves_out`` says whether it is done: not where tolerances or f are for
    these very rows, nor with a compiled step, of which each number of rows would need another one.
    """

    rows_share_times: ClassVar[bool] = False

    controller: RowController | None = None
    limits: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)
    rows_kept: dict[int, Tensor] = field(default_factory=dict)
    stand_ins: Tensor | None = None
    leaves_out: bool = False

    def _steps(self, carry: Carry, f: VectorField) -> Iterator[tuple[Node, Carry, LoopResult]]:
        like = flatten(carry[0])[0][0]
        times = torch.tensor(self.times, dtype=torch.float64, device=like.device).expand(len(like), -1)
        scheme, nodes, began = self.scheme, list[Node](), clock.monotonic()
        controller = RowController(self.settings, scheme.error_order or 1, times, scheme.steps_end_at_outputs)
        self.controller, self.nodes = controller, nodes
        self.leaves_out = self.compiled is None and not any(
            isinstance(t, Tensor | list) for t in (self.rtol, self.atol)
        )
        scheme.set_tolerances(self.rtol, self.atol)
        solver_state: tuple[State, ...] = (self._begin(f, carry[0], controller),)
        while controller.left:
            size, left = controller.proposal(), controller.left
            t, h = controller.signed(controller.t), controller.signed(size)
            node = Node(len(nodes), t.to(like.real.dtype), h.to(like.real.dtype))
            before = self.forward.evaluations
            self._note_limits(node, t, h)
            rates = self._inside_jumps(f, node)
            solver_state = solver_state or (rates(node, carry[0]),)
            attempt, ratios = self._attempt_of_rows(rates, node, carry[0], solver_state)
            taken, accepted = controller.judge(size, ratios, self.forward.evaluations - before)
            self.forward.accepted += accepted
            self.forward.rejected += left - accepted
            if accepted < left:
                self._raise_where_too_small(f, carry[0], size, taken, ratios)
            if accepted:
                if accepted < left:
                    node = node._replace(h=torch.where(taken, node.h, 0.0))
                if accepted < left and torch.is_grad_enabled():  # what was rejected must not be part of the graph
                    attempt = self._attempt_again(rates, node, carry)
                elif accepted < len(taken) and not torch.is_grad_enabled():
                    y, *slopes = rows_where(taken, (attempt.y, *attempt.solver_state), (carry[0], *solver_state))
                    attempt = attempt._replace(y=y, solver_state=tuple(slopes))
                nodes.append(node)
                if controller.jumped:
                    self.slope_dropped_after.add(node.step)
                self._note_outputs(node, taken, f, attempt)
                result = self._loop_result(node, attempt)
                yield node, carry, result
                carry = result.carry
                solver_state = carry[1]
            if controller.left:
                self._check_rows(controller, began)
        warn_of_least_steps(controller.missed, self.forward.accepted, self.settings.min_step)

    def _begin(self, f: VectorField, y: State, controller: RowController) -> State:
        """Choose the first step sizes; the slope at the start."""
        moving = controller.span > 0
        if controller.arrived:
            place = torch.arange(len(moving), device=moving.device)
            self.stand_ins = torch.where(moving, place, moving.nonzero()[0])
        t, dtype = controller.signed(controller.t), flatten(y)[0][0].real.dtype
        node = Node(0, t.to(dtype), 0.0)  # a time for each row
        jumps = torch.isin(t, t.new_tensor(self.settings.jump_t))
        self._note_limits(node, t, controller.signed(controller.span) * jumps)
        slope = self._inside_jumps(f, node)(node, y)
        with torch.no_grad():
            if self.settings.first_step is not None:
                sizes = torch.full_like(controller.span, self.settings.first_step)
            else:
                d0, d1 = self._sizes(y, y), self._sizes(slope, y)
                if len(bad := (moving & ~torch.isfinite(d1)).nonzero()):
                    row = int(bad[0])
                    value = rows_at(bad[:1, 0], slope)
                    raise _of_sample(row, self._not_finite(float(t[row]), value))
                h0 = first_sizes(d0, d1, controller.span)
                signed = controller.signed(h0).to(dtype)
                rates = self._inside_jumps(f, node._replace(step=-1))
                ahead = rates(Node(0, node.t + signed, 0.0, trial=True), axpy(y, slope, signed))
                change = self._sizes(axpy(ahead, slope, -1), y)
                sizes = refined_sizes(h0, d1, change, controller.order, controller.span)
        controller.begin(sizes, self.forward.evaluations)
        return slope

    def _note_limits(self, node: Node, t: Tensor, h: Tensor) -> None:
        """The times at which f may be evaluated in the steps of sizes h, if it jumps at an end of one of them."""
        self.limits.pop(node.step, None)
        if self.settings.jump_t and (bounds := limits_of_rows(node.t.dtype, t, h, self.settings.jump_t)) is not None:
            self.limits[node.step] = bounds

    def _inside_jumps(self, f: VectorField, node: Node) -> VectorField:
        time_limits, rows = self.limits.get(node.step), self.stand_ins
        if rows is not None and len(rows) != len(node.t):
            rows = None  # only rows that move are left
        if time_limits is None and rows is None:
            return f

        def rates(node: Node, y: State) -> State:
            t = node.t if time_limits is None else torch.clamp(node.t, *time_limits)
            return f(node._replace(t=t), y) if rows is None else f(node._replace(t=t[rows]), rows_at(rows, y))

        return rates

    def advance(self, node: Node, carry: Carry, f: VectorField) -> LoopResult:
        return self._loop_result(node, self._attempt_again(self._inside_jumps(f, node), node, carry))

    def _attempt_of_rows(
        self, f: VectorField, node: Node, y: State, solver_state: tuple[State, ...]
    ) -> tuple[StepResult, Tensor]:
        """A step with the error ratio of each row."""
        if self.compiled is not None:
            attempt, squares = self.compiled.attempt(node, y, solver_state, (self.rtol, self.atol))
            return attempt, squares.detach().sqrt().double()
        attempt = self.scheme.attempt(f, node, y, solver_state)
        return attempt, self.ratios(y, attempt)

    def _attempt_again(self, f: VectorField, node: Node, carry: Carry) -> StepResult:
        if self.compiled is not None:
            return self.compiled.attempt(node, *carry, (self.rtol, self.atol))[0]
        return self.scheme.attempt(f, node, *carry)

    def _loop_result(self, node: Node, attempt: StepResult) -> LoopResult:
        states = tuple(outputs.states(attempt) for outputs in self.output_fractions[node.step])
        carry = attempt.y, () if node.step in self.slope_dropped_after else attempt.solver_state
        return LoopResult(rows_at(self.rows_kept[node.step], carry) if node.step in self.rows_kept else carry, states)

    def _note_outputs(self, node: Node, taken: Tensor, f: VectorField, attempt: StepResult) -> None:
        """What states at output times a step gives, and which rows go on after it."""
        controller, places = self._controller, list[RowOutputs]()
        if (passed := controller.passed(taken)) is not None:
            places.append(Inside(passed.samples, passed.time_index, passed.rows, passed.theta))
        going = controller.t != controller.end
        if not controller.left or self._can_leave_out(going, f, attempt):
            arrived = ((controller.span > 0) & ~going).nonzero().squeeze(1)
            every = len(arrived) == len(going)
            samples = controller.samples[arrived]
            places.append(Ends(samples, controller.times.shape[1] - 1, None if every else arrived))
            if controller.left:
                self.rows_kept[node.step] = going.nonzero().squeeze(1)
                controller.keep(self.rows_kept[node.step])
        self.output_fractions.append(tuple(places))

    def _can_leave_out(self, going: Tensor, f: VectorField, attempt: StepResult) -> bool:
        """Whether so few rows are going on that the others are left out, and f at those is what it is at all.

        It may have arguments that belong to the rows. Where it does not take fewer of them this is not tried again.
        """
        controller = self._controller
        if not self.leaves_out or controller.jumped or 2 * controller.left >= len(going):
            return False
        rows = going.nonzero().squeeze(1)
        y, slope = (rows_at(rows, detached(state)) for state in (attempt.y, attempt.solver_state[0]))
        t = controller.signed(controller.t)[rows].to(flatten(y)[0][0].real.dtype)
        with torch.no_grad():
            try:
                alone = flatten(detached(f(Node(0, t, 0.0, trial=True), y)))[0]
            except Exception:  # of any kind: the number of rows is not what the user's f expects
                alone = []
        together = flatten(slope)[0]
        self.leaves_out = len(alone) == len(together) and all(map(_same, alone, together))
        return self.leaves_out

    def collected(self, y: State, outputs: Sequence[State]) -> list[State]:
        """The states at the output times, from those of the steps; ``y`` is the first."""
        leaves, shape = flatten(y)
        batch, count = self._controller.batch, self._controller.times.shape[1]
        source = torch.arange(batch, device=leaves[0].device).repeat(count, 1)
        first = batch
        for place in (place for places in self.output_fractions for place in places):
            size = len(place.samples)
            source[place.time_index, place.samples] = torch.arange(first, first + size, device=source.device)
            first += size
        parts = zip(leaves, *(flatten(state)[0] for state in outputs), strict=True)
        tables = [torch.cat(part).index_select(0, source.flatten()).unflatten(0, (count, batch)) for part in parts]
        return rows_of(unflatten(tables, shape))

    def _is_captured(self, compiled: CompiledSolve, y: State) -> bool:
        return False  # its steps are, each for all rows

    def use_compiled(self, graphs: CompiledSolve) -> None:
        super().use_compiled(graphs)
        if any(isinstance(row, Sequence) and row[0] == row[-1] for row in self.times):
            message = "compile=True: a sample is over no time, and others stand in for it; steps run uncompiled"
            warnings.warn(message, NotCompiledWarning, stacklevel=2)
            self.compiled = None

    def interpolant(self, unpack: Callable[[State], Any]) -> Interpolant:
        return Loop.interpolant(self, unpack)  # refuses

    def statistics(self) -> Statistics:
        return Statistics(self.forward, self.backward, *self._controller.by_sample())

    @property
    def _controller(self) -> RowController:
        assert self.controller is not None
        return self.controller

    def ratios(self, y: State, attempt: StepResult) -> Tensor:
        """The error ratio of each row."""
        with torch.no_grad() if torch.is_grad_enabled() else contextlib.nullcontext():
            return self._sizes(attempt.error(), y, attempt.y)

    def _sizes(self, amount: State, *states: State) -> Tensor:
        """The norm of each row of ``amount`` over atol + rtol max(|y|) of these states, in double precision."""
        norms, count = list[Tensor](), 0
        parts = zip(*(flatten(detached(state))[0] for state in (amount, *states)), strict=True)
        for i, (part, *entries) in enumerate(parts):
            scaled = (part / self._scale(i, entries)).unsqueeze(-1).flatten(1)
            count += scaled.shape[1]
            norms.append(torch.linalg.vector_norm(scaled, dim=1).double())
        norm = norms[0] if len(norms) == 1 else torch.linalg.vector_norm(torch.stack(norms), dim=0)
        return norm / count**0.5

    # What stops a solve ----------------------------------------------------------------------------------------

    def _raise_where_too_small(self, f: VectorField, y: State, size: Tensor, taken: Tensor, ratios: Tensor) -> None:
        """Raise for the first row whose step was rejected and can become no smaller."""
        controller = self._controller
        if (row := controller.too_small(size, taken)) is not None:
            rates = _row_of(f, row, len(taken))
            error = self._too_small(controller.of_row(row), y, rates, float(ratios[row]))
            raise _of_sample(int(controller.samples[row]), error)

    def _check_rows(self, controller: RowController, began: float) -> None:
        """Check the limits of the solve: all rows that have not arrived have made as many attempts."""
        if controller.rounds >= self.settings.max_steps or self.settings.seconds is not None:
            row = int((controller.t != controller.end).nonzero()[0])
            try:
                self._check_limits(controller.of_row(row), began)
            except SolverError as error:
                raise _of_sample(int(controller.samples[row]), error) from None


def _same(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors are the same but for rounding."""
    if a.shape != b.shape:
        return False
    least = torch.finfo(b.dtype).eps ** 0.5 * float(b.abs().max())
    return bool(((a - b).abs() <= least).all())


def _of_sample(sample: int, error: SchemenetError) -> SchemenetError:
    return type(error)(f"sample {sample}: {error}")


def _row_of(f: VectorField, row: int, batch: int) -> VectorField:
    """f at one time for all rows, its value that of one row and zero elsewhere."""

    def value(node: Node, y: State) -> State:
        leaves, shape = flatten(y)
        t = torch.full((batch,), node.t, dtype=leaves[0].real.dtype, device=leaves[0].device)
        values = flatten(f(node._replace(t=t), y))[0]
        only = torch.arange(batch, device=t.device) == row
        return unflatten([torch.where(along(only, leaf), leaf, 0) for leaf in values], shape)

    return value
