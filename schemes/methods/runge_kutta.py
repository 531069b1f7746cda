"""Explicit Runge-Kutta steps of any tableau."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from schemes.core.interpolation import extension
from schemes.core.node import Node
from schemes.core.scheme import ExplicitPair, Scheme, StepResult
from schemes.core.state import (
    SlopeSums,
    State,
    VectorField,
    axpy,
    combine,
    flatten,
    is_real,
    one_row,
    rows_at,
    sizes_for,
    stage_sum,
)
from schemes.core.tableau import ButcherTableau
from schemes.core.weighting import separate_weights


class RungeKutta(Scheme, abstract=True):
    """y_{n+1} = y_n + h sum_i b_i k_i with k_i = f(t_n + c_i h, y_n + h sum_j a_ij k_j).

    With embedded weights the tableau is a pair for adaptive grids. Its last stage is then f at the step's result, by
    which the next step begins and, where the tableau has no continuous extension of its own, cubic Hermite
    interpolation ends.
    """

    tableau: ClassVar[ButcherTableau]

    def __init_subclass__(cls, abstract: bool = False) -> None:
        if not abstract:
            if cls.tableau.implicit:
                raise TypeError(f"{cls.__name__} has an implicit tableau; derive it from DiagonallyImplicit")
            if cls.tableau.embedded is not None:
                if not cls.tableau.fsal:
                    raise TypeError(f"{cls.__name__} has embedded weights; give it a last stage at the step's result")
                cls.error_order, cls.fsal = cls.tableau.embedded_order + 1, True
            cls.order, cls.stages = cls.tableau.order, cls.tableau.stages
        super().__init_subclass__(abstract)

    def evaluate(self, f: VectorField, node: Node, y: State) -> list[State]:
        """The stage derivatives k_1 ... k_s as they enter the step; the first is f at the step's own node."""
        f, weigh = separate_weights(f)
        k: list[State] = []
        for stage, (c, row) in enumerate(self.tableau.rows):
            k.append(f(node.at(stage, c), combine(y, ((node.h * a, k[j]) for j, a in row))))
        return [weigh(node.at(stage), value) for stage, value in enumerate(k)]

    def advance(self, node: Node, y: State, k: list[State]) -> State:
        """The step's result from its stage derivatives."""
        return combine(y, ((node.h * b, k[i]) for i, b in self.tableau.weights))

    def step(
        self, f: VectorField, node: Node, y: State, solver_state: tuple[State, ...]
    ) -> tuple[State, tuple[State, ...]]:
        return self.advance(node, y, self.evaluate(f, node, y)), solver_state

    @property
    def explicit_pair(self) -> ExplicitPair | None:
        return None if self.error_order is None else self

    def attempt(self, f: VectorField, node: Node, y: State, solver_state: tuple[State, ...]) -> StepResult:
        if self.error_order is None:
            return super().attempt(f, node, y, solver_state)
        if isinstance(node.h, Tensor) and node.h.dim() and not torch.is_grad_enabled() and is_real(y):
            return self._attempt_of_rows(f, node, y, solver_state)
        return self.attempted(node.h, y, *self.stages_of_pair(f, node, y, solver_state))

    def _attempt_of_rows(self, f: VectorField, node: Node, y: State, solver_state: tuple[State, ...]) -> StepResult:
        """The attempt where each row has a step size of its own and nothing a graph."""
        stages, h, leaves = len(self.tableau.b), sizes_for(node.h, y), flatten(y)[0]
        columns = list(zip(*map(self.tableau.columns, leaves), strict=True))
        k = [solver_state[0] if solver_state else f(node, y)]
        sums = SlopeSums(k[0], columns[0])
        following = y
        for stage, c in enumerate(self.tableau.all_c[1:], 1):
            following = sums.added_to(y, h, stage - 1)
            k.append(f(node.at(stage, c), following))
            sums.add(k[stage], stage, columns[stage])
        return self.attempted(node.h, y, following, k)._replace(error=lambda: sums.times(h, stages - 1))

    def stages_of_pair(
        self, f: VectorField, node: Node, y: State, solver_state: tuple[State, ...]
    ) -> tuple[State, list[State]]:
        """The step's result, and all slopes of a pair: the first is remembered, the last is f at the result."""
        k = [solver_state[0] if solver_state else f(node, y)]
        following, h = y, sizes_for(node.h, y)
        for stage, (c, row) in enumerate(self.tableau.all_rows[1:], 1):
            following = stage_sum(y, h, row, k)
            k.append(f(node.at(stage, c), following))
        return following, k

    def finish(self, f: VectorField, node: Node, y: State, solver_state: tuple[State, ...]) -> State:
        """The result of an attempt without its last stage, which gives the next slope."""
        k = [solver_state[0] if solver_state else f(node, y)]
        *rows, (_, last) = self.tableau.all_rows
        h = sizes_for(node.h, y)
        for stage, (c, row) in enumerate(rows[1:], 1):
            k.append(f(node.at(stage, c), stage_sum(y, h, row, k)))
        return stage_sum(y, h, last, k)

    def error_of_pair(self, h: Any, k: list[State]) -> State:
        """h sum_i (b_i - embedded_i) k_i."""
        (first, weight), *rest = self.tableau.error
        return stage_sum(axpy(None, k[first], h * weight), sizes_for(h, k[first]), rest, k)

    def attempted(self, h: Any, y: State, following: State, k: list[State]) -> StepResult:
        """The attempt that has these slopes."""
        tableau = self.tableau

        def interpolate_all(theta: Tensor) -> State:
            return extension(tableau, h, one_row(y), one_row(following), [one_row(slope) for slope in k])(theta)

        def interpolate_rows(rows: Tensor, theta: Tensor) -> State:
            start, end, *slopes = (rows_at(rows, state) for state in (y, following, *k))
            return extension(tableau, h[rows], start, end, slopes)(theta)

        interpolate = extension(tableau, h, y, following, k)
        return StepResult(
            following, (k[-1],), lambda: self.error_of_pair(h, k), interpolate, interpolate_all, interpolate_rows
        )
