"""SciPy's solvers of initial value problems, as one step from the first time to the last."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch

from schemes.core.node import Node
from schemes.core.scheme import Scheme
from schemes.core.state import State, VectorField, flatten, unflatten
from schemes.errors import SchemenetError, SolverError
from schemes.integration.events import EventDetector
from schemes.integration.grid import Grid
from schemes.integration.loop import Carry, FieldOwner, Loop, LoopResult
from schemes.integration.step_size_controller import ErrorControl, StepSizeSettings


class ScipyGrid(Grid):
    """Solves a whole initial value problem by ``scipy.integrate.solve_ivp``, on the host in float64.

    No gradient passes through it: the continuous adjoint (``gradient="adjoint"`` with a scheme for the solve backwards)
    needs none.

    Args:
        solver: RK45, RK23, DOP853, Radau, BDF or LSODA.
        rtol: relative tolerance.
        atol: absolute tolerance.
        max_step: largest step size; None for any.
        min_step: smallest step size, of LSODA alone.

    Reference: Virtanen et al., "SciPy 1.0: fundamental algorithms for scientific computing in Python", Nature Methods
    17, 2020.
    """

    steps_known: ClassVar[bool] = False

    def __init__(
        self,
        solver: str = "LSODA",
        rtol: Any = 1e-3,
        atol: Any = 1e-6,
        max_step: float | None = None,
        min_step: float = 0.0,
    ) -> None:
        self.solver, self.rtol, self.atol, self.max_step, self.min_step = solver, rtol, atol, max_step, min_step

    def ivp_loop(
        self, scheme: Scheme, f: VectorField, owner: FieldOwner, times: Sequence[float], batching: str
    ) -> ScipyLoop:
        span = Node(0, times[0], times[-1] - times[0])
        return ScipyLoop(scheme, f, [span], owner, solver=self, times=times)

    def error_control(self) -> ErrorControl:
        return ErrorControl(StepSizeSettings(), self.rtol, self.atol)


@dataclass
class ScipyLoop(Loop):
    """The loop over the only step, with the states at all ``times``."""

    steps_known: ClassVar[bool] = False

    solver: ScipyGrid = field(kw_only=True)
    times: Sequence[float] = ()

    def advance(self, node: Node, carry: Carry, f: VectorField) -> LoopResult:
        from scipy.integrate import solve_ivp  # which takes longer to import than a small solve does

        leaves, shape = flatten(carry[0])
        if any(leaf.is_complex() for leaf in leaves):
            raise SchemenetError("scipy_solver: expected a real state, got a complex one")
        sizes = [leaf.numel() for leaf in leaves]

        def state(flat: np.ndarray) -> State:
            parts = torch.from_numpy(np.asarray(flat)).split(sizes)
            return unflatten([part.to(leaf).view_as(leaf) for part, leaf in zip(parts, leaves, strict=True)], shape)

        def slope(t: float, flat: np.ndarray) -> np.ndarray:
            with torch.no_grad():
                value = flatten(f(Node(0, t, 0.0), state(flat)))[0]
            return _flat(value)

        solver = self.solver
        least: Any = {"min_step": solver.min_step} if solver.solver == "LSODA" else {}  # the others have none
        try:
            solved = solve_ivp(
                slope, (self.times[0], self.times[-1]), _flat(leaves), t_eval=_distinct(self.times),
                method=solver.solver, rtol=solver.rtol, atol=solver.atol, max_step=solver.max_step or math.inf,
                **least,
            )  # fmt: skip
        except ValueError as error:
            if isinstance(error, SchemenetError):
                raise
            raise SchemenetError(f"scipy_solver: {error}") from error
        if not solved.success:
            raise SolverError(f"scipy_solver {solver.solver}: {solved.message} (at t = {solved.t[-1]:g})")
        self.forward.accepted += 1
        places = np.searchsorted(*_rising(solved.t, np.asarray(self.times[1:])))
        outputs = tuple(state(solved.y[:, i].copy()) for i in places)
        return LoopResult((outputs[-1], ()), outputs)

    def output_times(self) -> list[float]:
        return list(self.times)

    def error_control(self) -> ErrorControl:
        """The tolerances of the continuous adjoint, where it has no other grid."""
        return self.solver.error_control()

    def detect(self, detector: EventDetector, beyond: bool) -> None:
        raise SchemenetError("event: SciPy's solvers look for no events here; use grid=adaptive")

    def by_step(self, outputs: Sequence[Any]) -> list[tuple[Any, ...]]:
        return [tuple(outputs)]


def _flat(parts: Sequence[torch.Tensor]) -> np.ndarray:
    return np.concatenate([part.detach().cpu().double().reshape(-1).numpy() for part in parts])


def _distinct(times: Sequence[float]) -> list[float]:
    return list(dict.fromkeys(times))


def _rising(there: np.ndarray, times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return (there, times) if there[-1] >= there[0] else (-there, -times)
