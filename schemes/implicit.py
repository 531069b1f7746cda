"""Implicit methods, solved and not truncated."""

from __future__ import annotations

from fractions import Fraction as F
from typing import ClassVar

import numpy as np

from schemes.base import Scheme
from schemes.errors import SchemenetError
from schemes.newton_krylov import Solver
from schemes.node import Node
from schemes.registry import SCHEMES
from schemes.state import RightHandSide, State, axpy, combine
from schemes.tableau import ButcherTableau
from schemes.weighted import parted


class DiagonallyImplicit(Scheme, abstract=True):
    """y_{n+1} = y_n + h sum_i b_i k_i with k_i = f(t_n + c_i h, y_n + h sum_{j <= i} a_ij k_j).

    A stage with a_ii != 0 is an equation for its argument, solved by Newton-Krylov to a relative ``tolerance`` (None:
    eps^(2/3) of the precision that f computes in) within ``iterations`` of ``krylov`` vectors; where that fails,
    :class:`schemes.newton_krylov.NoConvergence` says so: at h = 1 an untrained block is far from a contraction.
    ``substeps`` parts of equal size make up a step, all with its weights. Gradients are the implicit function
    theorem's. Batch norm normalises by the batch at each evaluation, the running statistics see the solution only; a
    dropout mask is one for the whole solve.

    Costs depend on the data: on the meta device (sizes, multiply-adds) one trial evaluation stands for all of them,
    counted evaluations tell what was needed.
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
        wrong = [f"{key} expected to be at least 1, got {value}" for key, value in counts.items() if value < 1]
        if tolerance is not None and not 0 < tolerance < 1:
            wrong.append(f"tolerance expected to be in (0, 1), got {tolerance}")
        if wrong:
            raise SchemenetError("\n".join(f"scheme {type(self).__name__}: {line}" for line in wrong))
        self.substeps = substeps
        self.solver = Solver(tolerance, iterations, krylov)

    @property
    def stages(self) -> int:
        return self.substeps * self.tableau.stages

    def step(
        self, f: RightHandSide, node: Node, y: State, memory: tuple[State, ...]
    ) -> tuple[State, tuple[State, ...]]:
        if isinstance(y, tuple):
            raise SchemenetError(f"scheme {type(self).__name__} solves for one tensor, got a state of {len(y)} parts")
        h = node.h / self.substeps
        for part in range(self.substeps):
            y = self._part(f, Node(node.step, node.t + part * h, h), y, part * self.tableau.stages)
        return y, memory

    def _part(self, f: RightHandSide, node: Node, y: State, first: int) -> State:
        f, weigh = parted(f)
        k: list[State] = []
        entering: list[State] = []
        for stage, (c, row) in enumerate(self.tableau.rows):
            at = node.at(first + stage, c)
            *known, diagonal = (*row, (0, 0.0)) if not row or row[-1][0] < stage else row
            base = combine(y, ((node.h * a, k[j]) for j, a in known))
            if a := node.h * diagonal[1]:
                # From the equation itself: f at the solution would magnify what the solve has left over.
                k.append(axpy(self.solver.solve(f, at, base, a), base, -1) / a)
            else:
                k.append(f(at, base))
            entering.append(weigh(at, k[-1]))
        return combine(y, ((node.h * b, entering[i]) for i, b in self.tableau.weights))

    def stability_function(self) -> tuple[np.ndarray, np.ndarray]:
        """Numerator and denominator of R(z) = det(I - z A + z 1 b^T) / det(I - z A), lowest power first."""
        size = self.tableau.stages
        a = np.zeros((size, size))
        for i, (_, row) in enumerate(self.tableau.rows):
            for j, value in row:
                a[i, j] = value
        b = np.zeros(size)
        for i, value in self.tableau.weights:
            b[i] = value
        # det(I - z M) is the characteristic polynomial of M with its coefficients in reverse.
        scale = self.substeps ** -np.arange(size + 1.0)
        numerator, denominator = np.poly(a - np.outer(np.ones(size), b)) * scale, np.poly(a) * scale
        power = np.polynomial.polynomial.polypow
        return power(numerator, self.substeps), power(denominator, self.substeps)


@SCHEMES.register("backward_euler")
class BackwardEuler(DiagonallyImplicit):
    r"""Backward Euler, which PolyNet truncates.

        u_{n+1} = u_n + h f(t_n + h, u_{n+1})

    A-stable and L-stable. ``backward_euler_poly`` keeps the first terms of its Neumann series for linear f.

    Reference: Curtiss, Hirschfelder, "Integration of Stiff Equations", Proc. Natl. Acad. Sci. 38, 1952.
    """

    tableau = ButcherTableau(a=((1,),), b=(1,), order=1)


@SCHEMES.register("implicit_midpoint")
class ImplicitMidpoint(DiagonallyImplicit):
    r"""The implicit midpoint rule, Gauss's method of one stage; symplectic and A-stable.

        u_{n+1} = u_n + h f(t_n + h/2, (u_n + u_{n+1}) / 2)

    Reference: Hairer, Lubich, Wanner, "Geometric Numerical Integration", 2nd ed., Springer 2006, section II.1.
    """

    tableau = ButcherTableau(a=((F(1, 2),),), b=(1,), order=2)


@SCHEMES.register("trapezoidal")
class Trapezoidal(DiagonallyImplicit):
    r"""The trapezoidal rule, Crank and Nicolson's; A-stable.

        u_{n+1} = u_n + h/2 [f(t_n, u_n) + f(t_n + h, u_{n+1})]

    Reference: Crank, Nicolson, "A Practical Method for Numerical Evaluation of Solutions of Partial Differential
    Equations of the Heat-Conduction Type", Proc. Camb. Phil. Soc. 43, 1947.
    """

    tableau = ButcherTableau(a=((), (F(1, 2), F(1, 2))), b=(F(1, 2), F(1, 2)), order=2)
