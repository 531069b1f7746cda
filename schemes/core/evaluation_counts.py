"""Counts of evaluations, products and steps: the cost of a solve, whatever the machine."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from schemes.core.node import Node
from schemes.core.state import State


@dataclass
class SolverCounts:
    """Evaluations of f, products of vectors with its Jacobian or the transpose, accepted and rejected steps."""

    evaluations: int = 0
    jacobian_products: int = 0
    accepted: int = 0
    rejected: int = 0


@dataclass(frozen=True)
class Statistics:
    """Counts of a solve: ``backward`` is filled when gradients are taken (under backprop autograd does it uncounted).

    ``times`` are the starts of the accepted steps and ``step_sizes`` their signed sizes. Where each sample has steps of
    its own these are lists of such lists, and ``samples`` the counts of each (``forward`` is their total, with the
    evaluations of whole batches).
    """

    forward: SolverCounts
    backward: SolverCounts
    times: list[Any] = field(default_factory=list)
    step_sizes: list[Any] = field(default_factory=list)
    samples: list[SolverCounts] | None = None

    def __str__(self) -> str:
        forward, backward = self.forward, self.backward
        return (
            f"{forward.evaluations} evaluations forward, {backward.evaluations} backward with "
            f"{backward.jacobian_products} products; {forward.accepted} steps accepted, {forward.rejected} rejected"
        )


_bookkeeping: ContextVar[SolverCounts | None] = ContextVar("bookkeeping", default=None)


@contextlib.contextmanager
def counting(work: SolverCounts) -> Iterator[None]:
    """Within this context, count calls and products in ``work``, and nowhere else."""
    token = _bookkeeping.set(work)
    try:
        yield
    finally:
        _bookkeeping.reset(token)


def count_calls(number: int = 1) -> None:
    """Count calls of f, within :func:`counting`."""
    if (work := _bookkeeping.get()) is not None:
        work.evaluations += number


def count_products(number: int = 1) -> None:
    """Count products with a Jacobian, within :func:`counting`."""
    if (work := _bookkeeping.get()) is not None:
        work.jacobian_products += number


class Counted:
    """f, each call of which is counted."""

    def __init__(self, f: Callable[[Node, State], State]) -> None:
        self.f = f

    def __call__(self, node: Node, y: State) -> State:
        if (work := _bookkeeping.get()) is not None:
            work.evaluations += 1
        return self.f(node, y)
