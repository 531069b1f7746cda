"""Compiled loop: the whole adaptive solve of a pair as one graph, with its step size controller in it.

A ``torch.while_loop`` whose body is one attempt. The host reads the outcome once every :data:`CHUNK` accepted steps, so
that the sizes of all steps are known afterwards and limits on a solve hold.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from types import MethodType
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch._higher_order_ops.while_loop import while_loop

from schemes.core.node import Node
from schemes.core.scheme import Scheme, StepResult
from schemes.core.state import State, flatten, rows_at, rows_of, unflatten
from schemes.errors import SchemenetError
from schemes.integration.compiled_step import (
    CompiledStep,
    NotCompiledWarning,
    Rate,
    forget_graphs_at_exit,
    refusal,
    with_separate_code,
)
from schemes.integration.row_controller import next_factors
from schemes.integration.step_size_controller import FLOOR, NOT_FINITE, StepSizeSettings

CHUNK = 256
"""Most accepted steps after which the host looks."""
RECORD = 2**16
"""Most bytes of the states and slopes that a chunk records: each attempt copies them."""


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


class Chunk(NamedTuple):
    """What the graph has done until the host looks.

    Attributes:
        progress: at its end.
        y: the state there.
        slope: f there.
        steps: (t, h) of the accepted steps.
        record: for each of them, where states were asked for, the state before it and its slopes k_1 ... k_s, each a
            state whose tensors have the steps for first dimension.
    """

    progress: Progress
    y: State
    slope: State
    steps: list[tuple[float, float]]
    record: tuple[State, ...]


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
        records: bool,
    ) -> Chunk | None:
        """Some accepted steps.

        Args:
            progress: where the solve is; its counts begin anew.
            y: the state there.
            slope: f there.
            limits: of the steps.
            tolerances: rtol and atol.
            settings: whose controller, safety, shrink and growth are constants of the graph.
            args: further arguments of f.
            records: whether the states and slopes of the steps are kept.

        Returns:
            The steps; None where torch.compile cannot make the graph.
        """
        graph = self._graph = self._graph or self._compiled()
        leaves, shape = flatten((y, slope))
        constants = settings.controller, settings.safety, settings.shrink, settings.growth
        like, rows = leaves[0], self._rows(leaves) if records else 0
        limit = [torch.full((), tolerance, dtype=like.dtype, device=like.device) for tolerance in tolerances]
        try:
            begin, bounds = (torch.tensor(numbers, dtype=torch.float64) for numbers in (progress, limits))
            end, leaves, steps, record = graph(begin, leaves, bounds, tuple(limit), args, shape, constants, rows)
        except RuntimeError as error:
            message = f"compile=True: the loop is not captured ({refusal(error)}); its steps are, one by one"
            warnings.warn(message, NotCompiledWarning, stacklevel=2)
            self.captured = False
            return None
        following, slope = unflatten(leaves, shape)
        done = Progress(*end.tolist())
        states = [unflatten([leaf[: int(done.accepted)] for leaf in state], shape[0]) for state in record]
        return Chunk(done, following, slope, [(t, h) for t, h in steps[: int(done.accepted)].tolist()], tuple(states))

    def _rows(self, leaves: list[Tensor]) -> int:
        """How many steps a record holds."""
        state = sum(leaf.numel() * leaf.element_size() for leaf in leaves) // 2
        step = state * (1 + len(self.step.scheme.tableau.all_rows))
        return min(max(RECORD // max(step, 1), 1), CHUNK)

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
        rows: int,
    ) -> tuple[Tensor, list[Tensor], Tensor, list[list[Tensor]]]:
        count, chunk = len(leaves), rows or CHUNK
        states = [leaf.new_zeros(rows, *leaf.shape) for leaf in leaves[: count // 2]] if rows else []
        record = [state.clone() for _ in range(1 + len(self.step.scheme.tableau.all_rows)) for state in states]
        steps = torch.zeros(chunk, 2, dtype=torch.float64)

        def continues(progress: Tensor, *_: Tensor) -> Tensor:
            now, limits = Progress(*progress.unbind()), Limits(*bounds.unbind())
            attempts = now.accepted + now.rejected
            return (now.t != limits.end) & (now.failed == 0) & (now.accepted < chunk) & (attempts < limits.attempts)

        def attempt(progress: Tensor, *carried: Tensor) -> tuple[Tensor, ...]:
            now, limits = Progress(*progress.unbind()), Limits(*bounds.unbind())
            before, steps, record = carried[:count], carried[count], carried[count + 1 :]
            y, slope = unflatten(list(before), shape)
            h, is_last = proposed(now, limits)
            real = before[0].dtype
            following, square, *k = self.step.step(now.t.to(real), h.to(real), y, (slope,), tolerances, args)
            after = flatten((following, k[-1]))[0]
            then, taken = judged(now, h, is_last, square.sqrt().double(), limits, constants, self.order)
            row = (torch.arange(chunk) == now.accepted) & taken
            steps = torch.where(row.unsqueeze(1), torch.stack((now.t, h)), steps)
            new = flatten((y, *k))[0] if rows else []
            record = [
                torch.where(row.view(-1, *[1] * each.dim()), each.detach(), old)
                for each, old in zip(new, record, strict=True)
            ]
            chosen = [torch.where(taken, new, old) for new, old in zip(after, before, strict=True)]
            place, packed = torch.arange(len(then)), torch.zeros_like(progress)
            for i, field in enumerate(then):  # one kernel; a stack would be one for each field
                packed = torch.where(place == i, field, packed)
            return (packed, *chosen, steps, *record)

        progress, *rest = while_loop(continues, attempt, (progress, *leaves, steps, *record))
        leaves, steps, record = rest[:count], rest[count], rest[count + 1 :]
        width = max(1, len(states))
        return progress, leaves, steps, [record[i : i + width] for i in range(0, len(record), width)]


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

    def outputs(self, chunk: Chunk, fractions: Sequence[Sequence[float]]) -> list[State]:
        """The states at fractions of each step of a recorded chunk, all in one product with the slopes."""
        places = [i for i, each in enumerate(fractions) for _ in each]
        if not places:
            return []
        index = torch.tensor(places)
        before, *slopes = (rows_at(index, state) for state in chunk.record)
        after = rows_at(index, _shifted(chunk.record[0], chunk.y))
        like = flatten(before)[0][0]
        theta = like.new_tensor([theta for each in fractions for theta in each])
        h = like.new_tensor([chunk.steps[i][1] for i in places])
        interpolate: Callable[[Any], State] = self.loop.step.scheme.attempted(h, before, after, slopes).interpolate
        return rows_of(interpolate(theta))

    def attempt(
        self, node: Node, y: State, solver_state: tuple[State, ...], tolerances: tuple[Any, Any]
    ) -> tuple[StepResult, Tensor]:
        """The attempt after a node, and the mean square of its error in units of (rtol, atol)."""
        return self.loop.step.attempt(node, y, solver_state, tolerances, self.arguments())


def _shifted(states: State, last: State) -> State:
    """Without the first, and with another one behind the last."""
    if isinstance(states, Tensor) and isinstance(last, Tensor):
        return torch.cat((states[1:], last.unsqueeze(0)))
    return tuple(_shifted(*parts) for parts in zip(states, last, strict=True))


class _Graphs(dict[Any, CompiledLoop]):
    """What is known of a function lives with it, and is no part of its copies."""

    def __deepcopy__(self, memo: Any) -> _Graphs:
        return _Graphs()

    def __reduce__(self) -> Any:
        return _Graphs, ()


class AdaptiveFlow(Protocol):
    """A flow whose steps are found, or are not."""

    @property
    def adaptive(self) -> bool: ...

    scheme: Scheme
    grid: Any


def check_compilable(flow: AdaptiveFlow) -> None:
    """Raise SchemenetError for a flow whose solves cannot be graphs."""
    if not flow.adaptive or flow.scheme.explicit_pair is None:
        raise SchemenetError(
            "steps are captured on adaptive grids, of explicit pairs such as dopri5; this flow has "
            f"{type(flow.scheme).__name__} on {type(flow.grid).__name__}"
        )


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
    finite = ratio.isfinite()
    good = ratio <= 1
    factor = torch.where(finite, next_factors(ratio, good, now.latest, now.earlier, constants, order), NOT_FINITE)
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
