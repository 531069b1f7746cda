"""Truncated Neumann series of backward Euler: PolyNet."""

from __future__ import annotations

import math
from typing import Literal

from schemes.core.node import Node
from schemes.core.scheme import Scheme
from schemes.core.state import State, VectorField, axpy
from schemes.core.weighting import separate_weights
from schemes.errors import SchemenetError
from schemes.registry import SCHEMES


@SCHEMES.register("backward_euler_poly")
class BackwardEulerPoly(Scheme):
    r"""PolyNet's polynomial modules: the Neumann series of (I - h f)^{-1}, cut after ``degree`` terms.

        poly:   u_{n+1} = u_n + F(u_n) + F(F(u_n)) + ...,          F = h f
        mpoly:  u_{n+1} = u_n + F(u_n) + G(F(u_n)) + ...,          own weights for each power
        way:    u_{n+1} = u_n + F(u_n) + G(u_n) + ...,             own weights for each path

    Backward Euler's series, and consistent with u' = f at all, only for linear homogeneous f (order 1 there): for
    nonlinear f, F(F(u)) is composition, not the second iterate F(u + F(u)). Truncation also loses what an implicit
    method is used for: the real stability interval of degree 2 is [-1, 0], half of forward Euler's. ``way`` is
    consistent with u' = f + g, not with u' = f. The powers are evaluated at t_n + h, as backward Euler does. PolyNet
    never published CIFAR results: a CIFAR PolyNet here is a baseline of this project.

    Args:
        degree: terms of the series.
        form: "poly", "mpoly" or "way".
        scaling: the paper's residual scaling beta (0.3 against divergence): u + beta (F(u) + F(F(u)) + ...); other than
            1 it makes the order None.

    Reference: Zhang, Li, Loy, Lin, "PolyNet: A Pursuit of Structural Diversity in Very Deep Networks", CVPR 2017,
    arXiv:1611.05725.
    """

    def __init__(self, degree: int = 2, form: Literal["poly", "mpoly", "way"] = "poly", scaling: float = 1.0) -> None:
        super().__init__()
        if not 0 < scaling < math.inf:
            raise SchemenetError(f"scheme 'backward_euler_poly': scaling expected to be positive, got {scaling}")
        if degree < 1:
            raise SchemenetError(f"scheme 'backward_euler_poly': degree expected to be at least 1, got {degree}")
        self.degree, self.form, self.scaling = degree, form, scaling
        self.problem = "linear"
        self.sharing = "per_step" if form == "poly" else "per_stage"

    @property
    def order(self) -> int | None:
        return 1 if self.scaling == 1 and (self.form != "way" or self.degree == 1) else None

    @property
    def stages(self) -> int:
        return self.degree

    @property
    def parallel_branches(self) -> int:
        return self.degree if self.form == "way" else 1

    def step(
        self, f: VectorField, node: Node, y: State, solver_state: tuple[State, ...]
    ) -> tuple[State, tuple[State, ...]]:
        f, weigh = separate_weights(f)
        total = argument = y
        for stage in range(self.degree):
            at = node.at(stage, 1.0)
            value = f(at, argument)
            total = axpy(total, weigh(at, value), self.scaling * node.h)
            if self.form != "way":
                argument = axpy(None, value, node.h)
        return total, solver_state
