"""Grids: at which times an initial value problem, or a flow of a network, is stepped."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import Any, ClassVar

import torch

from schemes.core.node import Node
from schemes.core.scheme import Scheme
from schemes.core.state import VectorField
from schemes.integration.loop import FieldOwner, Loop, Segments
from schemes.integration.step_size_controller import ErrorControl


class Grid(abc.ABC):
    """The steps of an initial value problem, or the rule that finds them. The scheme never decides this.

    A subclass sets ``steps_known`` to False where steps are found while solving. ``step_size`` is the given size of
    its steps, where it has one.
    """

    steps_known: ClassVar[bool] = True
    step_size: float | None = None

    @abc.abstractmethod
    def ivp_loop(self, scheme: Scheme, f: VectorField, owner: FieldOwner, times: Sequence[Any], batching: str) -> Loop:
        """The loop that solves an initial value problem.

        Args:
            scheme: the method; its coefficients are allocated here where the number of steps is known.
            f: the right-hand side, called as ``f(node, y)``.
            owner: the module that owns the tensors of f.
            times: start and output times as numbers, monotone; with ``batching="per_sample"`` also one list a row.
            batching: "joint" or "per_sample".
        """

    def unsupported_reason(self, scheme: Scheme) -> str | None:
        """Why a scheme cannot be stepped on this grid; None where it can."""
        return None

    def unsupported_ivp_reason(self) -> str | None:
        """Why this grid cannot step from given time to given time; None where it can."""
        return None

    def unsupported_batching_reason(self) -> str | None:
        """Why this grid has no steps of each sample's own, as the end of a sentence; None where it has."""
        return "needs grid=adaptive; on a uniform grid all samples take the same steps"

    def error_control(self) -> ErrorControl | None:
        """The tolerances and settings that decide the steps; None where the steps are given."""
        return None

    def backward_segments(self, times: Sequence[float]) -> Segments:
        """The given steps from each of these times back to the one before it; none where steps are found."""
        return Segments([], False)

    def for_evaluation(self) -> Grid:
        """The grid of a module in evaluation."""
        return self

    def check_precision(self, dtype: torch.dtype, stacklevel: int) -> None:  # noqa: B027  # most have no tolerances
        """Warn where a state of this dtype does not resolve the tolerances."""


class FlowGrid(Grid):
    """A grid that can also step a flow of a network, from time 0 to the network's own end time."""

    def ending_steps(self, kinks: Sequence[float], jumps: Sequence[float]) -> FlowGrid:
        """This grid, its steps ending at these times, where f jumps or a derivative of it: one that finds its steps."""
        return self

    @abc.abstractmethod
    def nodes(self, steps: int) -> tuple[Node, ...]:
        """The step nodes of a flow whose architecture has ``steps`` steps; none where steps are found while solving."""

    @abc.abstractmethod
    def visits(self, scheme: Scheme, nodes: Sequence[Node]) -> tuple[Node, ...]:
        """The nodes at which a flow with these steps evaluates f, one for each set of weights and statistics."""

    @abc.abstractmethod
    def flow_loop(
        self, scheme: Scheme, f: VectorField, nodes: Sequence[Node], owner: FieldOwner, training: bool, **options: Any
    ) -> Loop:
        """The loop that a flow gives to its gradient mode; ``options`` are fields of :class:`Loop`."""

    @abc.abstractmethod
    def end_time(self, nodes: Sequence[Node]) -> float:
        """T, the end of the time that a flow with these steps integrates over."""

    @abc.abstractmethod
    def described(self, nodes: Sequence[Node]) -> tuple[int | str | None, float | str]:
        """Number and size of the steps, for people; without nodes those over the span of given times."""
