"""Any explicit one-step method made reversible."""

from __future__ import annotations

import math
from collections.abc import Callable

from schemes.core.node import Node
from schemes.core.scheme import InvertibleMap, Scheme, StepResult
from schemes.core.state import State, VectorField, axpy
from schemes.core.weighting import Weighted, separate_weights
from schemes.errors import SchemenetError
from schemes.registry import SCHEMES
from schemes.schema import Spec

AMPLIFICATION = 10.0
"""By how much the inverse of all steps may stretch a rounding error of the end: coupling^-steps."""
UNKNOWN = 0.999
"""The coupling where the number of steps is not known."""


@SCHEMES.register("reversible_wrap")
class ReversibleWrap(Scheme):
    r"""The reversible method of McCallum and Foster around a base method, at two base steps a step.

        y_{n+1} = l y_n + (1 - l) z_n + Psi_h(t_n, z_n),        z_{n+1} = z_n - Psi_{-h}(t_{n+1}, y_{n+1})

    u + Psi_h(t, u) is one step of ``base``. Both start at u_0; y is the state, z the solver state, and either is right
    to the base's order. The inverse is explicit,

        z_n = z_{n+1} + Psi_{-h}(t_{n+1}, y_{n+1}),             y_n = z_n + (y_{n+1} - z_n - Psi_h(t_n, z_n)) / l

    and stretches an error of y - z by 1/l a step. The smaller l is, the more closely z follows y (around forward Euler
    the real stability interval is [l - 1, 0]; at l = 1 it is empty around any base). An attempt estimates its error by
    that of ``base``, then a pair that estimates its error, in Psi_h(t_n, z_n).

    The step back has the weights of its step; its stages are numbered on, s to 2s - 1, which makes them further nodes:
    batch norm keeps its statistics at each, and ``sharing=per_stage`` gives each separate weights, by which the map
    stays reversible but z no longer follows y.

    Args:
        base: the name of an explicit one-step method, or a mapping with its parameters.
        coupling: l in (0, 1]. None takes the smallest one with l^-n <= 10 over a flow of n steps, l = 10^(-1/n): the
            inverse loses one decimal digit at most, and the stability intervals depend on n as well. On adaptive grids
            n is not known beforehand, and None is 0.999. With a smaller coupling gradient=reversible warns as soon as
            the rebuilt states are off.

    Reference: McCallum, Foster, "Efficient, Accurate and Stable Gradients for Neural ODEs", 2024, arXiv:2410.11648.
    """

    history = 1
    reversible = True
    noise_reaches_arguments = True  # the step back starts from the result of the step forth

    def __init__(self, base: Spec = "heun", coupling: float | None = None) -> None:
        super().__init__()
        self.base: Scheme = SCHEMES.build(base)
        if (reason := _unfit(self.base)) is not None:
            raise SchemenetError(
                f"scheme 'reversible_wrap': base expected to be an explicit one-step method for y' = f, got "
                f"{SCHEMES.entry_of(base).name!r}, which {reason}"
            )
        if coupling is not None and not 0 < coupling <= 1:
            raise SchemenetError(f"scheme 'reversible_wrap': coupling expected to be in (0, 1], got {coupling}")
        self.fixed = coupling
        self.problem, self.error_order = self.base.problem, self.base.error_order
        self.coupling = UNKNOWN if coupling is None else coupling

    @property
    def order(self) -> int | None:
        return self.base.order

    @property
    def max_reversible_steps(self) -> int | None:
        """As many steps as stretch an error tenfold, where the user has not chosen the coupling."""
        return None if self.fixed is not None else int(math.log(AMPLIFICATION) / -math.log(self.coupling) + 1e-6)

    @property
    def multistep(self) -> bool:
        return False  # z is a second state of the same time

    @property
    def stages(self) -> int:
        return 2 * self.base.stages

    def allocate(self, steps: int, past: int = 0) -> None:
        self.base.allocate(steps)
        if self.fixed is None:
            self.coupling = AMPLIFICATION ** (-1 / steps) if steps else UNKNOWN

    @property
    def invertible_parts(self) -> tuple[InvertibleMap, ...]:
        return _StepOfState(self), _StepOfCompanion(self)

    def step(
        self, f: VectorField, node: Node, y: State, solver_state: tuple[State, ...]
    ) -> tuple[State, tuple[State, ...]]:
        for part in self.invertible_parts:
            y, solver_state = part.step(f, node, y, solver_state)
        return y, solver_state

    def attempt(self, f: VectorField, node: Node, y: State, solver_state: tuple[State, ...]) -> StepResult:
        def apart(visit: Node) -> Node:
            """The stages that only the estimate reads behind those of the step back."""
            last = visit.stage >= self.base.stages
            return visit._replace(stage=visit.stage + self.base.stages) if last else visit

        z = solver_state[0] if solver_state else y
        forth = self.base.attempt(_elsewhere(f, apart), node, z, ())
        following = self.coupled(y, z, forth.y)
        following, after = _StepOfCompanion(self).step(f, node, following, (z,))

        def interpolate(theta: float) -> State:
            """The base's, and what is left of y - z."""
            left = 1 - theta * (1 - self.coupling)
            return forth.interpolate(theta) if z is y else axpy(forth.interpolate(theta), axpy(y, z, -1), left)

        return StepResult(following, after, forth.error, interpolate)

    def inverse(
        self, f: VectorField, node: Node, y: State, solver_state: tuple[State, ...]
    ) -> tuple[State, tuple[State, ...]]:
        for part in reversed(self.invertible_parts):
            y, solver_state = part.inverse(f, node, y, solver_state)
        return y, solver_state

    def coupled(self, y: State, z: State, forth: State) -> State:
        """The following state, from forth = z + Psi_h(t_n, z)."""
        # Differences of near states first, so that as little as possible is rounded.
        return forth if z is y else axpy(forth, axpy(y, z, -1), self.coupling)

    def forth(self, f: VectorField, node: Node, z: State) -> State:
        """The base's step from t_n to t_{n+1}."""
        return self.base.step(f, node, z, ())[0]

    def back(self, f: VectorField, node: Node, y: State) -> State:
        """The base's step from t_{n+1} to t_n, its stages numbered after those of the step forth."""

        def numbered_on(visit: Node) -> Node:
            return Node(node.step, visit.t, node.h, self.base.stages + visit.stage)

        end = Node(node.step, node.t + node.h, -node.h)
        return self.base.step(_elsewhere(f, numbered_on), end, y, ())[0]


class _StepOfState:
    """y_{n+1} from y_n and z_n."""

    def __init__(self, scheme: ReversibleWrap) -> None:
        self.scheme = scheme

    def step(
        self, f: VectorField, node: Node, y: State, solver_state: tuple[State, ...]
    ) -> tuple[State, tuple[State, ...]]:
        z = solver_state[0] if solver_state else y
        return self.scheme.coupled(y, z, self.scheme.forth(f, node, z)), (z,)

    def inverse(
        self, f: VectorField, node: Node, y: State, solver_state: tuple[State, ...]
    ) -> tuple[State, tuple[State, ...]]:
        (z,) = solver_state
        if node.step == 0:
            return z, ()
        return axpy(z, axpy(y, self.scheme.forth(f, node, z), -1), 1 / self.scheme.coupling), (z,)


class _StepOfCompanion:
    """z_{n+1} from z_n and y_{n+1}."""

    def __init__(self, scheme: ReversibleWrap) -> None:
        self.scheme = scheme

    def step(
        self, f: VectorField, node: Node, y: State, solver_state: tuple[State, ...]
    ) -> tuple[State, tuple[State, ...]]:
        return y, (axpy(solver_state[0], axpy(y, self.scheme.back(f, node, y), -1), 1),)

    def inverse(
        self, f: VectorField, node: Node, y: State, solver_state: tuple[State, ...]
    ) -> tuple[State, tuple[State, ...]]:
        return y, (axpy(solver_state[0], axpy(self.scheme.back(f, node, y), y, -1), 1),)


def _elsewhere(f: VectorField, place: Callable[[Node], Node]) -> Weighted:
    """f, evaluated and weighted at another node than that of the call."""
    plain, weigh = separate_weights(f)
    return Weighted(lambda node, y: plain(place(node), y), lambda node, value: weigh(place(node), value))


def _unfit(base: Scheme) -> str | None:
    """Why a scheme cannot be wrapped, with what to take in its place."""
    if base.reversible:
        return "is reversible as it is; use it by itself, or wrap heun"
    if base.history:
        return "remembers earlier steps; use heun, rk3 or rk4"
    if base.implicit:
        return "solves an equation at each step; use heun, rk3 or rk4"
    if base.sharing == "per_stage":
        return "has weights of its own at each stage, which a step back would not share; use heun, rk3 or rk4"
    if base.order is None:
        return "as configured is no method for y' = f; use heun, rk3 or rk4"
    return None
