"""The loop that finds its steps: each is accepted or rejected by its estimated error."""

from __future__ import annotations

import contextlib
import math
import time as clock
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from schemes.core.evaluation_counts import count_calls
from schemes.core.interpolation import Interpolant
from schemes.core.node import Node
from schemes.core.scheme import StepResult
from schemes.core.state import State, VectorField, axpy, detached, flatten, in_precision_of, rows_of
from schemes.errors import NonFiniteError, SolverError, StepLimitError, StepSizeError, TimeLimitError
from schemes.integration.compiled_loop import Chunk, CompiledSolve, Limits, begun
from schemes.integration.events import EventDetector
from schemes.integration.loop import Carry, Loop, LoopResult, Recorder, StepCallback
from schemes.integration.one_sided import jumps_at, one_sided
from schemes.integration.step_size_controller import (
    FLOOR,
    ErrorControl,
    StepSizeController,
    StepSizeSettings,
    first_size,
    refined,
)
from schemes.nonlinear.newton_krylov import NoConvergence

FARTHEST = 1e30
"""A step of this size on the way to an event says that there is none."""


class LeastStepWarning(UserWarning):
    """Steps of the size ``min_step`` were taken although their errors were larger than the tolerance."""


def warn_of_least_steps(missed: Sequence[float], steps: int, min_step: float) -> None:
    """Warn a caller whose ``min_step`` did not let the tolerance be met.

    Args:
        missed: the error ratios of the steps that were taken nevertheless.
        steps: how many were taken in all.
        min_step: the least size.
    """
    if missed:
        warnings.warn(
            f"{len(missed)} of {steps} steps were taken with an estimated error above the tolerance, up to "
            f"{max(missed):.2g} times it, because none may be smaller than min_step={min_step:g}; take a smaller one, "
            "or a larger tolerance",
            LeastStepWarning,
            stacklevel=2,
        )


class InPrecisionOfState:
    """f, its value in the precision of the state: under autocast it computes in a lower one."""

    def __init__(self, f: VectorField) -> None:
        self.f = f

    def __call__(self, node: Node, y: State) -> State:
        return in_precision_of(y, self.f(node, y))


@dataclass
class AdaptiveLoop(Loop):
    """Finds the steps from ``times[0]`` to ``times[-1]``, either way in time, and the states at all ``times``.

    After ``walk`` its ``nodes`` are the accepted steps, ``output_fractions`` the output times in each of them
    (fractions of the step, 1 its very end), ``h`` the size that a next step would have, and ``kept``, where it is a
    list, has the accepted results. After the steps whose indices are in ``slope_dropped_after`` the slope at their end
    (first same as last) is not used again: f jumps there, or the solve ends. ``compiled``, where there is one, takes
    steps by graphs (``schemes.integration.compiled_loop``). A ``detector`` ends the solve, and ``times``,
    at its event; ``callback`` is called at every attempt.
    """

    steps_known: ClassVar[bool] = False

    settings: StepSizeSettings = field(default_factory=StepSizeSettings)
    times: Sequence[float] = (0.0, 1.0)
    rtol: Any = 1e-3
    atol: Any = 1e-3
    h: float | None = None
    kept: list[StepResult] | None = None
    slope_dropped_after: set[int] = field(default_factory=set)
    compiled: CompiledSolve | None = None
    detector: EventDetector | None = None
    callback: StepCallback | None = None

    def advance(self, node: Node, carry: Carry, f: VectorField) -> LoopResult:
        f, output_fractions = self._inside_jumps(f, node), self.output_fractions[node.step]
        alone = node.step in self.slope_dropped_after and all(theta == 1 for theta in output_fractions)
        if alone and self.compiled is None:
            y = self.scheme.finish(f, node, *carry)
            return LoopResult((y, ()), (y,) * len(output_fractions))
        if self.compiled is not None:
            return self._loop_result(node, self.compiled.attempt(node, *carry, (self.rtol, self.atol))[0])
        return self._loop_result(node, self.scheme.attempt(f, node, *carry))

    def recorded(self, recorder: Recorder) -> VectorField:
        return self.f  # draws no random numbers and leaves nothing in buffers: see ``schemes.ivp.right_hand_side``

    def _loop_result(self, node: Node, attempt: StepResult) -> LoopResult:
        fractions = self.output_fractions[node.step]
        inside = [theta for theta in fractions if theta != 1]
        if attempt.interpolate_all is None or len(inside) < 2:
            between: Sequence[State] = list(map(attempt.interpolate, inside))
        else:
            theta = torch.tensor(inside, dtype=torch.float64, device=flatten(attempt.y)[0][0].device)
            between = rows_of(attempt.interpolate_all(theta))
        states = (*between, *[attempt.y] * (len(fractions) - len(inside)))
        return LoopResult((attempt.y, () if node.step in self.slope_dropped_after else attempt.solver_state), states)

    def run(self, carry: Carry) -> LoopResult:
        if self.compiled is None or not self._is_captured(self.compiled, carry[0]) or len(self.times) > 2:
            return super().run(carry)
        y = carry[0]
        for chunk in self._chunks(self.compiled, carry, records=False):
            y = chunk.y
            if not self.compiled.loop.captured:
                return super().run((y, (chunk.slope,)))
        return LoopResult((y, ()), (y,))

    def _is_captured(self, compiled: CompiledSolve, y: State) -> bool:
        """Whether the whole loop is one graph: without derivatives, and nothing looks on."""
        leaves = flatten(y)[0]
        plain = self.detector is None and self.callback is None and self.kept is None and not self.settings.step_t
        here = all(leaf.device.type == "cpu" and leaf.dtype in (torch.float32, torch.float64) for leaf in leaves)
        one_kind = len({leaf.dtype for leaf in leaves}) == 1 and all(map(math.isfinite, self.times))
        graph = compiled.loop.captured and self.scheme.fsal and not torch.is_grad_enabled()
        return graph and plain and here and one_kind and not self.scheme.steps_end_at_outputs

    def _chunks(self, compiled: CompiledSolve, carry: Carry, records: bool) -> Iterator[Chunk]:
        """All steps by one graph, which the host looks at now and then.

        Where it cannot be made the only chunk has no steps, and the loop continues from its state and ``h``.
        """
        began = clock.monotonic()
        controller, solver_state = self._begun(carry, self.f)
        y = carry[0]
        slope = solver_state[0] if solver_state else self.f(Node(0, controller.t, 0.0), y)
        while not controller.arrived:
            now = begun(controller.t, controller.h or 0.0, controller.latest_ratios)
            chunk = compiled.loop.run(
                now, y, slope, self._limits(controller), (self.rtol, self.atol), self.settings,
                compiled.arguments(), records,
            )  # fmt: skip
            if chunk is None:
                self.h = controller.h
                yield Chunk(now, y, slope, [], ())
                return
            y, slope = chunk.y, chunk.slope
            self._take_over(compiled.evaluations, controller, chunk)
            yield chunk
            if chunk.progress.failed:
                raise self._too_small(controller, y, self.f, chunk.progress.ratio)
            if not controller.arrived:
                self._check_limits(controller, began)
        warn_of_least_steps(controller.missed, len(controller.steps), self.settings.min_step)

    def _limits(self, controller: StepSizeController) -> Limits:
        """What bounds the next steps of the graph."""
        settings = self.settings
        most = math.inf if settings.max_step is None else settings.max_step
        left = settings.max_steps - controller.attempts
        return Limits(controller.end, controller.scale, settings.min_step, most, left)

    def _take_over(self, evaluations: int, controller: StepSizeController, chunk: Chunk) -> None:
        """Record what the graph has done."""
        progress, accepted = chunk.progress, len(chunk.steps)
        attempts = accepted + int(progress.rejected)
        self.output_fractions += controller.take_over(
            progress.t, progress.h, (progress.latest, progress.earlier), chunk.steps, int(progress.rejected),
            [progress.largest] * int(progress.missed),
        )  # fmt: skip
        self.nodes = [*self.nodes, *(Node(len(self.nodes) + i, t, h) for i, (t, h) in enumerate(chunk.steps))]
        self.h = controller.h
        if controller.arrived:
            self.slope_dropped_after.add(len(self.nodes) - 1)
        self.forward.accepted += accepted
        self.forward.rejected += int(progress.rejected)
        count_calls(attempts * evaluations)

    def _captured_steps(self, compiled: CompiledSolve, carry: Carry) -> Iterator[tuple[Node, Carry, LoopResult]]:
        """The steps of :meth:`walk` by one graph."""
        for chunk in self._chunks(compiled, carry, records=True):
            if not compiled.loop.captured:
                for node, before, taken in self._steps((chunk.y, (chunk.slope,)), self.f):
                    yield node, before if node.step else carry, taken
                return
            nodes = self.nodes[len(self.nodes) - len(chunk.steps) :]
            outputs = iter(compiled.outputs(chunk, [self.output_fractions[node.step] for node in nodes]))
            before, *slopes = (rows_of(state) for state in chunk.record) if nodes else ([], [])
            after = [*before[1:], chunk.y]
            for i, node in enumerate(nodes):
                dropped = node.step in self.slope_dropped_after
                last: Carry = after[i], () if dropped else (slopes[-1][i],)
                states = tuple(
                    after[i] if theta == 1 else state
                    for theta, state in zip(self.output_fractions[node.step], outputs, strict=False)
                )
                yield node, (before[i], (slopes[0][i],)) if node.step else carry, LoopResult(last, states)

    def walk(self, carry: Carry, f: VectorField) -> Iterator[tuple[Node, Carry, LoopResult]]:
        states: list[State] = []
        try:
            captured = self.compiled is not None and self._is_captured(self.compiled, carry[0])
            steps = self._captured_steps(self.compiled, carry) if captured and self.compiled else self._steps(carry, f)
            for step in steps:
                states += map(detached, step[2].outputs)
                yield step
        except SolverError as error:
            error.partial = tuple(states)
            raise

    def _steps(self, carry: Carry, f: VectorField) -> Iterator[tuple[Node, Carry, LoopResult]]:
        scheme, nodes, began = self.scheme, list[Node](), clock.monotonic()
        self.nodes = nodes
        controller, solver_state = self._begun(carry, f)
        while not controller.arrived:
            node = Node(len(nodes), controller.t, controller.proposal())
            self._notify("callback_step", node, carry[0])
            attempt, ratio = self._attempt(f, node, carry[0], solver_state)
            if attempt is not None and controller.judge(node.h, ratio):
                self._notify("callback_accept_step", node, carry[0])
                self._end_at_event(node, carry[0], attempt, controller)
                nodes.append(node)
                self.output_fractions.append(controller.output_fractions)
                self.forward.accepted += 1
                self.h = controller.h
                if self.kept is not None:
                    self.kept.append(attempt)
                if controller.jumped or (controller.arrived and scheme.fsal):
                    self.slope_dropped_after.add(node.step)
                taken = self._loop_result(node, attempt)
                yield node, carry, taken
                carry = taken.carry
                solver_state = carry[1]
            else:
                if attempt is None:
                    controller.judge(node.h, math.nan)
                self.forward.rejected += 1
                self._notify("callback_reject_step", node, carry[0])
                if controller.too_small(node.h):
                    raise self._too_small(controller, carry[0], f, ratio)
            if not controller.arrived:
                self._check_limits(controller, began)
        warn_of_least_steps(controller.missed, len(controller.steps), self.settings.min_step)

    def _begun(self, carry: Carry, f: VectorField) -> tuple[StepSizeController, tuple[State, ...]]:
        """The controller before the first step, and the solver state there."""
        scheme, solver_state = self.scheme, carry[1]
        stops = self.times if scheme.steps_end_at_outputs else ()
        controller = StepSizeController(self.settings, scheme.error_order or 1, self.times, self.h, stops)
        scheme.set_tolerances(self.rtol, self.atol)
        if controller.h is None:
            if self.settings.first_step is None and not solver_state and scheme.fsal:
                starts = one_sided(
                    f, Node(0, controller.t, controller.end - controller.t), controller.t in self.settings.jump_t, False
                )
                solver_state = (starts(Node(0, controller.t, 0.0), carry[0]),)
            controller.begin(self._first_step(f, carry[0], solver_state))
        return controller, solver_state

    def _attempt(
        self, f: VectorField, node: Node, y: State, solver_state: tuple[State, ...]
    ) -> tuple[StepResult | None, float]:
        """A step with the ratio of its error to the tolerance; none, and no number, where its equations have none."""
        if self.compiled is not None:
            attempt, square = self.compiled.attempt(node, y, solver_state, (self.rtol, self.atol))
            return attempt, math.sqrt(float(square.detach()))
        try:
            attempt = self.scheme.attempt(self._inside_jumps(f, node), node, y, solver_state)
        except NoConvergence:
            return None, math.nan
        return attempt, self.ratio(y, attempt)

    def _end_at_event(self, node: Node, y: State, attempt: StepResult, controller: StepSizeController) -> None:
        """Where the event lies in this step, the solve ends with it."""
        if self.detector is None:
            return
        if (theta := self.detector.locate(node, y, attempt.y, attempt.interpolate)) is not None:
            controller.end_with(theta)
            self.times = controller.times

    def _inside_jumps(self, f: VectorField, node: Node) -> VectorField:
        """f, seen from within the step where it jumps at an end of it."""
        if not self.settings.jump_t:
            return f
        return one_sided(f, node, *jumps_at(node.t, node.h, self.settings.jump_t))

    def _notify(self, event: str, node: Node, y: State) -> None:
        if self.callback is not None:
            self.callback(event, node.t, y, node.h)

    def ratio(self, y: State, attempt: StepResult) -> float:
        """The estimated error in units of the tolerance. The one number that is read from the device each step."""
        with torch.no_grad() if torch.is_grad_enabled() else contextlib.nullcontext():
            return self._size(attempt.error(), y, attempt.y)

    def _size(self, amount: State, *states: State) -> float:
        """The norm of ``amount`` over atol + rtol max(|y|) of these states; a number, without any derivative."""
        amount, *rest = map(detached, (amount, *states))  # forward-mode derivatives as well
        if isinstance(amount, Tensor):
            return self._read(amount / self._scale(0, rest))
        parts = zip(*(flatten(state)[0] for state in (amount, *rest)), strict=True)
        return self._read(tuple(part / self._scale(i, entries) for i, (part, *entries) in enumerate(parts)))

    def _scale(self, i: int, entries: Sequence[Tensor]) -> Tensor:
        """atol + rtol max(|y|), entry by entry, for the i-th tensor of the state."""
        rtol, atol = (tol[i] if isinstance(tol, list | tuple) else tol for tol in (self.rtol, self.atol))
        size = entries[0].abs()
        for other in entries[1:]:
            torch.maximum(size, other.abs(), out=size)
        return size.mul_(rtol).add_(atol)

    def _read(self, scaled: Tensor | tuple[Tensor, ...]) -> float:
        parts = (scaled,) if isinstance(scaled, Tensor) else scaled
        if parts[0].is_meta:  # no numbers: one step stands for all of them
            return 0.0
        if self.settings.norm is not None:
            return float(self.settings.norm(scaled))
        return root_mean_square(parts)

    def _first_step(self, f: VectorField, y: State, solver_state: tuple[State, ...]) -> float:
        """The size of the first step, by one more evaluation of f."""
        first, last = self.times[0], self.times[-1]
        span = abs(last - first)
        if flatten(y)[0][0].is_meta:
            return span
        if self.settings.first_step is not None:
            return self.settings.first_step
        slope = solver_state[0] if solver_state and self.scheme.fsal else f(Node(0, first, 0.0), y)
        with torch.no_grad():
            d0, d1 = self._size(y, y), self._size(slope, y)
            if not math.isfinite(d1):
                raise self._not_finite(first, slope)
            h0 = first_size(d0, d1, span)
            signed = math.copysign(h0, last - first)
            ahead = f(Node(0, first + signed, 0.0, trial=True), axpy(y, slope, signed))
            return refined(h0, d1, self._size(axpy(ahead, slope, -1), y), self.scheme.error_order or 1, span)

    # Settings before, and records after a solve ----------------------------------------------------------------

    def output_times(self) -> list[float]:
        return list(self.times)

    def error_control(self) -> ErrorControl:
        return ErrorControl(self.settings, self.rtol, self.atol)

    @property
    def crosses_jump(self) -> bool:
        return bool(self.slope_dropped_after)

    def detect(self, detector: EventDetector, beyond: bool) -> None:
        self.detector = detector
        if beyond:
            self.times = (self.times[0], math.copysign(math.inf, self.times[-1] - self.times[0]))

    def use_compiled(self, graphs: CompiledSolve) -> None:
        numbers = all(isinstance(tolerance, int | float) for tolerance in (self.rtol, self.atol))
        if not numbers or self.settings.norm is not None or self.settings.jump_t:
            super().use_compiled(graphs)  # refuses
        self.compiled = graphs

    def keep_interpolants(self) -> None:
        self.kept = []

    def interpolant(self, unpack: Callable[[State], Any]) -> Interpolant:
        starts, sizes = [node.t for node in self.nodes], [node.h for node in self.nodes]
        end = self.nodes[-1].t + self.nodes[-1].h if math.isinf(self.times[-1]) else self.times[-1]
        interpolants = [attempt.interpolate for attempt in self.kept or ()]
        self.kept = None
        return Interpolant(starts, end, interpolants, sizes, unpack)

    # What stops a solve ----------------------------------------------------------------------------------------

    def _check_limits(self, controller: StepSizeController, began: float) -> None:
        if math.isinf(controller.end) and abs(controller.h or 0.0) > FARTHEST:
            raise SolverError(
                f"event: there is none up to t = {controller.t:.3g}, and nothing changes any more (the next step would "
                f"be {controller.h:.3g} long); end the solve by a last time instead, or mend the event function"
            )
        late = self.settings.seconds is not None and clock.monotonic() - began > self.settings.seconds
        if controller.attempts < self.settings.max_steps and not late:
            return
        progress = (
            f"is reached at t = {controller.t:.6g} of [{controller.times[0]:.6g}, {controller.end:.6g}], the next "
            f"step {abs(controller.h or 0):.3g}, after {controller.attempts} steps ({controller.counts.rejected} "
            f"rejected) and {self.forward.evaluations} evaluations of f; the equation may be stiff (try an implicit "
            "scheme), or the tolerances too small for the order"
        )
        if late:
            raise TimeLimitError(f"the time limit seconds={self.settings.seconds:g} {progress}")
        raise StepLimitError(f"the step limit max_steps={self.settings.max_steps} {progress}")

    def _too_small(self, controller: StepSizeController, y: State, f: VectorField, ratio: float) -> SolverError:
        """Why no step from here was small enough: f is no number here or just behind, or something else."""
        tiny = controller.direction * max(
            4e3 * FLOOR * max(abs(controller.t), controller.scale), self.settings.min_step
        )
        with torch.no_grad():
            slope = f(Node(0, controller.t, 0.0, trial=True), y)
            behind = f(Node(0, controller.t + tiny, 0.0, trial=True), axpy(y, slope, tiny))
        for time, value in ((controller.t, slope), (controller.t + tiny, behind)):
            if not math.isfinite(ratio) and not all(bool(torch.isfinite(v).all()) for v in flatten(value)[0]):
                return self._not_finite(time, value)
        largest = max(float(part.detach().abs().max()) for part in flatten(y)[0] if part.numel())
        return StepSizeError(
            f"the step size fell to {abs(controller.h or 0):.2g} at t = {controller.t:.9g} of "
            f"[{controller.times[0]:.6g}, {controller.end:.6g}] and the error is still too large: the solution "
            f"(largest entry {largest:.3g}) may blow up there, f may jump (give jump_t), "
            "or the tolerances are below what its precision resolves (min_step lets them be missed)"
        )

    def _not_finite(self, t: float, value: State) -> NonFiniteError:
        parts = flatten(value)[0]
        bad = sum(int((~torch.isfinite(part.detach())).sum()) for part in parts)
        return NonFiniteError(
            f"f returned {bad} entries that are NaN or infinite, of {sum(p.numel() for p in parts)}, at t = {t:.6g}; "
            "smaller steps did not avoid them"
        )


def root_mean_square(parts: Sequence[Tensor]) -> float:
    """Over all entries of all tensors; one read from the device."""
    norms = [torch.linalg.vector_norm(part) for part in parts]
    total = norms[0] if len(norms) == 1 else torch.linalg.vector_norm(torch.stack(norms))
    return float(total) / math.sqrt(max(1, sum(part.numel() for part in parts)))
