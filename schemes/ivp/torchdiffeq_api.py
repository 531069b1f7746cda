"""torchdiffeq's calls: change the import and nothing else.

    from schemes import odeint, odeint_adjoint, odeint_event, odeint_dense

Arguments, defaults, shapes and results are those of torchdiffeq 0.2.5; ``docs/torchdiffeq.md`` says what differs. On
purpose:

- Times may repeat, and may be whole numbers or plain lists. An interval of no length returns y0.
- Errors are :class:`schemes.errors.SchemenetError` (a ValueError) and its kinds, one sentence each.
- An adaptive solve ends at the last time; torchdiffeq steps beyond it and interpolates. Values agree to the tolerance.
- ``odeint_adjoint`` adds up the parameters' gradient outside the solve: by default it takes no part in the norm
  (torchdiffeq's seminorm), and t has no share in it.
- ``explicit_adams`` and the other Adams methods are of order 4 at most, and restart where the step size changes.
- The value of f's first call is checked to be like the state; f is called once more there if it drew random numbers.
- ``scipy_solver`` and the implicit methods in ``odeint_adjoint`` go backwards by dopri5 unless ``adjoint_method`` says
  otherwise.

Reference: Chen, "torchdiffeq", 2018 (github.com/rtqichen/torchdiffeq); Chen, Amos, Nickel, "Learning Neural Event
Functions for Ordinary Differential Equations", ICLR 2021, arXiv:2011.03902.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from schemes.core.scheme import Scheme
from schemes.errors import SchemenetError, not_taken, unknown
from schemes.gradients.adjoint import Adjoint
from schemes.integration.adaptive_grid import AdaptiveGrid, warn_of_tolerance
from schemes.integration.adaptive_loop import root_mean_square
from schemes.integration.events import endless
from schemes.integration.fixed_steps import SteppedGrid
from schemes.integration.grid import Grid
from schemes.integration.scipy_loop import ScipyGrid
from schemes.ivp.arguments import exact
from schemes.ivp.right_hand_side import CALLBACKS
from schemes.ivp.solution import Solution
from schemes.ivp.solve import solve
from schemes.registry import SCHEMES, single_step
from schemes.schema import Spec

FIXED = {
    "euler": "forward_euler", "midpoint": "midpoint", "heun2": "heun", "heun3": "heun3", "rk4": "rk38",
    "rk4_classic": "rk4", "explicit_adams": "adams_bashforth4", "implicit_adams": "adams_moulton",
    "fixed_adams": "adams_moulton", "implicit_euler": "backward_euler", "implicit_midpoint": "implicit_midpoint",
    "trapezoid": "trapezoidal", "radauIIA3": "radauIIA3", "radauIIA5": "radauIIA5", "gl4": "gl4", "gl6": "gl6",
    "sdirk2": "sdirk2", "trbdf2": "trbdf2",
}  # fmt: skip
"""torchdiffeq's names of methods with given steps, and ours."""
ADAPTIVE = {
    "dopri8": "dopri8", "dopri5": "dopri5", "tsit5": "tsit5", "bosh3": "bosh3", "fehlberg2": "fehlberg2",
    "adaptive_heun": "heun",
}  # fmt: skip
"""torchdiffeq's names of methods that choose their steps, and ours."""
GRID_OPTIONS = {
    "adaptive": (
        "first_step", "min_step", "max_step", "max_num_steps", "safety", "ifactor", "dfactor", "step_t", "jump_t",
        "norm", "dtype",
    ),
    "fixed": ("step_size", "grid_constructor", "interp", "perturb", "norm"),
    "adams": ("step_size", "grid_constructor", "interp", "perturb", "norm", "max_iters", "max_order"),
    "scipy": ("solver", "min_step", "max_step", "norm"),
}  # fmt: skip
"""The options of each kind of method; as with torchdiffeq a norm may always be given, and adaptive steps read it."""
RTOL, ATOL = 1e-7, 1e-9
MOST_EVENT_STEPS = 20_000
"""Steps that a method with given steps looks for an event in."""


def odeint(
    func: Callable[..., Any],
    y0: Any,
    t: Any,
    *,
    rtol: Any = RTOL,
    atol: Any = ATOL,
    method: str | None = None,
    options: Mapping[str, Any] | None = None,
    event_fn: Callable[..., Tensor] | None = None,
    gradient: Spec = "backprop",
) -> Any:
    """The states of dy/dt = func(t, y), y(t[0]) = y0 at the times t; gradients by backprop through the solver.

    Args:
        func: the vector field ``func(t, y) -> dy``.
        y0: the state at t[0], a tensor or a tuple of tensors.
        t: start and output times, monotone, of shape (times,).
        rtol: relative tolerance: a number, or a tensor or nest like the state.
        atol: absolute tolerance, like ``rtol``.
        method: a method's name, torchdiffeq's or ours; None: dopri5.
        options: the method's options, with torchdiffeq's names.
        event_fn: ends the solve where an entry of ``event_fn(t, y)`` crosses zero; t[1] then gives the direction of
            time only.
        gradient: ours: ``"checkpoint"`` gives the same gradients from one state a step.

    Returns:
        The states, with one more dimension, the times, before the others. With ``event_fn`` the pair of the event's
        time and the states at t[0] and there.
    """
    call = _Call(func, y0, t, rtol, atol, method, options, event_fn)
    return call.result(call.solved(gradient))


def odeint_adjoint(
    func: Callable[..., Any],
    y0: Any,
    t: Any,
    *,
    rtol: Any = RTOL,
    atol: Any = ATOL,
    method: str | None = None,
    options: Mapping[str, Any] | None = None,
    event_fn: Callable[..., Tensor] | None = None,
    adjoint_rtol: Any = None,
    adjoint_atol: Any = None,
    adjoint_method: str | None = None,
    adjoint_options: Mapping[str, Any] | None = None,
    adjoint_params: Iterable[Tensor] | None = None,
) -> Any:
    """:func:`odeint`, its gradients by the continuous adjoint: memory that does not grow with the number of steps.

    Args and results as of :func:`odeint`, and

    Args:
        func: a module, or any function with ``adjoint_params``.
        adjoint_rtol: relative tolerance of the solve backwards; None: as forwards.
        adjoint_atol: absolute tolerance of the solve backwards; None: as forwards.
        adjoint_method: its method; None: as forwards.
        adjoint_options: its options; None: as forwards. ``"norm"`` is "seminorm", or a function of the tuple
            (t, y, adj_y, *adjoint_params) of errors, a tuple state part by part.
        adjoint_params: the tensors that get gradients; None: the module's parameters.
    """
    if adjoint_params is None and not isinstance(func, nn.Module):
        raise SchemenetError(
            "func must be an instance of nn.Module to specify the adjoint parameters; alternatively give "
            "adjoint_params, and adjoint_params=() where there are none"
        )
    if adjoint_method not in (None, method) and options is not None and adjoint_options is None:
        raise SchemenetError(
            f"adjoint_method={adjoint_method!r} is another method than {method or 'dopri5'!r}, so its options cannot "
            "be taken over from options; give adjoint_options as well"
        )
    call = _Call(func, y0, t, rtol, atol, method, options, event_fn, adjoint_params)
    back = (
        dict(adjoint_options) if adjoint_options is not None else {k: v for k, v in call.options.items() if k != "norm"}
    )
    norm = back.pop("norm", None)
    if adjoint_method is None:
        explicit = call.method.kind != "scipy" and not SCHEMES.build(call.method.ours).implicit
        adjoint_method = method if explicit else "dopri5"
        back = back if explicit or adjoint_options is not None else {}
    other = _Method.of(adjoint_method)
    if "norm" in call.options:
        back["norm"] = call.options["norm"]
    grid = other.grid(
        call.rtol if adjoint_rtol is None else adjoint_rtol, call.atol if adjoint_atol is None else adjoint_atol,
        back, call,
    )  # fmt: skip
    if adjoint_options is None and "grid_constructor" in back:
        grid = None  # it knows the output times of the forward solve alone: the same steps, backwards
    mode = Adjoint(norm=None if norm == "seminorm" else norm, scheme=other.scheme(back), grid=grid)
    return call.result(call.solved(mode))


def odeint_event(
    func: Callable[..., Any],
    y0: Any,
    t0: Tensor,
    *,
    event_fn: Callable[..., Tensor],
    reverse_time: bool = False,
    odeint_interface: Callable[..., Any] = odeint,
    **kwargs: Any,
) -> tuple[Tensor, Any]:
    """The time at which an entry of event_fn(t, y) first crosses zero, and the states at t0 and there.

    Both depend on y0, on the parameters and on t0 as the solution does, by the implicit function theorem; unlike with
    torchdiffeq also on the parameters of ``event_fn``.

    Args:
        func: the vector field ``func(t, y) -> dy``.
        y0: the state at t0, a tensor or a tuple of tensors.
        t0: the start time, a tensor of one number.
        event_fn: ``event_fn(t, y) -> values``, or an :class:`schemes.integration.events.Event`, which has the rules for
            what is an event and can be restricted to one direction.
        reverse_time: whether the solve runs backwards in time.
        odeint_interface: :func:`odeint`, :func:`odeint_adjoint`, or a function that calls one of them.
        **kwargs: its other arguments.

    Returns:
        The event's time and the states at t0 and at the event, with one more dimension before the others.
    """
    t0 = torch.as_tensor(t0)
    start = t0.double().reshape(-1)  # a late time and the next one are the same in float32
    t = torch.cat((start, start.detach() + (-1.0 if reverse_time else 1.0)))
    event_t, states = odeint_interface(func, y0, t, event_fn=event_fn, **kwargs)
    of_state = (states if isinstance(states, Tensor) else states[0]).real.dtype
    return event_t.to(torch.promote_types(t0.dtype, of_state)), states


def odeint_dense(
    func: Callable[..., Any],
    y0: Any,
    t0: Any,
    t1: Any,
    *,
    rtol: Any = RTOL,
    atol: Any = ATOL,
    method: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> Callable[[Any], Any]:
    """The solution from t0 to t1 as a function of time. Differentiable by backprop.

    Args:
        func: the vector field ``func(t, y) -> dy``.
        y0: the state at t0, a tensor or, unlike with torchdiffeq, a tuple of tensors.
        t0: the start time.
        t1: the end time.
        rtol: relative tolerance.
        atol: absolute tolerance.
        method: any adaptive method; None: dopri5.
        options: the method's options, with torchdiffeq's names.

    Returns:
        A function of a number, or of a tensor of times (one more dimension for each of its own).

    Raises:
        SchemenetError: for a method that has no interpolant.
    """
    call = _Call(func, y0, torch.stack([exact(t0), exact(t1)]), rtol, atol, method, options)
    if call.method.kind != "adaptive":
        raise SchemenetError(f"odeint_dense: method {call.method.name!r} has no interpolant; use dopri5 or tsit5")
    solution = call.solved("backprop", dense=True)

    def at(times: Any) -> Any:
        if not isinstance(times, Tensor) or times.dim() == 0:
            return solution(times)
        values = [solution(time) for time in times.reshape(-1)]
        return _each(lambda *parts: torch.stack(parts).reshape(*times.shape, *parts[0].shape), *values)

    return at


def _each(function: Callable[..., Tensor], *states: Any) -> Any:
    """A function of tensors, applied to states that are tensors or tuples of them."""
    if isinstance(states[0], Tensor):
        return function(*states)
    return tuple(function(*parts) for parts in zip(*states, strict=True))


class _Method(NamedTuple):
    """A method by the name that the user gave: ours, and how its steps are found."""

    name: str
    ours: str
    kind: str

    @classmethod
    def of(cls, name: str | None) -> _Method:
        name = "dopri5" if name is None else name
        if name == "scipy_solver":
            return cls(name, "dopri5", "scipy")
        if (ours := ADAPTIVE.get(name)) is not None:
            kind = "adaptive"
        elif (ours := FIXED.get(name)) is not None:
            kind = "adams" if "adams" in name else "fixed"
        elif name in SCHEMES:
            ours = name
            kind = "fixed" if SCHEMES.build(name).error_order is None else "adaptive"
        else:
            ours = kind = ""
        if ours not in SCHEMES:
            known = [*(k for k, v in {**ADAPTIVE, **FIXED}.items() if v in SCHEMES), "scipy_solver", *SCHEMES.list()]
            raise SchemenetError(unknown("method", name, dict.fromkeys(known)))
        return cls(name, ours, kind)

    def scheme(self, options: Mapping[str, Any]) -> Scheme:
        """The scheme, with those of the options that are the scheme's."""
        if self.kind != "adams":
            return SCHEMES.build(single_step(self.ours))
        spec: dict[str, Any] = {"name": self.ours}
        order = int(options.get("max_order", 4))
        takes = SCHEMES.options(self.ours)
        if order < 4 and "order" in takes and order >= 2:
            spec["order"] = order
        elif order < 4 and self.ours == "adams_bashforth4" and f"adams_bashforth{order}" in SCHEMES:
            spec["name"] = f"adams_bashforth{order}"
        if "iterations" in takes and "max_iters" in options:
            spec["iterations"] = int(options["max_iters"])
        return SCHEMES.build(spec)

    def grid(self, rtol: Any, atol: Any, options: Mapping[str, Any], call: _Call) -> Grid:
        """The grid, with its options; warns of those that the method does not take."""
        taken = GRID_OPTIONS[self.kind]
        for key in options:
            if key not in taken:
                warnings.warn(not_taken(f"method {self.name!r}", key, taken), UnusedOptionWarning, stacklevel=4)
        options = {key: value for key, value in options.items() if key in taken}
        if self.kind == "scipy":
            largest = options.get("max_step")
            least = float(options.get("min_step", 0.0))
            return ScipyGrid(
                options.get("solver", "LSODA"), rtol, atol, None if largest is None else float(largest), least
            )
        if self.kind == "adaptive":
            return _adaptive_grid(rtol, atol, options, call)
        return _stepped_grid(options, call)


class UnusedOptionWarning(UserWarning):
    """An option that the method does not take."""


def _adaptive_grid(rtol: Any, atol: Any, options: Mapping[str, Any], call: _Call) -> AdaptiveGrid:
    first, longest = options.get("first_step"), options.get("max_step")
    return AdaptiveGrid(
        rtol=rtol, atol=atol,
        first_step=None if first is None else float(first),
        min_step=float(options.get("min_step", 0.0)),
        max_step=None if longest is None or math.isinf(longest) else float(longest),
        max_steps=int(options.get("max_num_steps", 2**31 - 1)),
        safety=float(options.get("safety", 0.9)),
        growth=float(options.get("ifactor", 10.0)),
        shrink=float(options.get("dfactor", 0.2)),
        step_t=_numbers(options.get("step_t")), jump_t=_numbers(options.get("jump_t")),
        norm=options.get("norm", _largest_of_parts if isinstance(call.y0, tuple) else None),
    )  # fmt: skip


def _stepped_grid(options: Mapping[str, Any], call: _Call) -> SteppedGrid:
    size, constructor = options.get("step_size"), options.get("grid_constructor")
    if size is not None and constructor is not None:
        raise SchemenetError("step_size and grid_constructor are mutually exclusive: give one of them")
    if (interpolation := options.get("interp", "linear")) not in ("linear", "cubic"):
        raise SchemenetError(unknown("interp", interpolation, ("linear", "cubic")))

    def times_of(times: Sequence[float]) -> list[float]:
        assert constructor is not None
        return exact(constructor(call.field.func, call.y0, exact(times).to(call.t.device))).tolist()

    return SteppedGrid(
        None if size is None else float(size),
        None if constructor is None else times_of,
        interpolation,
        perturb=bool(options.get("perturb", False)),
    )


def _numbers(times: Any) -> Sequence[float]:
    return () if times is None else exact(times).detach().reshape(-1).tolist()


def _largest_of_parts(parts: Sequence[Tensor]) -> float:
    """torchdiffeq's norm of a tuple: the largest root mean square of its tensors."""
    return max(root_mean_square([part]) for part in parts if part.numel())


class _Field(nn.Module):
    """func as torchdiffeq calls it: t in the precision of the state, a tuple for a tuple."""

    def __init__(self, func: Callable[..., Any], y0: Any, hidden: bool) -> None:
        super().__init__()
        if isinstance(func, nn.Module) and not hidden:
            self.module = func
        self.__dict__["func"] = func
        self.dtype = (y0 if isinstance(y0, Tensor) else y0[0]).real.dtype
        self.tuple = isinstance(y0, tuple)

    def forward(self, t: Tensor, y: Any) -> Any:
        value = self.func(t.to(self.dtype), y)
        return tuple(value) if self.tuple and isinstance(value, list) else value

    def __getattr__(self, name: str) -> Any:
        if name.startswith("callback_"):
            return getattr(self.func, name)
        return super().__getattr__(name)


class _Call:
    """The arguments of a call, checked."""

    def __init__(
        self,
        func: Callable[..., Any],
        y0: Any,
        t: Any,
        rtol: Any,
        atol: Any,
        method: str | None,
        options: Mapping[str, Any] | None,
        event_fn: Any = None,
        adjoint_params: Iterable[Tensor] | None = None,
    ) -> None:
        self.method, self.options = _Method.of(method), dict(options or {})
        self.y0, self.rtol, self.atol = tuple(y0) if isinstance(y0, list) else y0, rtol, atol
        if not isinstance(self.y0, Tensor | tuple) or not len(self._parts()):
            raise SchemenetError(f"y0: expected a tensor or a tuple of tensors, got {y0!r}")
        self.parameters = None if adjoint_params is None else [p for p in adjoint_params if p.requires_grad]
        self.field = _Field(func, self.y0, hidden=self.parameters is not None)
        self.t = exact(t)
        self.time_dtype = torch.promote_types(t.dtype, self.field.dtype) if isinstance(t, Tensor) else self.field.dtype
        self.event = event_fn
        self.grid = self.method.grid(rtol, atol, self.options, self)
        self._check_callbacks()
        numbers = all(isinstance(tolerance, int | float) for tolerance in (rtol, atol))
        if self.method.kind == "adaptive" and numbers and (rtol, atol) != (RTOL, ATOL):
            warn_of_tolerance(rtol, atol, self.field.dtype, stacklevel=4)
        if event_fn is not None:
            self._prepare_event()

    def _parts(self) -> Sequence[Any]:
        return (self.y0,) if isinstance(self.y0, Tensor) else self.y0

    def _check_callbacks(self) -> None:
        supported = {"adaptive": 3, "fixed": 1, "adams": 1, "scipy": 0}[self.method.kind]
        if ignored := [name for name in CALLBACKS[supported:] if hasattr(self.field.func, name)]:
            message = f"method {self.method.name!r} does not support the callbacks {', '.join(ignored)}"
            warnings.warn(message, UnusedOptionWarning, stacklevel=4)

    def _prepare_event(self) -> None:
        if len(self.t) != 2:
            raise SchemenetError(
                f"event_fn: expected two times, the start and one in the direction of time, got {len(self.t)}"
            )
        if self.method.kind == "scipy":
            raise SchemenetError("event_fn: scipy_solver looks for no events; use dopri5")
        if self.t[0] == self.t[1]:
            raise SchemenetError(
                f"event_fn: the second time tells the direction of time by being before or after the first, got "
                f"t = {self.t.tolist()}"
            )
        self.event = endless(self.event)
        if self.grid.steps_known:
            if self.grid.step_size is None:
                raise SchemenetError(f"event_fn: method {self.method.name!r} needs options={{'step_size': ...}}")
            first, second = self.t.detach()
            span = MOST_EVENT_STEPS * self.grid.step_size
            self.t = torch.stack((self.t[0], first + torch.copysign(torch.full_like(first, span), second - first)))

    def solved(self, gradient: Any, dense: bool = False) -> Solution:
        return solve(
            self.field, self.y0, self.t, parameters=self.parameters, scheme=self.method.scheme(self.options),
            grid=self.grid, gradient=gradient, dense=dense, event=self.event,
        )  # fmt: skip

    def result(self, solution: Solution) -> Any:
        if self.event is None:
            return solution.values
        if solution.status != "event":
            raise SchemenetError(f"event_fn: no event in {MOST_EVENT_STEPS} steps of {self.grid.step_size}")
        ends = _each(lambda part: part[[0, -1]], solution.values)
        return solution.times[-1].to(self.time_dtype), ends
