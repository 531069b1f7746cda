"""Scheme: the base class of all methods."""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import Any, ClassVar, Literal, NamedTuple, Protocol

import numpy as np
from torch import Tensor, nn

from schemes.core.node import Node
from schemes.core.state import State, VectorField
from schemes.core.tableau import ButcherTableau
from schemes.errors import SchemenetError


class Coefficient(NamedTuple):
    """A learnable number that serves at one step; the scheme is zero-stable where low < value <= high."""

    name: str
    step: int
    value: Tensor
    low: float
    high: float


class StepResult(NamedTuple):
    """One step with an estimate of its error, for an adaptive grid to accept or reject.

    Attributes:
        y: the state at the end of the step.
        solver_state: the scheme's own state there.
        error: estimates the local error of ``y``, without evaluating f again.
        interpolate: the state at t + theta h for theta in [0, 1], differentiable, without evaluating f again.
        interpolate_all: the states at a vector of theta, stacked in front; None where it is no cheaper than one by one.
        interpolate_rows: where each row of the batch has a step size of its own, some of its rows (their indices, each
            as often as wished), each at a theta of its own; None where steps end at output times.
    """

    y: State
    solver_state: tuple[State, ...]
    error: Callable[[], State]
    interpolate: Callable[[float], State]
    interpolate_all: Callable[[Tensor], State] | None = None
    interpolate_rows: Callable[[Tensor, Tensor], State] | None = None


class InvertibleMap(Protocol):
    """A step, or a part of one, and what undoes it; both as :meth:`Scheme.step` and :meth:`Scheme.inverse`."""

    def step(
        self, f: VectorField, node: Node, y: State, solver_state: tuple[State, ...]
    ) -> tuple[State, tuple[State, ...]]: ...

    def inverse(
        self, f: VectorField, node: Node, y: State, solver_state: tuple[State, ...]
    ) -> tuple[State, tuple[State, ...]]: ...


class ExplicitPair(Protocol):
    """An explicit embedded pair of Runge-Kutta methods, taken apart: its coefficients, stages, error and result."""

    tableau: ClassVar[ButcherTableau]

    def stages_of_pair(
        self, f: VectorField, node: Node, y: State, solver_state: tuple[State, ...]
    ) -> tuple[State, list[State]]: ...

    def error_of_pair(self, h: Any, k: list[State]) -> State: ...

    def attempted(self, h: Any, y: State, following: State, k: list[State]) -> StepResult: ...


class Scheme(nn.Module, abc.ABC):
    """A method: combines evaluations of f into one step of y' = f(t, y).

    To add one, derive from this class (from ``RungeKutta`` or ``ImplicitRungeKutta`` where a tableau says it all) in
    one file of ``schemes/methods``, implement :meth:`step`, and register it. It is a module only because coefficients
    may be learnable. A subclass declares, as class attributes or as properties of the instance, always

    - ``order``: the order of convergence on ``problem``, None where it is no method for y' = f as configured;
    - ``stages``: evaluations of f in one step (after a multistep scheme has started);

    and only where the default does not hold

    - ``history`` (0): states or values of f remembered between steps;
    - ``accepts_past_states`` (False): whether ``init_state`` uses an older state that the flow gets;
    - ``components`` (1): parts of a coupled state, which is then a tuple;
    - ``implicit`` (False): whether a step solves an equation;
    - ``reversible`` (False): whether :meth:`inverse` undoes :meth:`step`;
    - ``max_reversible_steps`` (None, any): how many steps :meth:`inverse` may undo before rounding errors grow too far;
    - ``error_order`` (None): where :meth:`attempt` estimates its error, h^error_order is how the estimate of one step
      falls;
    - ``fsal`` (False): whether the solver state of an attempt is the slope f(t, y) alone (first same as last);
    - ``steps_end_at_outputs`` (False): whether adaptive steps end at output times, as its interpolant is not good
      enough there;
    - ``random_steps`` (False): whether it draws at random in training what a step is;
    - ``noise_reaches_arguments`` (False): whether a weight on one evaluation changes the argument of a later one of the
      same step (see :meth:`step`);
    - ``parallel_branches`` (1): independent branches evaluated at u_n, each with its weights (shake-shake needs two);
    - ``problem`` ("general"): the class of ODE on which ``order`` holds;
    - ``sharing`` ("per_step"): the default sharing of weights (see ``schemes.field_bank``).
    """

    order: ClassVar[int | None] | property
    stages: ClassVar[int] | property
    history: int = 0
    components: int = 1
    accepts_past_states: bool = False
    reversible: bool = False
    max_reversible_steps: int | property | None = None
    implicit: bool = False
    random_steps: bool | property = False
    noise_reaches_arguments: bool | property = False
    parallel_branches: int | property = 1
    error_order: int | None = None
    fsal: bool = False
    steps_end_at_outputs: bool = False
    problem: Literal["general", "linear", "separable"] = "general"
    sharing: str = "per_step"

    def __init_subclass__(cls, abstract: bool = False, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        missing = [name for name in ("order", "stages") if not hasattr(cls, name)]
        if missing and not abstract:
            raise TypeError(f"scheme {cls.__name__} must declare {', '.join(missing)}")

    @property
    def multistep(self) -> bool:
        """Whether the solver state belongs to earlier steps: a second copy of the present state does not."""
        return self.history > 0

    def allocate(self, steps: int, past: int = 0) -> None:
        """Make coefficients for ``steps`` steps; :meth:`init_state` will get ``past`` older states."""

    def coefficients(self) -> tuple[Coefficient, ...]:
        """The learnable numbers that :meth:`allocate` made, in the order of the steps."""
        return ()

    def init_state(self, y: State, past: tuple[State, ...] = ()) -> tuple[State, ...]:
        """The solver state before the first step, from older states ``past``, the latest first. Calls no f."""
        return ()

    @abc.abstractmethod
    def step(
        self, f: VectorField, node: Node, y: State, solver_state: tuple[State, ...]
    ) -> tuple[State, tuple[State, ...]]:
        """One step.

        Noise on the steps of a network is a weight on f's values. It belongs to the sum that the step adds to the
        state, and not to the arguments of f: a scheme that evaluates f at arguments made of values of f from the same
        step calls :func:`schemes.core.weighting.separate_weights` and evaluates the plain f. One that cannot (a coupled
        state, a corrector) declares ``noise_reaches_arguments``; a test of all registered schemes holds them to it.

        Args:
            f: the right-hand side, called as ``f(node, y)``; for component i of a coupled state with
                ``node.component`` i and the other component.
            node: step index, time and size; ``node.at(stage, c)`` is the node of a stage.
            y: the state, a tensor or a tuple.
            solver_state: the scheme's own state after the step before, empty before the first step or as
                :meth:`init_state` gave it.

        Returns:
            State and solver state after the step.
        """

    def attempt(self, f: VectorField, node: Node, y: State, solver_state: tuple[State, ...]) -> StepResult:
        """The step after ``node`` with an estimate of its error; h may differ from step to step.

        Args:
            f: the right-hand side, as in :meth:`step`.
            node: step index, time and size.
            y: the state.
            solver_state: that of the accepted attempt before, or empty, or with ``fsal`` (f(t, y),).
        """
        raise SchemenetError(f"scheme {type(self).__name__} estimates no error of its steps")

    def finish(self, f: VectorField, node: Node, y: State, solver_state: tuple[State, ...]) -> State:
        """The result of an attempt after which the solver state is dropped; may cost less than the attempt."""
        return self.attempt(f, node, y, solver_state).y

    @property
    def explicit_pair(self) -> ExplicitPair | None:
        """This scheme as an explicit Runge-Kutta pair; None where it is none."""
        return None

    def set_tolerances(self, rtol: Any, atol: Any) -> None:
        """Set the errors that a step may have, before a solve, for schemes that solve equations inside.

        Args:
            rtol: a number, a tensor that broadcasts with the state, or a list with one of them for each of its tensors.
            atol: as ``rtol``.
        """

    def inverse(
        self, f: VectorField, node: Node, y: State, solver_state: tuple[State, ...]
    ) -> tuple[State, tuple[State, ...]]:
        """State and solver state at ``node`` from those one step later.

        Evaluates f at the nodes and arguments of the step, so that a reverse sweep needs each of them once.
        """
        raise SchemenetError(f"scheme {type(self).__name__} is not reversible")

    @property
    def invertible_parts(self) -> tuple[InvertibleMap, ...]:
        """The maps that a reversible step consists of, in order: a reverse sweep holds the graphs of one at a time."""
        return (self,)

    def stability_function(self) -> tuple[np.ndarray, np.ndarray] | None:
        """Numerator and denominator of R(z) for u' = lambda u, z = h lambda, lowest powers first.

        None where a step is a polynomial in z, which ``schemes.analysis.stability`` finds by running it.
        """
        return None


def scheme_parameters(module: nn.Module) -> dict[str, nn.Parameter]:
    """The trained coefficients of the schemes inside a module (k_n), by their names in it."""
    schemes = [(path, part) for path, part in module.named_modules() if isinstance(part, Scheme)]
    return {name: p for path, scheme in schemes for name, p in scheme.named_parameters(prefix=path)}
