"""Grids whose steps the estimated error decides."""

from __future__ import annotations

import contextlib
import math
import time as clock
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from schemes.base import Attempt, Scheme
from schemes.beside import inside, jumps_at
from schemes.errors import (
    NonFiniteError,
    SchemenetError,
    SolverError,
    StepLimitError,
    StepSizeError,
    TimeLimitError,
)
from schemes.events import Watch
from schemes.loop import Carry, Loop, Pass, Told
from schemes.newton_krylov import NoConvergence
from schemes.node import Node
from schemes.pace import FLOOR, Pace, first_size, refined
from schemes.registry import GRIDS
from schemes.runge_kutta import RungeKutta
from schemes.state import RightHandSide, State, axpy, detached, flatten, in_precision_of

Norm = Callable[[State], Tensor]
FARTHEST = 1e30
"""A step of this size on the way to an event says that there is none."""


@GRIDS.register("adaptive")
class AdaptiveGrid:
    r"""Steps of a size for which a pair of methods estimates an error of at most 1 in the norm

        || e / (atol + rtol max(|y_n|, |y_{n+1}|)) ||,   the root mean square over all entries of the batch

    ``rtol`` and ``atol`` are numbers, or nests of numbers and tensors like the state. ``controller`` is I, PI or PID.
    A network integrates over [0, ``time``], in evaluation with ``eval_rtol`` and ``eval_atol`` where they are given.
    The first step is ``first_step``, or Hairer's guess (one more evaluation of f). No step is longer than
    ``max_step``, and none shorter than ``min_step`` but one that ends at a time at which a step must end: such steps
    are taken whatever their error, and :class:`LeastStepWarning` tells of them. ``step_t`` are times that a step must
    end at, ``jump_t`` such at which f jumps. After ``max_steps`` attempts or ``seconds`` the solve ends with an error
    that says how far it came. ``norm`` replaces the norm: from a state to a number.

    Reference: Hairer, Nørsett, Wanner, "Solving Ordinary Differential Equations I", 2nd ed., Springer 1993, section
    II.4.
    """

    def __init__(
        self,
        rtol: object = 1e-3,
        atol: object = 1e-3,
        time: float = 1.0,
        eval_rtol: float | None = None,
        eval_atol: float | None = None,
        controller: Literal["I", "PI", "PID"] = "I",
        first_step: float | None = None,
        min_step: float = 0.0,
        max_step: float | None = None,
        max_steps: int = 10_000,
        seconds: float | None = None,
        safety: float = 0.9,
        shrink: float = 0.2,
        growth: float = 10.0,
        step_t: Sequence[float] = (),
        jump_t: Sequence[float] = (),
        norm: Callable | None = None,
    ) -> None:
        numbers = {
            "rtol": rtol, "atol": atol, "time": time, "eval_rtol": eval_rtol, "eval_atol": eval_atol,
            "first_step": first_step, "max_step": max_step, "seconds": seconds,
        }  # fmt: skip
        wrong = [
            f"{key} expected to be {'positive' if key not in TOLERANCES else 'at least 0'}, got {value}"
            for key, value in numbers.items()
            if isinstance(value, int | float) and not (value > 0 or (value == 0 and key in TOLERANCES))
        ]
        wrong += [
            f"{key} expected to be a number, got {value!r}"
            for key, value in {"rtol": rtol, "atol": atol}.items()
            if isinstance(value, str | None)
        ]
        if all(isinstance(tolerance, int | float) and tolerance == 0 for tolerance in (rtol, atol)):
            wrong.append("rtol and atol cannot both be 0: no error would be small enough")
        if max_steps < 1:
            wrong.append(f"max_steps expected to be at least 1, got {max_steps}")
        if not 0 <= min_step <= (math.inf if max_step is None else max_step):
            wrong.append(f"min_step expected to be at least 0 and at most max_step={max_step}, got {min_step}")
        if not 0 < safety <= 1 or not 0 < shrink < 1 or not growth > 1:
            wrong.append(
                f"expected 0 < safety <= 1, 0 < shrink < 1 and growth > 1, got safety={safety}, shrink={shrink}, "
                f"growth={growth}"
            )
        if wrong:
            raise SchemenetError("\n".join(f"grid 'adaptive': {line}" for line in wrong))
        self.rtol, self.atol, self.time = rtol, atol, time
        self.eval_rtol, self.eval_atol = eval_rtol, eval_atol
        self.controller, self.safety, self.shrink, self.growth = controller, safety, shrink, growth
        self.first_step, self.min_step, self.max_step = first_step, min_step, max_step
        self.max_steps, self.seconds, self.norm = max_steps, seconds, norm
        self.step_t, self.jump_t = tuple(step_t), tuple(jump_t)

    def refuses(self, scheme: Scheme) -> str | None:
        """Why a scheme cannot be stepped on this grid; None where it can."""
        if scheme.error_order is None:
            return (
                f"grid 'adaptive' needs a scheme that estimates its errors, and {type(scheme).__name__} does not; use "
                "dopri5, tsit5 or bosh3, or grid=uniform"
            )
        return None

    def nodes(self, steps: int) -> tuple[Node, ...]:
        """None are known before the solve of a flow, whose state is one tensor."""
        for key, value in (("rtol", self.rtol), ("atol", self.atol)):
            if not isinstance(value, int | float):
                raise SchemenetError(f"grid 'adaptive': {key} of a network expected to be a number, got {value!r}")
        return ()

    def visits(self, scheme: Scheme, nodes: Sequence[Node]) -> tuple[Node, ...]:
        """One node a component stands for all times: weights and statistics cannot belong to any of them."""
        return tuple(Node(0, 0.0, self.time, component=component) for component in range(scheme.components))

    def loop(
        self, scheme: Scheme, f: Any, nodes: Sequence[Node], module: nn.Module, training: bool, **options: Any
    ) -> Search:
        """What a flow hands to its gradient mode."""
        rtol, atol = self.tolerances(training)
        return Search(
            scheme, InPrecisionOfState(f), [], module, grid=self, times=(0.0, self.time), rtol=rtol, atol=atol,
            **options,
        )  # fmt: skip

    def tolerances(self, training: bool) -> tuple[Any, Any]:
        """rtol and atol in training, or in evaluation."""
        if training:
            return self.rtol, self.atol
        return (
            self.rtol if self.eval_rtol is None else self.eval_rtol,
            self.atol if self.eval_atol is None else self.eval_atol,
        )

    def described(self, nodes: Sequence[Node]) -> tuple[str, str]:
        """Number and size of the steps in words."""
        return "adaptive", f"rtol {self.rtol}, atol {self.atol}"


class ToleranceWarning(UserWarning):
    """The tolerance asked for is finer than the state's precision resolves."""


def warn_of_tolerance(rtol: Any, atol: Any, dtype: torch.dtype, stacklevel: int = 3) -> None:
    """Tell a caller whose tolerances are below ten units in the last place."""
    if dtype not in (torch.float32, torch.float64, torch.complex64, torch.complex128):
        return  # no precision to solve in
    least = 10 * torch.finfo(dtype).eps
    if isinstance(rtol, int | float) and isinstance(atol, int | float) and max(rtol, atol) < least:
        warnings.warn(
            f"rtol={rtol:g} and atol={atol:g} are below what {dtype} resolves (about {least:.1g}); use float64 or "
            "larger tolerances",
            ToleranceWarning,
            stacklevel=stacklevel,
        )


class LeastStepWarning(UserWarning):
    """Steps of the size ``min_step`` were taken although their errors were larger than the tolerance."""


def warn_of_least_steps(paces: Sequence[Pace]) -> None:
    """Tell a caller whose ``min_step`` did not let the tolerance be met."""
    missed = [ratio for pace in paces for ratio in pace.missed]
    if missed:
        warnings.warn(
            f"{len(missed)} of {sum(len(pace.steps) for pace in paces)} steps were taken with an estimated error above "
            f"the tolerance, up to {max(missed):.2g} times it, because none may be smaller than "
            f"min_step={paces[0].grid.min_step:g}; take a smaller one, or a larger tolerance",
            LeastStepWarning,
            stacklevel=2,
        )


class InPrecisionOfState:
    """f, its value in the precision of the state: under autocast it computes in a lower one."""

    def __init__(self, f: Any) -> None:
        self.f = f

    def __call__(self, node: Node, y: State) -> State:
        return in_precision_of(y, self.f(node, y))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.f, name)


TOLERANCES = ("rtol", "atol", "eval_rtol", "eval_atol")


@dataclass
class Search(Loop):
    """Finds the steps from ``times[0]`` to ``times[-1]``, either way in time, and the states at all ``times``.

    After ``walk`` its ``nodes`` are the accepted steps, ``thetas`` the output times in each of them (fractions of the
    step, 1 its very end), ``h`` the size that a next step would have, and ``keep``, where it is a list, has the
    attempts that were accepted. After the steps in ``forgotten`` nobody asks for the slope that a pair knows: f jumps
    there, or the solve ends. ``capture``, where there is one, makes attempts by one graph (``schemes.captured``). A
    ``watch`` ends the solve, and ``times``, at its event; ``tell`` hears of every attempt.
    """

    grid: AdaptiveGrid = field(default_factory=AdaptiveGrid)
    times: Sequence[float] = (0.0, 1.0)
    rtol: Any = 1e-3
    atol: Any = 1e-3
    h: float | None = None
    keep: list[Attempt] | None = None
    forgotten: set[int] = field(default_factory=set)
    capture: Callable[..., tuple[Attempt, Tensor]] | None = None
    watch: Watch | None = None
    tell: Told | None = None

    def advance(self, node: Node, carry: Carry, f: RightHandSide) -> Pass:
        f, thetas = self._beside_jumps(f, node), self.thetas[node.step]
        alone = node.step in self.forgotten and all(theta == 1 for theta in thetas)
        if alone and self.capture is None and isinstance(self.scheme, RungeKutta):
            y = self.scheme.finish(f, node, *carry)
            return Pass((y, ()), (y,) * len(thetas))
        if self.capture is not None:
            return self._passed(node, self.capture(node, *carry, (self.rtol, self.atol))[0])
        return self._passed(node, self.scheme.attempt(f, node, *carry))

    def recorded(self, replay: Any) -> RightHandSide:
        return self.f  # draws no random numbers and leaves nothing in buffers: see ``schemes.equation``

    def _passed(self, node: Node, attempt: Attempt) -> Pass:
        states = tuple(attempt.y if theta == 1 else attempt.between(theta) for theta in self.thetas[node.step])
        return Pass((attempt.y, () if node.step in self.forgotten else attempt.memory), states)

    def walk(self, carry: Carry, f: RightHandSide) -> Iterator[tuple[Node, Carry, Pass]]:
        passed: list[State] = []
        try:
            for step in self._steps(carry, f):
                passed += map(detached, step[2].outputs)
                yield step
        except SolverError as error:
            error.partial = tuple(passed)
            raise

    def _steps(self, carry: Carry, f: RightHandSide) -> Iterator[tuple[Node, Carry, Pass]]:
        scheme = self.scheme
        stops = self.times if scheme.steps_end_at_outputs else ()
        pace = Pace(self.grid, scheme.error_order or 1, self.times, self.h, stops)
        self.nodes = found = list[Node]()
        scheme.tolerate(self.rtol, self.atol)
        memory, began = carry[1], clock.monotonic()
        if pace.h is None:
            if self.grid.first_step is None and not memory and scheme.begins_with_slope:
                starts = inside(f, Node(0, pace.t, pace.end - pace.t), pace.t in self.grid.jump_t, False)
                memory = (starts(Node(0, pace.t, 0.0), carry[0]),)
            pace.begin(self._first_step(f, carry[0], memory))
        while not pace.arrived:
            node = Node(len(found), pace.t, pace.proposal())
            self._told("callback_step", node, carry[0])
            attempt, ratio = self._attempt(f, node, carry[0], memory)
            if attempt is not None and pace.judge(node.h, ratio):
                self._told("callback_accept_step", node, carry[0])
                self._look(node, carry[0], attempt, pace)
                found.append(node)
                self.thetas.append(pace.thetas)
                self.forward.accepted += 1
                self.h = pace.h
                if self.keep is not None:
                    self.keep.append(attempt)
                if pace.jumped or (pace.arrived and isinstance(scheme, RungeKutta)):
                    self.forgotten.add(node.step)
                taken = self._passed(node, attempt)
                yield node, carry, taken
                carry = taken.carry
                memory = carry[1]
            else:
                if attempt is None:
                    pace.judge(node.h, math.nan)
                self.forward.rejected += 1
                self._told("callback_reject_step", node, carry[0])
                if pace.too_small(node.h):
                    raise self._too_small(pace, carry[0], f, ratio)
            if not pace.arrived:
                self._check_limits(pace, began)
        warn_of_least_steps([pace])

    def _attempt(
        self, f: RightHandSide, node: Node, y: State, memory: tuple[State, ...]
    ) -> tuple[Attempt | None, float]:
        """A step with the ratio of its error to the tolerance; none, and no number, where its equations have none."""
        if self.capture is not None:
            attempt, square = self.capture(node, y, memory, (self.rtol, self.atol))
            return attempt, math.sqrt(float(square.detach()))
        try:
            attempt = self.scheme.attempt(self._beside_jumps(f, node), node, y, memory)
        except NoConvergence:
            return None, math.nan
        return attempt, self.ratio(y, attempt)

    def _look(self, node: Node, y: State, attempt: Attempt, pace: Pace) -> None:
        """Where the event lies in this step, the solve ends with it."""
        if self.watch is not None and (theta := self.watch.within(node, y, attempt.y, attempt.between)) is not None:
            pace.end_with(theta)
            self.times = pace.times

    def _beside_jumps(self, f: RightHandSide, node: Node) -> RightHandSide:
        """f, seen from within the step where it jumps at an end of it."""
        if not self.grid.jump_t:
            return f
        return inside(f, node, *jumps_at(node.t, node.h, self.grid.jump_t))

    def _told(self, what: str, node: Node, y: State) -> None:
        if self.tell is not None:
            self.tell(what, node.t, y, node.h)

    def ratio(self, y: State, attempt: Attempt) -> float:
        """The estimated error in units of the tolerance. The one number that is read from the device each step."""
        with torch.no_grad() if torch.is_grad_enabled() else contextlib.nullcontext():
            return self._size(attempt.error(), y, attempt.y)

    def _size(self, amount: State, *known: State) -> float:
        """The norm of ``amount`` over atol + rtol max(|y|) of these states; a number, without any derivative."""
        amount, *states = map(detached, (amount, *known))  # forward-mode ones as well
        if isinstance(amount, Tensor):
            return self._read(amount / self._scale(0, states))
        parts = zip(*(flatten(state)[0] for state in (amount, *states)), strict=True)
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
        if self.grid.norm is not None:
            return float(self.grid.norm(scaled))
        return root_mean_square(parts)

    def _first_step(self, f: RightHandSide, y: State, memory: tuple[State, ...]) -> float:
        """The size of the first step, by one more evaluation of f."""
        first, last = self.times[0], self.times[-1]
        span = abs(last - first)
        if flatten(y)[0][0].is_meta:
            return span
        if self.grid.first_step is not None:
            return self.grid.first_step
        slope = memory[0] if memory and self.scheme.begins_with_slope else f(Node(0, first, 0.0), y)
        with torch.no_grad():
            d0, d1 = self._size(y, y), self._size(slope, y)
            if not math.isfinite(d1):
                raise self._not_finite(first, slope)
            h0 = first_size(d0, d1, span)
            signed = math.copysign(h0, last - first)
            ahead = f(Node(0, first + signed, 0.0, trial=True), axpy(y, slope, signed))
            return refined(h0, d1, self._size(axpy(ahead, slope, -1), y), self.scheme.error_order or 1, span)

    # What ends a solve ---------------------------------------------------------------------------------------

    def _check_limits(self, pace: Pace, began: float) -> None:
        if math.isinf(pace.end) and abs(pace.h or 0.0) > FARTHEST:
            raise SolverError(
                f"event: there is none up to t = {pace.t:.3g}, and nothing changes any more (the next step would be "
                f"{pace.h:.3g} long); end the solve by a last time instead, or mend the event function"
            )
        late = self.grid.seconds is not None and clock.monotonic() - began > self.grid.seconds
        if pace.attempts < self.grid.max_steps and not late:
            return
        told = (
            f"is reached at t = {pace.t:.6g} of [{pace.times[0]:.6g}, {pace.end:.6g}], the next step "
            f"{abs(pace.h or 0):.3g}, after {pace.attempts} steps ({pace.work.rejected} rejected) and "
            f"{self.forward.calls} evaluations of f; the equation may be stiff (try an implicit scheme), or the "
            "tolerances too small for the order"
        )
        if late:
            raise TimeLimitError(f"the time limit seconds={self.grid.seconds:g} {told}")
        raise StepLimitError(f"the step limit max_steps={self.grid.max_steps} {told}")

    def _too_small(self, pace: Pace, y: State, f: RightHandSide, ratio: float) -> SolverError:
        """Why no step from here was small enough: f is no number here or just behind, or something else."""
        tiny = pace.direction * max(4e3 * FLOOR * max(abs(pace.t), pace.scale), self.grid.min_step)
        with torch.no_grad():
            slope = f(Node(0, pace.t, 0.0, trial=True), y)
            behind = f(Node(0, pace.t + tiny, 0.0, trial=True), axpy(y, slope, tiny))
        for time, value in ((pace.t, slope), (pace.t + tiny, behind)):
            if not math.isfinite(ratio) and not all(bool(torch.isfinite(v).all()) for v in flatten(value)[0]):
                return self._not_finite(time, value)
        largest = max(float(part.detach().abs().max()) for part in flatten(y)[0] if part.numel())
        return StepSizeError(
            f"the step size fell to {abs(pace.h or 0):.2g} at t = {pace.t:.9g} of [{pace.times[0]:.6g}, "
            f"{pace.end:.6g}] and the error is still too large: the solution (largest entry {largest:.3g}) may "
            "blow up there, f may jump (give jump_t), or the tolerances are below what its precision resolves "
            "(min_step lets them be missed)"
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
