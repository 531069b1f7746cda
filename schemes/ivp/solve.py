"""Initial value problems: ``schemes.solve``."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from schemes.core.evaluation_counts import Counted, SolverCounts, Statistics, counting
from schemes.core.interpolation import Interpolant
from schemes.core.scheme import Scheme
from schemes.core.state import State, detached, flatten, has_derivative
from schemes.errors import NonFiniteError, SchemenetError, SolverError, unknown
from schemes.gradients.base import GradientMode, Slope
from schemes.gradients.recomputation.autograd import StackWithContext
from schemes.integration.compiled_loop import CompiledSolve, compiled_loop
from schemes.integration.events import Event, EventDetector, as_event, differentiable_event
from schemes.integration.grid import Grid
from schemes.integration.loop import Loop
from schemes.ivp.arguments import checked_functions, checked_state, checked_times
from schemes.ivp.right_hand_side import RightHandSide
from schemes.ivp.solution import Solution
from schemes.ivp.time_derivatives import of_no_length, slopes_by_time
from schemes.registry import GRADIENTS, GRIDS, SCHEMES
from schemes.schema import Spec

BATCHINGS = ("joint", "per_sample")
UNREADABLE = "vmap: It looks like you're", "get value out of a tracing tensor"
"""What torch says where a transform hides the numbers of a tensor."""


@contextlib.contextmanager
def _explaining_hidden_numbers() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        if any(words in str(error) for words in UNREADABLE):
            raise SchemenetError(
                "a solve reads numbers (of times, for the size of its steps, to find what is not finite), which "
                "torch.func.vmap over a tensor that f reads, torch.func.linearize and tracing hide; hand the whole "
                "batch over, or use torch.func.jvp or vjp"
            ) from error
        raise


@_explaining_hidden_numbers()
def solve(
    f: Callable[..., Any] | Sequence[Callable[..., Any]],
    y0: Any,
    t: Any,
    *,
    args: Sequence[Any] = (),
    parameters: Iterable[Tensor] | None = None,
    scheme: Spec | Scheme = "dopri5",
    grid: Spec | Grid = "adaptive",
    gradient: Spec | GradientMode = "checkpoint",
    batching: Literal["joint", "per_sample"] = "joint",
    dense: bool = False,
    event: Callable[..., Tensor] | Event | None = None,
    compile: bool | str = False,
) -> Solution:
    r"""Solve the initial value problem y' = f(t, y, *args), y(t[0]) = y0, for the states at all times ``t``.

        solve(f, y0, [0, 1])                                                      # dopri5, tolerance 1e-3
        solve(f, y0, times, scheme="tsit5", grid={"name": "adaptive", "rtol": 1e-6, "atol": 1e-9})
        solve(f, y0, [0, 1], scheme="rk4", grid={"name": "uniform", "steps": 20}, gradient="backprop")

    Gradients reach ``y0``, the parameters of f (a module, or a method of one), the tensors in ``args`` and
    ``parameters``, and the times. Whatever else f reads gets one under ``gradient="backprop"`` alone; other modes raise
    in backward. Step sizes are constants; a time's gradient is that of the solution, dL/dt_j = dL/dy_j . f(t_j, y_j).
    Second derivatives, also those that involve a time, need ``gradient="backprop"`` and an explicit scheme; otherwise
    they raise. Third derivatives that involve a time or an event lack terms.

    Args:
        f: the vector field ``f(t, y, *args) -> dy``, with t of dimension 0 and dy like y. For a coupled scheme (verlet,
            symplectic_euler) a pair of functions, each of the time and of the other part of the state.
        y0: the initial state: a real or complex tensor, or a nest of tuples, lists and dicts of them; for a coupled
            scheme a pair.
        t: start and output times, monotone, of shape (times,): numbers or a tensor. With ``batching="per_sample"`` also
            (batch, times).
        args: further arguments of f.
        parameters: tensors that f reads by itself, so that they get gradients.
        scheme: the method: a name, a mapping with ``name`` and parameters, or the built object. So are ``grid``, which
            says at which times it steps, and ``gradient``, the gradient mode.
        grid: see ``scheme``.
        gradient: see ``scheme``.
        batching: "joint", or "per_sample": each row of the batch takes the steps that it would take alone. f must then
            act on each row by itself, and gets t of shape (batch,) in the state's precision. A row of no length is its
            y0, also where f is singular; its derivative by its times is f there, zero where f is not finite. When fewer
            than half of the rows have not arrived, f gets those alone, if a trial evaluation says that they are all it
            needs (it may have numbers of each row) and no tolerance is a tensor.
        dense: whether the solution can be called at any time (with a gradient under backprop).
        event: a function of (t, y), or an :class:`schemes.integration.events.Event`, at whose first zero the solve
            ends: the last time and state of the solution are then the event's, and its ``status`` is "event". Both
            depend on all that the event depends on, the parameters of the event function among it.
        compile: whether the steps of an explicit pair run as one graph of torch.compile's, t and h tensors in it, and
            on a CPU the whole loop, but under backprop and with an event, a callback, ``dense`` or steps of each row's
            own. The graph is kept
            with f for the next solve (on a GPU as a CUDA graph). Where torch.compile cannot take f whole the solve
            runs without, and warns. The name of a backend of torch.compile takes that one.

    Returns:
        The states along a new first dimension, shape (times, ...), with times, counts and status.

    Raises:
        SchemenetError: for arguments that are wrong or do not go together.
        SolverError: of several kinds where a solve cannot continue; ``error.partial`` is the solution so far.
    """
    if batching not in BATCHINGS:
        raise SchemenetError(unknown("batching", batching, BATCHINGS))
    method, steps, mode = SCHEMES.built(scheme), GRIDS.built(grid), GRADIENTS.built(gradient)
    problem = _Problem(f, y0, t, args, parameters, method, steps, mode, batching)
    if not problem.is_trivial:
        problem.check_support(dense, event is not None)
        if steps is not grid:  # described here, not built by a caller who knows
            steps.check_precision(problem.leaves[0].dtype, stacklevel=4)
    y = problem.begin()
    event = None if event is None else as_event(event)
    detector = None if event is None else problem.detector(event, y)
    if problem.is_trivial or (detector is not None and detector.time is not None):
        run = problem.stand(y, detector, dense)
    else:
        loop = problem.loop()
        if compile:
            problem.compile_steps(loop, "inductor" if compile is True else compile)
        if event is not None and detector is not None:
            loop.detect(detector, event.beyond)
        run = problem.run(loop, y, dense)
    return problem.solution(run, detector)


class _Run(NamedTuple):
    """The states at the output times after the first, from a constant start, and the records of a solve."""

    outputs: list[State]
    statistics: Statistics
    interpolant: Interpolant | None
    context: list[Any]
    """The non-tensor context of the backward pass of these outputs."""


class _Problem:
    """The checked arguments of a solve: begins it, runs its loop and collects the solution.

    ``host`` are the times as numbers. ``is_trivial``: no step is taken, as no time passes or the state has no entry.
    """

    def __init__(
        self,
        f: Any,
        y0: Any,
        t: Any,
        args: Sequence[Any],
        parameters: Iterable[Tensor] | None,
        scheme: Scheme,
        grid: Grid,
        mode: GradientMode,
        batching: str,
    ) -> None:
        self.scheme, self.grid, self.mode, self.batching = scheme, grid, mode, batching
        self.leaves = checked_state(y0, grid.steps_known)
        self.times, self.host = checked_times(t, self.leaves[0], batching)
        random = grid.steps_known and mode.replays_nodes
        self.rhs = RightHandSide(checked_functions(f, scheme, y0), y0, args, self.times, parameters, random)
        self.is_trivial = all(of_no_length(self.host)) or not any(leaf.numel() for leaf in self.leaves)
        self.start = self.rhs.pack(y0)
        self._slope_evaluations = 0
        self.times_vary = has_derivative(self.times)

    def check_support(self, dense: bool, event: bool) -> None:
        """Raise where scheme, grid and gradient mode do not go together."""
        reason = self.grid.unsupported_reason(self.scheme) or self.mode.unsupported_scheme_reason(self.scheme)
        if reason is None and self.batching == "per_sample":
            reason = self._unsupported_per_sample(dense, event)
        if reason is not None:
            raise SchemenetError(reason)

    def _unsupported_per_sample(self, dense: bool, event: bool) -> str | None:
        batches = {leaf.shape[0] if leaf.dim() else None for leaf in self.leaves}
        reason = self.grid.unsupported_batching_reason()
        if reason is not None:
            pass
        elif self.scheme.explicit_pair is None:
            reason = f"needs an explicit pair such as dopri5, not {type(self.scheme).__name__}"
        elif not self.mode.supports_per_sample:
            reason = "is differentiated by gradient=checkpoint or backprop"
        elif event:
            reason = "looks for no events; solve the samples one by one"
        elif dense:
            reason = "has no common interpolant; ask for the times of each sample, t of shape (batch, times)"
        elif None in batches or len(batches) > 1:
            reason = f"needs one first dimension, the batch, in all parts of the state, got {sorted(map(str, batches))}"
        return None if reason is None else f"batching='per_sample' {reason}"

    def begin(self) -> State:
        """The state from which the steps begin, at a constant time."""
        differentiable = any(part.requires_grad for part in (self.times, *self.leaves, *self.rhs.parameters()))
        recomputed = torch.is_grad_enabled() and self.mode.recomputes
        self.rhs.must_be_constant = recomputed and not differentiable
        self.rhs.evaluated_again = recomputed and differentiable
        if not self.times_vary:
            return self.start
        first = self._times_for_f(self.times)[..., 0]
        return self.mode.transport(self._slope_by_times(), self.start, first, first.detach())

    def _slope_by_times(self) -> Slope:
        """f for derivatives by the times. Made for each use: stored here, it would be a reference cycle."""
        rows = len(self.leaves[0]) if self.batching == "per_sample" else 1
        return slopes_by_time(self._counted_slope, self.host, rows)

    def _counted_slope(self, t: Any, y: State) -> State:
        """f for a derivative by the times, which is an evaluation like those of the steps."""
        self._slope_evaluations += self.scheme.components
        return self.rhs.slope(t, y)

    def _times_for_f(self, times: Tensor) -> Tensor:
        """Times as f gets them: of each sample and in the state's precision, where each has steps of its own."""
        if self.batching == "joint":
            return times
        return times.to(self.leaves[0].real.dtype).expand(len(self.leaves[0]), times.shape[-1])

    def detector(self, event: Event, y: State) -> EventDetector:
        """The event's search from the state y at the first time."""

        def values(t: Any, y: State) -> Tensor:
            return event.values(self.rhs.clock(t), self.rhs.unpack(y))

        return EventDetector(event, values, self.host[0], y)

    def loop(self) -> Loop:
        """The loop over the steps, from the grid."""
        return self.grid.ivp_loop(self.scheme, Counted(self.rhs.rate), self.rhs, self.host, self.batching)

    def compile_steps(self, loop: Loop, backend: str) -> None:
        """Let the loop attempt its steps by a compiled graph."""
        f, structure, single = self.rhs.functions[0], self.rhs.structure, self.rhs.single

        def rate(t: Tensor, y: State, *args: Any) -> State:
            value = f(t, y if single else pytree.tree_unflatten(list(y), structure), *args)
            return value if single else tuple(pytree.tree_leaves(value))

        graphs = compiled_loop(self.scheme, f, rate, backend, str(structure))
        loop.use_compiled(CompiledSolve(graphs, lambda: tuple(self.rhs.arguments())))

    def stand(self, y: State, detector: EventDetector | None, dense: bool) -> _Run:
        """The run of a solve that takes no step: all states are the first, or the first alone, at an event there."""
        at_event = detector is not None and detector.time is not None
        count = 1 if at_event else self.times.shape[-1] - 1
        interpolant = None
        if dense:
            interpolant = Interpolant([self.host[0]], self.host[0], [lambda theta: y], [1.0], self.rhs.unpack)
        return _Run([y] * count, Statistics(SolverCounts(), SolverCounts()), interpolant, [])

    def run(self, loop: Loop, y: State, dense: bool) -> _Run:
        """All steps from the state y at the first time."""
        loop.for_backward = []
        if dense:
            loop.keep_interpolants()
        try:
            with counting(loop.forward):
                result = self.mode(loop, (y, loop.scheme.init_state(y)))
        except SolverError as error:
            error.partial = self._partial(loop, y, error) if loop.rows_share_times else None
            raise
        if loop.steps_known:  # such steps look at no number
            self._check_finite(result.outputs)
        interpolant = loop.interpolant(self.rhs.unpack) if dense else None
        context, loop.for_backward = loop.for_backward, None  # which else leads back to the loop
        return _Run(loop.collected(y, result.outputs)[1:], loop.statistics(), interpolant, context)

    def _partial(self, loop: Loop, y: State, error: SolverError) -> Solution:
        """The solution up to the error, without derivatives."""
        states = [detached(state) for state in (y, *(error.partial or ()))]
        values = self.rhs.unpack(_stacked(states))
        return Solution(values, self.times[: len(states)].detach(), loop.statistics(), type(error).__name__)

    def _check_finite(self, states: Sequence[State]) -> None:
        """Raise where the last state is not finite, naming the first such output time."""
        if torch._C._are_functorch_transforms_active():
            return
        last = flatten(tuple(states[-1:]))[0]
        if any(not part.is_meta and not bool(torch.isfinite(part.detach()).all()) for part in last):
            wrong = [[~torch.isfinite(part.detach()) for part in flatten(state)[0]] for state in states]
            first = next(i for i, parts in enumerate(wrong) if any(bool(part.any()) for part in parts))
            count = sum(int(part.sum()) for part in wrong[first])
            time = self.host[min(first + 1, len(self.host) - 1)]
            raise NonFiniteError(
                f"{count} entries of the state are NaN or infinite at t = {time:.6g}, the first output time at which "
                "some are: f gave no number before it, or the steps are too large for the scheme to be stable"
            )

    def solution(self, run: _Run, detector: EventDetector | None) -> Solution:
        """The solution at the output times, or up to the event that was found."""
        if detector is None or detector.time is None:
            return self._collected(run, self.times, run.outputs, "done")
        *outputs, last = run.outputs
        latest = max if self.host[-1] >= self.host[0] else min  # an output time at the event is not passed by it
        when = self.times.new_tensor(latest(detector.time, self.host[len(outputs)]))
        transport = partial(self.mode.transport, self._counted_slope)
        when, last = differentiable_event(detector.values, transport, detector.entry, when, last)
        times = _stacked([*self.times[: len(outputs) + 1].unbind(), when], run.context)
        return self._collected(run, times, outputs, "event", last)

    def _collected(self, run: _Run, times: Tensor, outputs: Sequence[State], status: str, *at_event: State) -> Solution:
        if self.times_vary:
            moments = self._times_for_f(times).unbind(-1)[1:]
            pairs = zip(outputs, moments, strict=False)  # the event's time has no output here
            slope = self._slope_by_times()
            outputs = [self.mode.transport(slope, y, t.detach(), t) for y, t in pairs]
        run.statistics.forward.evaluations += self._slope_evaluations
        values = self.rhs.unpack(_stacked([self.start, *outputs, *at_event], run.context))
        return Solution(values, times, run.statistics, status, run.interpolant)


def _stacked(states: Sequence[State], context: Sequence[Any] = ()) -> State:
    """The states along a new first dimension, with what their backward pass needs."""
    if not isinstance(states[0], Tensor):
        return tuple(_stacked(parts, context) for parts in zip(*states, strict=True))
    return StackWithContext.apply(context, *states) if context else torch.stack(list(states))
