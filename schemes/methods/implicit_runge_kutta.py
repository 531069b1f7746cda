"""Implicit Runge-Kutta methods, whose equations are solved and not truncated."""

from __future__ import annotations

import abc
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from schemes.core.interpolation import extension
from schemes.core.node import Node
from schemes.core.scheme import Scheme, StepResult
from schemes.core.state import FlatState, State, VectorField, combine, flatten, unflatten
from schemes.core.tableau import ButcherTableau
from schemes.core.weighting import on_vectors, separate_weights
from schemes.errors import Problems
from schemes.nonlinear.newton_krylov import Solver, plain, refuse_transforms
from schemes.nonlinear.simplified_newton import ACCURACY, StageSolver, extrapolations


class ImplicitRungeKutta(Scheme, abstract=True):
    """y_{n+1} = y_n + h sum_i b_i k_i with k_i = f(t_n + c_i h, y_n + h sum_j a_ij k_j).

    The equations are solved by Newton-Krylov; where that fails, :class:`schemes.nonlinear.newton_krylov.NoConvergence`
    is raised: at h = 1 an untrained block is far from a contraction. Gradients are the implicit function theorem's.
    Batch norm normalises by the batch at each evaluation, the running statistics see the solution only; a dropout mask
    is one for the whole solve. A state in parts, or a complex one, is solved for as one real vector.

    Costs depend on the data: on the meta device (sizes, multiply-adds) one trial evaluation stands for all of them;
    the counted evaluations are the true ones.

    Args:
        tolerance: relative, in (0, 1); None: down to rounding, and at least to eps^(2/3), eps that of the precision
            that f computes in.
        iterations: of Newton's method, at most.
        krylov: vectors of GMRES, at most.
        substeps: parts of equal size that make up a step, all with its weights.
    """

    tableau: ClassVar[ButcherTableau]
    implicit = True

    def __init_subclass__(cls, abstract: bool = False) -> None:
        if not abstract:
            cls.order = cls.tableau.order
        super().__init_subclass__(abstract)

    def __init__(
        self, tolerance: float | None = None, iterations: int = 20, krylov: int = 40, substeps: int = 1
    ) -> None:
        super().__init__()
        counts = {"iterations": iterations, "krylov": krylov, "substeps": substeps}
        problems = Problems(f"scheme {type(self).__name__}: ")
        problems.add(*(f"{key} expected to be at least 1, got {value}" for key, value in counts.items() if value < 1))
        if tolerance is not None and not 0 < tolerance < 1:
            problems.add(f"tolerance expected to be in (0, 1), got {tolerance}")
        problems.raise_if_any()
        self.substeps = substeps
        self.solver = Solver(tolerance, iterations, krylov)

    @property
    def stages(self) -> int:
        return self.substeps * self.tableau.stages

    @property
    def noise_reaches_arguments(self) -> bool:
        """A substep starts from the noisy result of the one before."""
        return self.substeps > 1

    def step(
        self, f: VectorField, node: Node, y: State, solver_state: tuple[State, ...]
    ) -> tuple[State, tuple[State, ...]]:
        refuse_transforms(y)
        if not FlatState.needed(y):
            return self._substeps(self.solver, f, node, y), solver_state
        joined = FlatState(y)
        solver = replace(self.solver, coarsest=joined.coarsest)
        return joined.parts(self._substeps(solver, on_vectors(f, joined), node, joined.vector(y))), solver_state

    def _substeps(self, solver: Solver, f: VectorField, node: Node, y: Tensor) -> Tensor:
        h = node.h / self.substeps
        for part in range(self.substeps):
            y = self._part(solver, f, Node(node.step, node.t + part * h, h), y, part * self.tableau.stages)
        return y

    @abc.abstractmethod
    def _part(self, solver: Solver, f: VectorField, node: Node, y: Tensor, first: int) -> Tensor:
        """One of the parts of a step; its stages are numbered from ``first``."""

    def stability_function(self) -> tuple[np.ndarray, np.ndarray]:
        """Numerator and denominator of R(z) = det(I - z A + z 1 b^T) / det(I - z A), lowest power first."""
        a, b = self.tableau.matrix, np.array(self.tableau.b, dtype=float)
        # det(I - z M) is the characteristic polynomial of M with its coefficients in reverse.
        scale = self.substeps ** -np.arange(len(b) + 1.0)
        numerator, denominator = np.poly(a - np.outer(np.ones(len(b)), b)) * scale, np.poly(a) * scale
        power = np.polynomial.polynomial.polypow
        return power(numerator, self.substeps), power(denominator, self.substeps)


class DiagonallyImplicit(ImplicitRungeKutta, abstract=True):
    """An implicit method whose stages are solved one after the other: a_ij = 0 for j > i.

    With embedded weights it is a pair for adaptive grids: its first stage is explicit, the last one is f at the step's
    result, and cubic Hermite interpolation its continuous extension unless the tableau has one. An attempt solves its
    stages to a fraction of the tolerance of the step (``schemes.nonlinear.simplified_newton``) and takes the slopes
    from the equations; only where gradients are needed is f evaluated at the solutions once more. Steps end at output
    times: of a stiff problem no polynomial in the slopes is as good as the ends of steps, whatever its order.

    Arguments as of :class:`ImplicitRungeKutta`.
    """

    steps_end_at_outputs = True

    def __init_subclass__(cls, abstract: bool = False) -> None:
        if not abstract and (pair := cls.tableau).embedded is not None:
            if any(pair.a[0]) or not pair.fsal:
                raise TypeError(
                    f"{cls.__name__} has embedded weights; give it an explicit first and an fsal last stage"
                )
            cls.error_order, cls.fsal = pair.embedded_order + 1, True
        super().__init_subclass__(abstract)

    def __init__(
        self, tolerance: float | None = None, iterations: int = 20, krylov: int = 40, substeps: int = 1
    ) -> None:
        super().__init__(tolerance, iterations, krylov, substeps)
        self.set_tolerances(1e-6, 1e-6)

    def set_tolerances(self, rtol: Any, atol: Any) -> None:
        self.rtol, self.atol = rtol, atol
        rtols = rtol if isinstance(rtol, list | tuple) else [rtol]
        self.least_rtol = min(float(part.min() if isinstance(part, Tensor) else part) for part in rtols)

    def attempt(self, f: VectorField, node: Node, y: State, solver_state: tuple[State, ...]) -> StepResult:
        if self.error_order is None:
            return super().attempt(f, node, y, solver_state)
        refuse_transforms(y)
        if not FlatState.needed(y):
            return self._attempt(self._adjoint_solver(y.dtype), f, node, y, solver_state, self._scale(y))
        joined = FlatState(y)
        solver = self._adjoint_solver(joined.coarsest)
        vectors = tuple(map(joined.vector, solver_state))
        result = self._attempt(
            solver, on_vectors(f, joined), node, joined.vector(y), vectors, joined.vector(self._scale(y))
        )
        ends = joined.parts(result.y), tuple(map(joined.parts, result.solver_state))
        return StepResult(
            *ends, lambda: joined.parts(result.error()), lambda theta: joined.parts(result.interpolate(theta))
        )

    def _scale(self, y: State) -> State:
        """atol + rtol |y|, entry by entry; of a complex one for both of its parts."""
        leaves, shape = flatten(y)
        rtols, atols = (t if isinstance(t, list | tuple) else [t] * len(leaves) for t in (self.rtol, self.atol))
        with torch.no_grad():
            scales = [atol + rtol * leaf.abs() for leaf, rtol, atol in zip(leaves, rtols, atols, strict=True)]
            scales = [torch.complex(s, s) if leaf.is_complex() else s for leaf, s in zip(leaves, scales, strict=True)]
        return unflatten(scales, shape)

    def _adjoint_solver(self, dtype: torch.dtype) -> Solver:
        """What solves the linear systems of the gradient: as the stages are, to a part of the relative tolerance."""
        if self.solver.tolerance is not None:
            return self.solver
        eps = torch.finfo(dtype).eps
        tolerance = min(eps ** (2 / 3), ACCURACY * self.least_rtol)
        return replace(self.solver, tolerance=tolerance if tolerance > 10 * eps else None, coarsest=dtype)

    def _attempt(
        self, adjoint: Solver, f: VectorField, node: Node, y: Tensor, solver_state: tuple[State, ...], scale: Tensor
    ) -> StepResult:
        h = node.h
        k = [solver_state[0] if solver_state else f(node, y)]
        solver = StageSolver(f, scale, self.solver.krylov)
        following = y
        rows = zip(self.tableau.all_rows, extrapolations(self.tableau.c), strict=True)
        for stage, ((c, (*earlier, (_, diagonal))), ahead) in list(enumerate(rows))[1:]:
            at, a = node.at(stage, c), h * diagonal
            base = combine(y, ((h * b, k[j]) for j, b in earlier))
            with torch.inference_mode(False), torch.no_grad():
                guess = combine(base, ((a * e, k[j]) for j, e in ahead))
                increment = solver.solve(at, plain(base), a, plain(guess)) - plain(base)
            if torch.is_grad_enabled():
                increment = adjoint.attach(f, at, base, a, increment)
            following = base + increment
            k.append(increment / a)

        def error() -> State:
            return combine(None, ((h * e, k[i]) for i, e in self.tableau.error))

        return StepResult(following, (k[-1],), error, extension(self.tableau, h, y, following, k))

    def _part(self, solver: Solver, f: VectorField, node: Node, y: Tensor, first: int) -> Tensor:
        f, weigh = separate_weights(f)
        k: list[Tensor] = []
        entering: list[Tensor] = []
        for stage, (c, row) in enumerate(self.tableau.rows):
            at = node.at(first + stage, c)
            *earlier, diagonal = (*row, (0, 0.0)) if not row or row[-1][0] < stage else row
            base = combine(y, ((node.h * a, k[j]) for j, a in earlier))
            if a := node.h * diagonal[1]:
                # From the equation itself: f at the solution would magnify what the solve has left over.
                k.append(solver.solve(f, at, base, a) / a)
            else:
                k.append(f(at, base))
            entering.append(weigh(at, k[-1]))
        return combine(y, ((node.h * b, entering[i]) for i, b in self.tableau.weights))
