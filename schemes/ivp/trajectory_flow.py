"""Trajectory flow: a module that solves through given times and returns the states there."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from schemes.core.evaluation_counts import SolverCounts, Statistics
from schemes.core.node import Node
from schemes.core.scheme import Scheme
from schemes.errors import SchemenetError
from schemes.gradients.base import GradientMode
from schemes.integration.compiled_loop import check_compilable
from schemes.integration.grid import FlowGrid
from schemes.ivp.solution import Solution
from schemes.ivp.solve import solve
from schemes.registry import GRADIENTS, GRIDS, SCHEMES
from schemes.schema import Spec


class TrajectoryFlow(nn.Module):
    """Solves y' = f(t, y, *args) from ``times[0]`` through all ``times``: scheme x field x grid x gradient.

    The same f serves at all times, so that schemes with a learned coefficient for each step are not supported.

    Args:
        f: a module as ``schemes.solve`` takes it, one for each component of a coupled scheme.
        scheme: the method: a name or a mapping with ``name`` and parameters, as are ``grid`` and ``gradient``.
        grid: a uniform grid's ``steps`` are those from the first time to the last.
        gradient: the gradient mode.
    """

    compiled: str | None = None

    def __init__(
        self,
        f: nn.Module | Sequence[nn.Module],
        scheme: Spec = "dopri5",
        grid: Spec = "adaptive",
        gradient: Spec = "checkpoint",
    ) -> None:
        super().__init__()
        self.functions = nn.ModuleList(f if isinstance(f, Sequence) else [f])
        self.scheme: Scheme = SCHEMES.build(scheme)
        self.grid: FlowGrid = GRIDS.build(grid)
        self.gradient: GradientMode = GRADIENTS.build(gradient)
        name = type(self.scheme).__name__
        if self.scheme.components != len(self.functions):
            raise SchemenetError(
                f"scheme {name} couples {self.scheme.components} parts of a state, and here is a field for "
                f"{len(self.functions)}; use one with as many, such as dopri5 or rk4"
            )
        reasons = (
            self.grid.unsupported_ivp_reason(),
            self.grid.unsupported_reason(self.scheme),
            self.gradient.unsupported_scheme_reason(self.scheme),
        )
        if (reason := next(filter(None, reasons), None)) is not None:
            raise SchemenetError(reason)
        tried: Scheme = SCHEMES.build(scheme)  # another one: how many steps there will be, a solve says
        tried.allocate(2)
        if next(tried.parameters(), None) is not None:
            raise SchemenetError(
                f"scheme {name} learns a coefficient for each of its steps, and how many there are is here the data's "
                "to say; give it a fixed one (for linear_multistep scheme.k=0.5)"
            )
        self._solves: list[Statistics] = []

    def forward(self, y0: Any, times: Any, *args: Tensor, accumulate: bool = False) -> Solution:
        """Solve through all times; gradients reach every tensor, the times as well.

        Args:
            y0: the state at ``times[0]``, a tensor or a nest of them.
            times: start and output times, monotone, of shape (times,).
            args: further tensors for f.
            accumulate: whether the counts are added to those of the solves before, instead of replacing them.

        Returns:
            The solution, its values stacked along a new first dimension.
        """
        f = self.functions[0] if len(self.functions) == 1 else list(self.functions)
        grid = self.grid if self.training else self.grid.for_evaluation()
        compile = False if torch.compiler.is_compiling() or self.compiled is None else self.compiled
        solution = solve(
            f, y0, times, args=args, scheme=self.scheme, grid=grid, gradient=self.gradient, compile=compile
        )
        self._solves = [*(self._solves if accumulate else ()), solution.statistics]
        return solution

    def through(self, y0: Any, times: Tensor, *args: Tensor, start: Any, unit: Any) -> Any:
        """The states at ``times``; a uniform grid has its steps in each unit of time.

        Units of time follow one another from the start on, each stepped to its end: the steps depend on none of the
        output times, so that a sample alone takes the same ones as in a batch, and weights learned with coarse steps
        are used by the same steps later.

        Args:
            y0: the state at ``start``.
            times: output times, increasing, none before ``start``, of shape (times,).
            args: further tensors for f.
            start: the first time.
            unit: length of a unit of time.

        Returns:
            The states along a new first dimension.
        """
        if self.adaptive or times.is_meta:
            begin = torch.as_tensor(start, dtype=times.dtype, device=times.device)
            solution = self(y0, torch.cat((begin[None], times)), *args)
            return pytree.tree_map(lambda value: value[1:], solution.values)
        count = max(1, math.ceil(float((times[-1] - start) / unit) - 1e-6))
        ends = start + unit * torch.arange(count + 1, dtype=times.dtype, device=times.device)
        which, parts = torch.bucketize(times, ends[1:-1]), []
        for i in range(count):
            moments = torch.cat((ends[i, None], times[which == i].clamp(max=ends[i + 1]), ends[i + 1, None]))
            values = self(y0, moments, *args, accumulate=i > 0).values
            parts.append(pytree.tree_map(lambda value: value[1:-1], values))
            y0 = pytree.tree_map(lambda value: value[-1], values)
        return pytree.tree_map(lambda *each: torch.cat(each), *parts)

    def compile_steps(self, backend: str = "inductor") -> None:
        """Solve by graphs of torch.compile's from now on, as ``solve(compile=True)`` does."""
        check_compilable(self)
        self.compiled = backend

    @property
    def adaptive(self) -> bool:
        """Whether the steps are found while solving."""
        return not self.grid.steps_known

    @property
    def random_steps(self) -> bool:
        """Whether steps are drawn at random in training."""
        return bool(self.scheme.random_steps)

    @property
    def forward_counts(self) -> SolverCounts:
        """Counts of the last solve, and of those that it continued."""
        return _sum([solve.forward for solve in self._solves])

    @property
    def backward_counts(self) -> SolverCounts:
        """The same of backward, when gradients have been taken."""
        return _sum([solve.backward for solve in self._solves])


class Timed(nn.Module):
    """A field of the registry, ``field(node, y)``, as a function of time and state."""

    def __init__(self, field: nn.Module) -> None:
        super().__init__()
        self.field = field

    def forward(self, t: Any, y: Tensor) -> Tensor:
        return self.field(Node(0, t, 0.0), y)


def _sum(works: Sequence[SolverCounts]) -> SolverCounts:
    return SolverCounts(*(sum(getattr(work, name) for work in works) for name in SolverCounts.__dataclass_fields__))
