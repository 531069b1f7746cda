r"""Weights as functions of time, in a basis of functions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from schemes.core.node import Node
from schemes.errors import Problems
from schemes.registry import SHARINGS
from schemes.sharing.base import Group, Sharing, Terms
from schemes.sharing.function_bases import BASES, FunctionBasis

MOST = 10_000


@SHARINGS.register("basis")
class Basis(Sharing):
    r"""Weights as functions of time: theta(t) = sum_k w_k phi_k(t / T), k = 0, ..., size - 1.

    With size 1 it is ``shared``. Piecewise constant weights of as many pieces as there are steps are ``per_step``: the
    stages of a step take the weights of its own piece, those at its end the limit from the left. On an adaptive grid
    steps end where weights jump, and at the knots of ``hat``.

    Coefficients of ``piecewise_constant`` and ``hat`` are weights at a place, and begin like a field each; those of
    ``legendre`` and ``fourier`` behind the first begin at zero, so that weights are constant in time at first.

    Args:
        kind: the functions phi: steps, piecewise linear, Legendre polynomials, or sines and cosines.
        size: how many there are.

    Reference: Queiruga, Erichson, Hodgkinson, Mahoney, "Stateful ODE-Nets using Basis Function Expansions", NeurIPS
    2021, arXiv:2106.10820.
    """

    name = "basis"

    def __init__(
        self,
        kind: Literal["piecewise_constant", "hat", "legendre", "fourier"] = "piecewise_constant",
        size: int = 4,
    ) -> None:
        problems = Problems("sharing 'basis': ")
        if not 1 <= size <= MOST:
            problems.add(f"size expected from 1 to {MOST}, got {size}")
        problems.raise_if_any()
        self.kind = kind
        self.basis = BASES[kind](size)
        self.time = 1.0
        self._steps: dict[int, tuple[float, float]] = {}

    def functions(self) -> FunctionBasis:
        return self.basis

    def allocate(self, time: float, nodes: Sequence[Node]) -> None:
        self.time = time
        self._steps = {node.step: (node.t / time, (node.t + node.h) / time) for node in nodes}

    def terms(self, node: Node) -> Terms:
        values = self.basis.values(node.t / self.time, self._steps.get(node.step))
        return tuple(
            ((k, node.component), value)
            for k, value in enumerate(values)
            if not isinstance(value, float) or value != 0.0
        )

    def group(self, node: Node) -> Group:
        if not self.basis.local:
            return (0, node.component)  # the constant
        return max(self.terms(node), key=lambda term: float(term[1]))[0]

    def groups(self, components: int) -> Sequence[Group]:
        return [(k, component) for k in range(self.basis.size) for component in range(components)]

    def begins_at_zero(self, group: Group) -> bool:
        assert isinstance(group, tuple)
        return not self.basis.local and group[0] > 0

    @property
    def described(self) -> str:
        return f"{self.kind} {self.basis.size}"

    @property
    def jumps(self) -> tuple[float, ...]:
        return () if self.basis.continuous else self._knots

    @property
    def kinks(self) -> tuple[float, ...]:
        return self._knots if self.basis.continuous and not self.basis.smooth else ()

    @property
    def _knots(self) -> tuple[float, ...]:
        return tuple(self.time * knot for knot in self.basis.knots)
