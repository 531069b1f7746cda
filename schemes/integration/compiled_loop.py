"""Compiled loop: the whole adaptive solve of a pair as one graph, with its step size controller in it.

A ``torch.while_loop`` whose body is one attempt. The host reads the outcome once every :data:`CHUNK` accepted steps, so
that the sizes of all steps are known afterwards and limits on a solve hold.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from types import MethodType
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._higher_order_ops.while_loop import while_loop

from schemes.core.node import Node
from schemes.core.scheme import Scheme, StepResult
from schemes.core.state import State, flatten, unflatten
from schemes.errors import SchemenetError
from schemes.integration.compiled_step import (
    CompiledStep,
    NotCompiledWarning,
    Rate,
    forget_graphs_at_exit,
    refusal,
    with_separate_code,
)
from schemes.integration.step_size_controller import COEFFICIENTS, FLOOR, NOT_FINITE, StepSizeSettings

CHUNK = 256
"""Accepted steps after which the host looks."""


class Progress(NamedTuple):
    """Where a solve is: numbers on the host, tensors without dimensions in double precision in the graph.

    Attributes:
        t: the time.
        h: the signed size of the next step.
        latest: error ratio of the last accepted step.
        earlier: of the one before it.
        accepted: steps of this chunk.
        rejected: attempts of this chunk.
        missed: accepted steps whose error was too large, because none may be smaller.
        largest: error ratio among those.
        ratio: of the last attempt.
        tried: signed size of the last attempt.
        failed: whether no step is small enough, so that the loop has stopped.
    """

    t: Any
    h: Any
    latest: Any
    earlier: Any
    accepted: Any
    rejected: Any
    missed: Any
    largest: Any
    ratio: Any
    tried: Any
    failed: Any


class Limits(NamedTuple):
    """What bounds the steps: numbers on the host, tensors in the graph, so that one graph serves all."""

    end: Any
    scale: Any
    min_step: Any
    max_step: Any
    attempts: Any


def begun(t: float, h: float, ratios: tuple[float, float]) -> Progress:
    """The progress at the beginning of a chunk."""
    return Progress(t, h, *ratios, accepted=0, rejected=0, missed=0, largest=0.0, ratio=0.0, tried=0.0, failed=0)


class CompiledLoop:
    """Solves of one scheme on one f by the same graph.

    Args:
        step: whose attempts these are.
        order: h^order is how the error estimate of one step falls.

    Attributes:
        captured: whether torch.compile takes the loop, as far as is known.
    """

    def __init__(self, step: CompiledStep, order: int) -> None:
        self.step, self.order = step, order
        self.captured = True
        self._graph: Callable[..., Any] | None = None

    def run(
        self,
        progress: Progress,
        y: State,
        slope: State,
        limits: Limits,
        tolerances: tuple[float, float],
        settings: StepSizeSettings,
        args: tuple[Any, ...],
    ) -> tuple[Progress, State, State, Tensor] | None:
        """Up to :data:`CHUNK` accepted steps.

        Args:
            progress: where the solve is; its counts begin anew.
            y: the state there.
            slope: f there.
            limits: of the steps.
            tolerances: rtol and atol.
            settings: whose controller, safety, shrink and growth are constants of the graph.
            args: further arguments of f.

        Returns:
            Progress, state and slope at the end, and t and h of the accepted steps, (CHUNK, 2). None where
            torch.compile cannot make the graph.
        """
        graph = self._graph = self._graph or self._compiled()
        leaves, shape = flatten((y, slope))
        constants = settings.controller, settings.safety, settings.shrink, settings.growth
        like = leaves[0]
        limit = [torch.full((), tolerance, dtype=like.dtype, device=like.device) for tolerance in tolerances]
        try:
            begin, bounds = (torch.tensor(numbers, dtype=torch.float64) for numbers in (progress, limits))
            end, leaves, steps = graph(begin, leaves, bounds, tuple(limit), args, shape, constants)
        except RuntimeError as error:
            message = f"compile=True: the loop is not captured ({refusal(error)}); its steps are, one by one"
            warnings.warn(message, NotCompiledWarning, stacklevel=2)
            self.captured = False
            return None
        following, slope = unflatten(leaves, shape)
        return Progress(*end.tolist()), following, slope, steps

    def _compiled(self) -> Callable[..., Any]:
        loop, backend = MethodType(with_separate_code(CompiledLoop._loop), self), self.step.backend
        options: Any = {"cpp_wrapper": True} if backend == "inductor" else None  # the loop itself in C++
        forget_graphs_at_exit()
        return torch.compile(loop, dynamic=False, fullgraph=True, backend=backend, options=options)

    def _loop(
        self,
        progress: Tensor,
        leaves: list[Tensor],
        bounds: Tensor,
        tolerances: tuple[Tensor, Tensor],
        args: tuple[Any, ...],
        shape: Any,
        constants: tuple[str, float, float, float],
    ) -> tuple[Tensor, list[Tensor], Tensor]:
        steps = torch.zeros(CHUNK, 2, dtype=torch.float64)

        def continues(progress: Tensor, *_: Tensor) -> Tensor:
            now, limits = Progress(*progress.unbind()), Limits(*bounds.unbind())
            attempts = now.accepted + now.rejected
            return (now.t != limits.end) & (now.failed == 0) & (now.accepted < CHUNK) & (attempts < limits.attempts)

        def attempt(progress: Tensor, *carried: Tensor) -> tuple[Tensor, ...]:
            now, limits = Progress(*progress.unbind()), Limits(*bounds.unbind())
            before, steps = carried[:-1], carried[-1]
            y, slope = unflatten(list(before), shape)
            h, is_last = proposed(now, limits)
            real = before[0].dtype
            following, square, *k = self.step.step(now.t.to(real), h.to(real), y, (slope,), tolerances, args)
            after = flatten((following, k[-1]))[0]
            then, taken = judged(now, h, is_last, square.sqrt().double(), limits, constants, self.order)
            row = (torch.arange(CHUNK) == now.accepted) & taken
            steps = torch.where(row.unsqueeze(1), torch.stack((now.t, h)), steps)
            chosen = [torch.where(taken, new, old) for new, old in zip(after, before, strict=True)]
            place, packed = torch.arange(len(then)), torch.zeros_like(progress)
            for i, field in enumerate(then):  # one kernel; a stack would be one for each field
                packed = torch.where(place == i, field, packed)
            return (packed, *chosen, steps)

        progress, *leaves, steps = while_loop(continues, attempt, (progress, *leaves, steps))
        return progress, leaves, steps


class CompiledSolve(NamedTuple):
    """The compiled graphs of one solve, with the arguments that f has in it.

    Attributes:
        loop: the graphs.
        arguments: gives the further arguments of f.
    """

    loop: CompiledLoop
    arguments: Callable[[], tuple[Any, ...]]

    @property
    def evaluations(self) -> int:
        """Of f in one attempt, whose first slope is known."""
        return len(self.loop.step.scheme.tableau.all_rows) - 1

    def attempt(
        self, node: Node, y: State, solver_state: tuple[State, ...], tolerances: tuple[Any, Any]
    ) -> tuple[StepResult, Tensor]:
        """The attempt after a node, and the mean square of its error in units of (rtol, atol)."""
        return self.loop.step.attempt(node, y, solver_state, tolerances, self.arguments())


class _Graphs(dict[Any, CompiledLoop]):
    """What is known of a function lives with it, and is no part of its copies."""

    def __deepcopy__(self, memo: Any) -> _Graphs:
        return _Graphs()

    def __reduce__(self) -> Any:
        return _Graphs, ()


def compiled_loop(scheme: Scheme, f: Any, rate: Rate, backend: str = "inductor", form: str = "") -> CompiledLoop:
    """The compiled graphs of a scheme on f: those of an earlier solve of a state of this ``form``, if any."""
    if (pair := scheme.explicit_pair) is None:
        raise SchemenetError(f"compile=True captures the steps of explicit pairs, not of {type(scheme).__name__}")
    owner, name = getattr(f, "__self__", f), getattr(f, "__name__", "")
    existing = vars(owner).setdefault("_captured_steps", _Graphs()) if hasattr(owner, "__dict__") else _Graphs()
    graphs = CompiledLoop(CompiledStep(pair, rate, backend), scheme.error_order or 1)
    return existing.setdefault((type(scheme), name, backend, form), graphs)


def proposed(now: Progress, limits: Limits) -> tuple[Tensor, Tensor]:
    """Signed size of the next step, and whether it is cut to arrive: as ``StepSizeController.proposal``."""
    left = limits.end - now.t
    size = torch.minimum(now.h.abs(), limits.max_step)
    is_last = size * (1 + 1e-6) >= left.abs()
    return torch.where(is_last, left, torch.copysign(size, left)), is_last


def judged(
    now: Progress,
    h: Tensor,
    is_last: Tensor,
    ratio: Tensor,
    limits: Limits,
    constants: tuple[str, float, float, float],
    order: int,
) -> tuple[Progress, Tensor]:
    """The progress after an attempt, and whether it was accepted: as ``StepSizeController.judge``."""
    controller, safety, shrink, growth = constants
    p, i, d = COEFFICIENTS[controller]
    finite = ratio.isfinite()
    positive = ratio.clamp_min(1e-300)
    rejected = (safety * positive ** (-1 / order)).clamp(shrink, growth)
    accepted = safety * positive ** (-(p + i + d) / order)
    if controller == "I":
        accepted = accepted.clamp(1.0, growth)
    else:
        accepted = accepted * now.latest ** ((p + 2 * d) / order) * now.earlier ** (-d / order)
        accepted = accepted.clamp(shrink, growth)
    factor = torch.where(ratio == 0, growth, torch.where(ratio > 1, rejected, accepted))
    factor = torch.where(finite, factor, NOT_FINITE)
    good = ratio <= 1
    least = finite & (h.abs() <= limits.min_step)
    taken = good | least
    size = torch.maximum(h.abs() * factor, limits.min_step)
    uncut = torch.where(is_last & good, now.h.abs(), 0.0)
    size = torch.where(taken, torch.maximum(size, uncut), size)
    hopeless = (size < FLOOR * torch.maximum(now.t.abs(), limits.scale)) | (h.abs() <= limits.min_step)
    missed = taken & ~good
    following = Progress(
        t=torch.where(taken, torch.where(is_last, limits.end, now.t + h), now.t),
        h=torch.copysign(size, h),
        latest=torch.where(good, ratio.clamp_min(1e-10), now.latest),
        earlier=torch.where(good, now.latest, now.earlier),
        accepted=now.accepted + taken,
        rejected=now.rejected + ~taken,
        missed=now.missed + missed,
        largest=torch.where(missed, torch.maximum(ratio, now.largest), now.largest),
        ratio=ratio,
        tried=h,
        failed=~taken & hopeless,
    )
    return following, taken
