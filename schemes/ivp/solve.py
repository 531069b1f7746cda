"""Initial value problems: ``schemes.solve``."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch._C._functorch import (  # type: ignore[import-not-found]  # torch has no stub
    get_unwrapped,
    is_batchedtensor,
    is_functorch_wrapped_tensor,
)
from torch.utils import _pytree as pytree

from schemes.core.evaluation_counts import Counted, SolverCounts, counting
from schemes.core.node import Node
from schemes.core.scheme import Scheme
from schemes.core.state import State, detached, flatten, has_derivative
from schemes.errors import NonFiniteError, SchemenetError, SolverError, unknown
from schemes.gradients.backprop import Backprop
from schemes.gradients.base import GradientMode
from schemes.gradients.checkpoint import Checkpoint
from schemes.gradients.recomputation.autograd import StackWithContext
from schemes.integration.adaptive_grid import AdaptiveGrid, warn_of_tolerance
from schemes.integration.adaptive_loop import AdaptiveLoop
from schemes.integration.compiled_step import compiled_step
from schemes.integration.events import Event, EventDetector, differentiable_event
from schemes.integration.fixed_steps import FixedStepLoop, output_fractions_of
from schemes.integration.per_sample_loop import PerSampleLoop
from schemes.integration.scipy_loop import ScipyGrid, ScipyLoop
from schemes.integration.uniform_grid import UniformGrid
from schemes.ivp.right_hand_side import RightHandSide
from schemes.ivp.solution import Interpolant, Solution, Statistics
from schemes.ivp.time_derivatives import of_no_length, slopes_by_time
from schemes.registry import GRADIENTS, GRIDS, SCHEMES, Registry
from schemes.schema import Spec

BATCHINGS = ("joint", "per_sample")
UNREADABLE = "vmap: It looks like you're", "get value out of a tracing tensor"
"""What torch says where a transform hides the numbers of a tensor."""


@contextlib.contextmanager
def _told_of_hidden_numbers() -> Iterator[None]:
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


@_told_of_hidden_numbers()
def solve(
    f: Callable[..., Any] | Sequence[Callable[..., Any]],
    y0: Any,
    t: Any,
    *,
    args: Sequence[Any] = (),
    parameters: Iterable[Tensor] | None = None,
    scheme: Spec | Scheme = "dopri5",
    grid: Spec | AdaptiveGrid | UniformGrid = "adaptive",
    gradient: Spec | GradientMode = "checkpoint",
    batching: Literal["joint", "per_sample"] = "joint",
    dense: bool = False,
    event: Callable[..., Tensor] | Event | None = None,
    compile: bool = False,
) -> Solution:
    r"""Solve y' = f(t, y, *args), y(t[0]) = y0, for the states at all times ``t``.

    ``y0`` is a real or complex tensor, or a nest of tuples, lists and dicts of them; f returns the same. ``t`` are two
    times or more, as numbers or a tensor, not decreasing or not increasing; f gets a tensor of dimension 0. ``scheme``,
    ``grid`` and ``gradient`` are names, mappings with ``name`` and parameters, or the built objects:

        solve(f, y0, [0, 1])                                                      # dopri5, tolerance 1e-3
        solve(f, y0, times, scheme="tsit5", grid={"name": "adaptive", "rtol": 1e-6, "atol": 1e-9})
        solve(f, y0, [0, 1], scheme="rk4", grid={"name": "uniform", "steps": 20}, gradient="backprop")

    With ``batching="per_sample"`` each row of the batch takes the steps that it would take alone; f must act on each
    row by itself and gets t of shape (batch,) in the state's precision, and ``t`` may be (batch, times). A row of no
    length is its y0, also where f is singular; its derivative by its times is f there, zero where f is not finite.

    A coupled scheme (verlet, symplectic_euler) takes a pair of states and a pair of functions, each of the time and of
    the other part.

    Gradients reach ``y0``, the parameters of f (a module, or a method of one), the tensors in ``args`` and
    ``parameters`` (which f reads by itself), and the times.
    What else f reads gets one under ``gradient="backprop"`` alone; other modes refuse in backward. Step sizes are
    constants; a time's gradient is that of the solution, dL/dt_j = dL/dy_j . f(t_j, y_j).

    With ``compile`` the steps of an explicit pair run as one graph of torch.compile's, t and h tensors in it, which is
    kept with f for the next solve (on a GPU as a CUDA graph); f must be one that torch.compile can take whole.

    ``event`` is a function of (t, y), or an :class:`schemes.integration.events.Event`, at whose first zero the solve
    ends: the last time and state of the solution are then the event's, and its ``status`` is "event". Both move with
    all that the event depends on, the parameters of the event function among it.

    Second derivatives, also those that involve a time, need ``gradient="backprop"`` and an explicit scheme; all else
    refuses them. Third derivatives that involve a time or an event lack terms.

    ``dense`` solutions can be called at any time (with a gradient under backprop).

    Raises SchemenetError for what cannot be asked, and SolverError of several kinds where a solve cannot go on, with
    what was reached as ``error.partial``.
    """
    if batching not in BATCHINGS:
        raise SchemenetError(unknown("batching", batching, BATCHINGS))
    method: Scheme = _built(SCHEMES, scheme)
    steps: AdaptiveGrid | UniformGrid = _built(GRIDS, grid)
    mode: GradientMode = _built(GRADIENTS, gradient)
    leaves = _checked_state(y0, on_known_steps=not isinstance(steps, AdaptiveGrid))
    times, host = _checked_times(t, leaves[0], batching)
    functions = _functions(f, method, y0)
    given_steps = not isinstance(steps, AdaptiveGrid | ScipyGrid)
    equation = RightHandSide(functions, y0, args, times, parameters, random=given_steps and mode.replays_nodes)
    stands = all(of_no_length(host)) or not any(leaf.numel() for leaf in leaves)
    if not stands:
        if (reason := steps.unsupported_reason(method) or mode.unsupported_scheme_reason(method)) is not None:
            raise SchemenetError(reason)
        if batching == "per_sample":
            _refuse_joint(method, steps, mode, dense, event, leaves)
        if event is not None and isinstance(steps, ScipyGrid):
            raise SchemenetError("event: SciPy's solvers look for no events here; use grid=adaptive")
        if isinstance(steps, AdaptiveGrid) and steps is not grid:  # described here, not built by a caller who knows
            warn_of_tolerance(steps.rtol, steps.atol, leaves[0].dtype, stacklevel=5)
    differentiable = times.requires_grad or any(part.requires_grad for part in (*leaves, *equation.parameters()))
    recomputed = torch.is_grad_enabled() and not isinstance(mode, Backprop)
    equation.must_be_constant = recomputed and not differentiable
    equation.evaluated_again = recomputed and differentiable
    start = y = equation.pack(y0)
    moves = has_derivative(times)
    slopes = equation.slope
    if moves:  # the steps begin at a constant time
        slopes = slopes_by_time(equation.slope, host, len(leaves[0]) if batching == "per_sample" else 1)
        first = _for_f(times, leaves, batching)[..., 0]
        y = mode.transport(slopes, start, first, first.detach())
    watch = None if event is None else _watch(event, equation, host, y)
    starts_there = watch is not None and watch.time is not None
    if stands or starts_there:
        solved = _standing(equation, y, host, 1 if starts_there else times.shape[-1] - 1, dense)
    else:
        loop = _loop(method, steps, equation, host, batching)
        if compile:
            _capture(loop, method, equation)
        if watch is not None:
            loop.watch = watch
            if isinstance(event, Event) and event.beyond and isinstance(loop, AdaptiveLoop):
                loop.times = (loop.times[0], math.copysign(math.inf, loop.times[-1] - loop.times[0]))
        solved = _solved(loop, mode, equation, y, times, host, dense)

    def solution(times: Tensor, outputs: Sequence[State], status: str, *event: State) -> Solution:
        if moves:
            moments = _for_f(times, leaves, batching).unbind(-1)[1:]
            outputs = [mode.transport(slopes, y, t.detach(), t) for y, t in zip(outputs, moments, strict=False)]
        values = equation.unpack(_stacked([start, *outputs, *event], solved.context))
        return Solution(values, times, solved.statistics, status, solved.interpolant)

    if watch is None or watch.time is None:
        return solution(times, solved.outputs, "done")
    *outputs, last = solved.outputs
    latest = max if host[-1] >= host[0] else min  # an output time at the event is not passed by it
    when = times.new_tensor(latest(watch.time, host[len(outputs)]))
    when, last = differentiable_event(watch.values, partial(mode.transport, equation.slope), watch.entry, when, last)
    passed = times[: len(outputs) + 1].unbind()
    return solution(_stacked([*passed, when], solved.context), outputs, "event", last)


class _Solved(NamedTuple):
    """The states at the output times after the first, which are constants, and what else a solution has."""

    outputs: list[State]
    statistics: Statistics
    interpolant: Interpolant | None
    context: list[Any]
    """What the backward pass of these outputs needs beside tensors."""


def _standing(equation: RightHandSide, y: State, host: Any, count: int, dense: bool) -> _Solved:
    """What is known where no step is taken."""
    interpolant = Interpolant([host[0]], host[0], [lambda theta: y], [1.0], equation.unpack) if dense else None
    return _Solved([y] * count, Statistics(SolverCounts(), SolverCounts()), interpolant, [])


def _solved(
    loop: Any, mode: GradientMode, equation: RightHandSide, y: State, times: Tensor, host: Any, dense: bool
) -> _Solved:
    """All steps from the state y at the first time, a constant."""
    loop.for_backward = []
    if dense:
        loop.keep = []
    try:
        with counting(loop.forward):
            passed = mode(loop, (y, loop.scheme.init_state(y)))
    except SolverError as error:
        if isinstance(loop, PerSampleLoop):  # each sample has come to another time
            error.partial = None
            raise
        states = [y, *(error.partial or ())]
        reached = Solution(
            equation.unpack(_stacked([detached(s) for s in states])), times[: len(states)].detach(),
            _statistics(loop), type(error).__name__,
        )  # fmt: skip
        error.partial = reached
        raise
    _refuse_non_finite(loop, passed.outputs, host)
    interpolant = None
    if dense:
        interpolant, loop.keep = _interpolant(loop, equation), None
    context, loop.for_backward = loop.for_backward, None  # which else leads back to the loop
    return _Solved(loop.collected(y, passed.outputs)[1:], _statistics(loop), interpolant, context)


def _refuse_non_finite(loop: Any, states: Sequence[State], host: list[float]) -> None:
    """Known steps look at no number; the last state tells whether one of them gave none."""
    if not isinstance(loop, FixedStepLoop) or torch._C._are_functorch_transforms_active():
        return
    last = flatten(tuple(states[-1:]))[0]
    if any(not part.is_meta and not bool(torch.isfinite(part.detach()).all()) for part in last):
        wrong = [[~torch.isfinite(part.detach()) for part in flatten(state)[0]] for state in states]
        first = next(i for i, parts in enumerate(wrong) if any(bool(part.any()) for part in parts))
        count = sum(int(part.sum()) for part in wrong[first])
        time = host[min(first + 1, len(host) - 1)]
        raise NonFiniteError(
            f"{count} entries of the state are NaN or infinite at t = {time:.6g}, the first output time at which some "
            "are: f gave no number before it, or the steps are too large for the scheme to be stable"
        )


def _built(registry: Registry, choice: Any) -> Any:
    return registry.build(choice) if isinstance(choice, str | Mapping) else choice


def _checked_state(y0: Any, on_known_steps: bool) -> list[Tensor]:
    leaves = pytree.tree_leaves(y0)
    if not leaves:
        raise SchemenetError(f"y0: expected a tensor or a nest of tensors, got {y0!r}")
    for leaf in leaves:
        if not isinstance(leaf, Tensor):
            raise SchemenetError(f"y0: expected tensors, got {type(leaf).__name__} {leaf!r}")
        if leaf.dtype in (torch.float16, torch.bfloat16):
            raise SchemenetError(
                f"y0: a state in {leaf.dtype} is too coarse for sums over many steps and for an error estimate; keep "
                "it in float32 and let f compute in half precision by torch.autocast"
            )
        if _is_batched(leaf) and not on_known_steps:
            raise SchemenetError(
                "an adaptive grid under torch.func.vmap: each sample would take other steps; hand over the whole batch "
                "(with batching='per_sample' for steps of each sample's own), or use grid=uniform"
            )
        if not (leaf.is_floating_point() or leaf.is_complex()):
            raise SchemenetError(f"y0: expected floating-point or complex numbers, got {leaf.dtype}; use y0.float()")
    return leaves


def _is_batched(leaf: Tensor) -> bool:
    """Whether torch.func.vmap hides a batch in a tensor, under whatever other transforms."""
    while is_functorch_wrapped_tensor(leaf) and not is_batchedtensor(leaf):
        leaf = get_unwrapped(leaf)
    return is_batchedtensor(leaf)


def _checked_times(t: Any, like: Tensor, batching: str) -> tuple[Tensor, Any]:
    """The output times as a tensor, and as numbers of the host.

    Where no tensor was given it has the state's precision, or float64 where that would not tell near times apart.
    """
    given = isinstance(t, Tensor)  # f tells apart what its state can
    times = t.to(like.device, torch.promote_types(t.dtype, like.real.dtype)) if given else exact(t)
    per_sample = batching == "per_sample" and like.dim() > 0 and times.dim() == 2 and times.shape[0] == like.shape[0]
    if (times.dim() != 1 and not per_sample) or not times.shape[-1]:
        raise SchemenetError(
            f"t: expected one dimension with one time or more (with batching='per_sample' also (batch, times)), got "
            f"shape {tuple(times.shape)}"
        )
    host = _numbers(times)
    if not given:
        eps = torch.finfo(like.real.dtype).eps
        rows = host if times.dim() == 2 else [host]
        resolved = all(eps * max(map(abs, row)) <= 1e-5 * abs(row[-1] - row[0]) or row[-1] == row[0] for row in rows)
        times = times.to(like.real.dtype if resolved else torch.float64).to(like.device)
    for name, row in [("t", host)] if times.dim() == 1 else [(f"t[{i}]", row) for i, row in enumerate(host)]:
        _check_row(name, row)
    return times, host


def exact(times: Any) -> Tensor:
    """Times in float64: of numbers, and of tensors, also of a list of them (with their gradients)."""
    try:
        if isinstance(times, list | tuple) and any(isinstance(time, Tensor) for time in pytree.tree_leaves(times)):
            return torch.stack([exact(time) for time in times])
        return times.double() if isinstance(times, Tensor) else torch.from_numpy(np.array(times, dtype=np.float64))
    except (TypeError, ValueError, RuntimeError) as error:
        raise SchemenetError(f"t: expected numbers in a list or a tensor, got {times!r}") from error


def _for_f(times: Tensor, leaves: Sequence[Tensor], batching: str) -> Tensor:
    """Times as f gets them: of each sample and in the state's precision, where each has steps of its own."""
    if batching == "joint":
        return times
    return times.to(leaves[0].real.dtype).expand(len(leaves[0]), times.shape[-1])


def _numbers(times: Tensor) -> Any:
    """Times as numbers of the host; on the meta device, where there are none, equal steps stand for all."""
    if times.is_meta:
        return torch.linspace(0, 1, times.shape[-1], device="cpu").expand(times.shape).tolist()
    return times.detach().tolist()


def _check_row(name: str, times: list[float]) -> None:
    if bad := [i for i, time in enumerate(times) if not math.isfinite(time)]:
        raise SchemenetError(f"t: expected finite times, got {name}[{bad[0]}] = {times[bad[0]]}")
    direction = 1.0 if times[-1] >= times[0] else -1.0
    if bad := [i for i, (a, b) in enumerate(pairwise(times), 1) if direction * (b - a) < 0]:
        way = "increasing" if direction > 0 else "decreasing"
        i = bad[0]
        raise SchemenetError(
            f"t: expected {way} times, got {name}[{i}] = {times[i]:g} after {name}[{i - 1}] = {times[i - 1]:g}"
        )


def _refuse_joint(
    method: Scheme, grid: Any, mode: GradientMode, dense: bool, event: Any, leaves: Sequence[Tensor]
) -> None:
    """What a batch cannot be solved sample by sample with."""
    batches = {leaf.shape[0] if leaf.dim() else None for leaf in leaves}
    wrong = None
    if not isinstance(grid, AdaptiveGrid):
        wrong = "needs grid=adaptive; on a uniform grid all samples take the same steps"
    elif not method.fsal or method.implicit:
        wrong = f"needs an explicit pair such as dopri5, not {type(method).__name__}"
    elif not isinstance(mode, Backprop | Checkpoint):
        wrong = "is differentiated by gradient=checkpoint or backprop"
    elif event is not None:
        wrong = "looks for no events; solve the samples one by one"
    elif dense:
        wrong = "has no common interpolant; ask for the times of each sample, t of shape (batch, times)"
    elif grid.settings.norm is not None:
        wrong = "has a norm for each sample, and takes none from the user"
    elif None in batches or len(batches) > 1:
        wrong = f"needs one first dimension, the batch, in all parts of the state, got {sorted(map(str, batches))}"
    if wrong is not None:
        raise SchemenetError(f"batching='per_sample' {wrong}")


def _functions(f: Any, scheme: Scheme, y0: Any) -> Sequence[Callable[..., Any]]:
    if scheme.components == 1:
        if not callable(f):
            raise SchemenetError(f"f: expected a function of (t, y), got {f!r}")
        return [f]
    parts = scheme.components
    if (
        isinstance(f, Tensor)
        or not isinstance(f, Sequence)
        or len(f) != parts
        or not isinstance(y0, tuple | list)
        or len(y0) != parts
    ):
        raise SchemenetError(
            f"scheme {type(scheme).__name__} couples {parts} states: y0 expected to be {parts} tensors and f {parts} "
            "functions of (t, the other state)"
        )
    return f


def _loop(scheme: Scheme, grid: Any, equation: RightHandSide, host: Any, batching: str) -> Any:
    f = Counted(equation.rate)
    if isinstance(grid, AdaptiveGrid):
        search = AdaptiveLoop if batching == "joint" else PerSampleLoop
        callback = equation.step_callback()
        rtol, atol = (equation.spread(tolerance) for tolerance in (grid.rtol, grid.atol))
        return search(
            scheme, f, [], equation, settings=grid.settings, times=host, rtol=rtol, atol=atol, callback=callback
        )
    if isinstance(grid, ScipyGrid):
        return ScipyLoop(scheme, f, [Node(0, host[0], host[-1] - host[0])], equation, solver=grid, times=host)
    nodes = grid.nodes_over(host)
    scheme.allocate(len(nodes))
    return FixedStepLoop(
        scheme, f, nodes, equation, output_fractions=output_fractions_of(nodes, host), interpolation=grid.interpolation,
        perturb=getattr(grid, "perturb", False), callback=equation.step_callback(),
    )  # fmt: skip


def _capture(loop: Any, scheme: Scheme, equation: RightHandSide) -> None:
    plain = (
        type(loop) is AdaptiveLoop and loop.settings.norm is None and not loop.settings.jump_t and not equation.coupled
    )
    if not (plain and all(isinstance(tolerance, int | float) for tolerance in (loop.rtol, loop.atol))):
        raise SchemenetError(
            "compile=True needs grid=adaptive without norm and jump_t, numbers as tolerances, and batching=joint"
        )
    f, structure, single = equation.functions[0], equation.structure, equation.single

    def rate(t: Tensor, y: State, *args: Any) -> State:
        value = f(t, y if single else pytree.tree_unflatten(list(y), structure), *args)
        return value if single else tuple(pytree.tree_leaves(value))

    steps = compiled_step(scheme, f, rate, form=str(structure))
    loop.compiled_step = lambda node, y, solver_state, tolerances: steps.attempt(
        node, y, solver_state, tolerances, tuple(equation.arguments())
    )


def _watch(event: Callable[..., Tensor] | Event, equation: RightHandSide, host: Any, y: State) -> EventDetector:
    event = event if isinstance(event, Event) else Event(event)

    def values(t: Any, y: State) -> Tensor:
        return event.values(equation.clock(t), equation.unpack(y))

    return EventDetector(event, values, host[0], y)


def _stacked(states: Sequence[State], context: Sequence[Any] = ()) -> State:
    """The states along a new first dimension, with what their backward pass needs."""
    if not isinstance(states[0], Tensor):
        return tuple(_stacked(parts, context) for parts in zip(*states, strict=True))
    return StackWithContext.apply(context, *states) if context else torch.stack(list(states))


def _statistics(loop: Any) -> Statistics:
    if isinstance(loop, PerSampleLoop):
        times, sizes = ([[step[i] for step in controller.steps] for controller in loop.controllers] for i in (0, 1))
        return Statistics(
            loop.forward, loop.backward, times, sizes, [controller.counts for controller in loop.controllers]
        )
    return Statistics(loop.forward, loop.backward, [node.t for node in loop.nodes], [node.h for node in loop.nodes])


def _interpolant(loop: Any, equation: RightHandSide) -> Interpolant:
    if not isinstance(loop, AdaptiveLoop):
        raise SchemenetError("dense solutions need grid=adaptive")
    starts, sizes = [node.t for node in loop.nodes], [node.h for node in loop.nodes]
    end = loop.nodes[-1].t + loop.nodes[-1].h
    if not math.isinf(loop.times[-1]):
        end = loop.times[-1]
    return Interpolant(starts, end, [attempt.interpolate for attempt in loop.keep or ()], sizes, equation.unpack)
