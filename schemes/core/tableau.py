"""Butcher tableaus, whose order conditions are checked when one is made.

Reference: Butcher, "Numerical Methods for Ordinary Differential Equations", 3rd ed., Wiley 2016, sections 301, 315.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache, cached_property
from typing import Any

import numpy as np
from torch import Tensor

Number = int | float | Fraction
Tree = tuple["Tree", ...]

TOLERANCE = 1e-12


@cache
def trees(nodes: int) -> tuple[Tree, ...]:
    """All rooted trees with so many nodes, each the sorted tuple of its subtrees: 1, 1, 2, 4, 9, 20, 48 ... of them."""

    def forests(size: int, largest: Tree | None) -> list[Tree]:
        if size == 0:
            return [()]
        all_forests = []
        for first in range(1, size + 1):
            for tree in trees(first):
                if largest is None or (order(tree), tree) <= (order(largest), largest):
                    all_forests += [(tree, *rest) for rest in forests(size - first, tree)]
        return all_forests

    return tuple(forests(nodes - 1, None))


@cache
def order(tree: Tree) -> int:
    """Number of nodes of a tree."""
    return 1 + sum(map(order, tree))


def density(tree: Tree) -> int:
    """gamma(tree): its order times the densities of its subtrees."""
    product = order(tree)
    for subtree in tree:
        product *= density(subtree)
    return product


def condition(tree: Tree, weight: str = "b_i") -> str:
    """The order condition of a tree, as in ``sum b_i a_ij c_j = 1/6``; sums are over all indices."""
    indices = iter("jklmnopqrstuvwxyz")

    def factors(tree: Tree, index: str) -> list[str]:
        leaves = tree.count(())
        parts = [f"c_{index}" + (f"^{leaves}" if leaves > 1 else "")] if leaves else []
        for subtree in filter(None, tree):
            inner = next(indices)
            parts += [f"a_{index}{inner}", *factors(subtree, inner)]
        return parts

    return f"sum {' '.join([weight, *factors(tree, 'i')])} = {Fraction(1, density(tree))}"


@dataclass(frozen=True)
class ButcherTableau:
    """Coefficients of a Runge-Kutta method

        k_i = f(t + c_i h, y + h sum_j a_ij k_j),     y' = y + h sum_i b_i k_i.

    Attributes:
        a: the rows below the diagonal (the first is empty), one entry longer where a stage is implicit, or whole where
            it depends on later ones.
        b: the weights, one a stage.
        order: the claimed order; every order condition up to it is checked here.
        embedded: the weights of the embedded method of a pair, checked up to ``embedded_order``.
        embedded_order: its order.
        c: the nodes, checked against the row sums of ``a``; those where left out.
        dense: the polynomials of a continuous extension without their constant term, lowest power first,

                y(t + theta h) = y + h sum_i b_i(theta) k_i,     b_i(theta) = sum_j dense[i][j] theta^(j+1),

            checked for b_i(1) = b_i and for the order conditions up to ``dense_order`` at every theta.
        dense_order: the order of the extension.

    Raises:
        ValueError: for a wrong coefficient, with the condition that it breaks.
    """

    a: tuple[tuple[Number, ...], ...]
    b: tuple[Number, ...]
    order: int
    embedded: tuple[Number, ...] | None = None
    embedded_order: int = 0
    c: tuple[Number, ...] = ()
    dense: tuple[tuple[Number, ...], ...] | None = None
    dense_order: int = 0

    def __post_init__(self) -> None:
        size = len(self.b)
        if any(len(row) not in (i, i + 1, size) for i, row in enumerate(self.a)) or len(self.a) != size:
            raise ValueError(f"expected rows of lengths 0..{size - 1}, one longer, or whole, for {size} weights")
        for name, values in (("c", self.c or self.b), ("embedded", self.embedded or self.b)):
            if len(values) != len(self.b):
                raise ValueError(f"expected {len(self.b)} entries of {name}, got {len(values)}")
        sums = tuple(sum(row, start=Fraction(0)) for row in self.a)
        for i, (node, row_sum) in enumerate(zip(self.c, sums, strict=False)):
            if abs(node - row_sum) > TOLERANCE:
                raise ValueError(f"c[{i}] = {node} but row {i} of a sums to {float(row_sum)}")
        object.__setattr__(self, "c", sums)
        self._require(self.b, self.order)
        if self.embedded is not None:
            self._require(self.embedded, self.embedded_order)
        if self.dense is not None:
            self._require_dense(self.dense)
        for name, value in vars(ButcherTableau).items():
            if isinstance(value, cached_property):
                getattr(self, name)  # its first access takes a lock, at which torch.compile would break a graph

    @cached_property
    def _elementary(self) -> dict[Tree, list[Number]]:
        return {}

    def _weights(self, tree: Tree) -> list[Number]:
        """Elementary weights: the stage values of a tree's derivative, before b."""
        if tree not in self._elementary:
            values: list[Number] = [Fraction(1)] * len(self.b)
            for subtree in tree:
                inner = self._weights(subtree)
                values = [v * _dot(row, inner) for v, row in zip(values, self.a, strict=True)]
            self._elementary[tree] = values
        return self._elementary[tree]

    def _require(self, b: Sequence[Number], claimed: int) -> None:
        for nodes in range(1, claimed + 1):
            for tree in trees(nodes):
                gap = _dot(b, self._weights(tree)) - Fraction(1, density(tree))
                if abs(gap) > TOLERANCE:
                    raise ValueError(
                        f"order {claimed} is claimed, but {condition(tree)}, a condition of order {nodes}, is missed "
                        f"by {float(gap):.3g}"
                    )

    def _require_dense(self, dense: Sequence[Sequence[Number]]) -> None:
        """sum_i b_i(theta) Phi_i = theta^n / gamma for each tree of n nodes: equal polynomials in theta."""
        if len(dense) != len(self.b):
            raise ValueError(f"expected {len(self.b)} polynomials in dense, got {len(dense)}")
        for i, (polynomial, weight) in enumerate(zip(dense, self.b, strict=True)):
            if abs(sum(polynomial, start=Fraction(0)) - weight) > TOLERANCE:
                raise ValueError(f"dense[{i}] sums to {float(sum(polynomial))}, not to b[{i}] = {float(weight)}")
        powers = [[p[j] if j < len(p) else 0 for p in dense] for j in range(max(map(len, dense)))]
        for nodes in range(1, self.dense_order + 1):
            for tree in trees(nodes):
                weights = self._weights(tree)
                for power, coefficients in enumerate(powers, 1):
                    expected = Fraction(1, density(tree)) if power == nodes else 0
                    if abs(_dot(coefficients, weights) - expected) > 100 * TOLERANCE:
                        raise ValueError(
                            f"order {self.dense_order} is claimed for dense, but {condition(tree, 'b_i(theta)')} "
                            f"theta^{nodes}, a condition of order {nodes}, is missed in the power {power} of theta"
                        )

    @cached_property
    def fsal(self) -> bool:
        """Whether the last stage is f at the step's result, and so the next step's first (first same as last)."""
        return tuple(self.a[-1]) in (tuple(self.b), tuple(self.b[:-1])) and (self.implicit or not self.b[-1])

    @cached_property
    def all_rows(self) -> tuple[tuple[float, tuple[tuple[int, float], ...]], ...]:
        """As ``rows``, with the stages that only the error estimate and the continuous extension read."""
        return tuple((float(c), _pairs(row)) for c, row in zip(self.c, self.a, strict=True))

    @cached_property
    def error(self) -> tuple[tuple[int, float], ...]:
        """The pairs (i, b_i - embedded_i) that are not zero: h sum_i error_i k_i estimates the local error."""
        if self.embedded is None:
            return ()
        return _pairs([b - e for b, e in zip(self.b, self.embedded, strict=True)])

    def columns(self, like: Tensor) -> list[Tensor]:
        """(a_{j+1,j}, ..., a_{s,j}, b_j - embedded_j), by which k_j is multiplied, as tensors like another one."""
        kind = like.dtype, like.device
        if kind not in self._columns:
            error = dict(self.error)
            below = [[float(row[j]) if j < len(row) else 0.0 for row in self.a[j + 1 :]] for j in range(len(self.b))]
            self._columns[kind] = [like.new_tensor([*part, error.get(j, 0.0)]) for j, part in enumerate(below)]
        return self._columns[kind]

    @cached_property
    def all_c(self) -> tuple[float, ...]:
        """The nodes as numbers."""
        return tuple(map(float, self.c))

    @cached_property
    def _columns(self) -> dict[Any, list[Tensor]]:
        return {}

    @cached_property
    def stages(self) -> int:
        """Evaluations that a step needs: a last stage that only an error estimate reads is not one of them."""
        return max(i for i, weight in enumerate(self.b) if weight) + 1

    @cached_property
    def rows(self) -> tuple[tuple[float, tuple[tuple[int, float], ...]], ...]:
        """For each needed stage its c and the pairs (j, a_ij) that are not zero."""
        needed = zip(self.c[: self.stages], self.a, strict=False)
        return tuple((float(c), _pairs(row)) for c, row in needed)

    @cached_property
    def implicit(self) -> bool:
        """Whether a stage has itself or a later one for an argument."""
        return any(any(row[i:]) for i, row in enumerate(self.a))

    @cached_property
    def coupled(self) -> bool:
        """Whether a stage has a later one for an argument, so that they are solved for together."""
        return any(any(row[i + 1 :]) for i, row in enumerate(self.a))

    @cached_property
    def matrix(self) -> np.ndarray:
        """A as a square array."""
        return np.array([[float(row[j]) if j < len(row) else 0.0 for j in range(len(self.b))] for row in self.a])

    @cached_property
    def weights(self) -> tuple[tuple[int, float], ...]:
        """The pairs (i, b_i) that are not zero."""
        return _pairs(self.b)


def _pairs(row: Sequence[Number]) -> tuple[tuple[int, float], ...]:
    return tuple((j, float(value)) for j, value in enumerate(row) if value)


def _dot(x: Sequence[Number], y: Sequence[Number]) -> Number:
    return sum((p * q for p, q in zip(x, y, strict=False) if p), start=Fraction(0))
