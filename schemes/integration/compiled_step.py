"""Compiled steps: stages, error and its norm of a pair as one graph.

Time and step size are tensors, of no dimension or with one entry a row, so that one graph serves all steps, accepted or
not. On a GPU torch.compile records the kernels as a CUDA graph, and a step is one launch.
"""

from __future__ import annotations

import atexit
import warnings
from collections.abc import Callable
from functools import cache
from types import FunctionType, MethodType
from typing import Any

import torch
from torch import Tensor

from schemes.core.evaluation_counts import count_calls
from schemes.core.node import Node
from schemes.core.scheme import ExplicitPair, StepResult
from schemes.core.state import State, flatten

Rate = Callable[..., Any]
"""f(t, y, *args) on the solver's form of the state, without anything that is no part of a graph."""


class NotCompiledWarning(UserWarning):
    """Steps that were to be compiled run uncompiled."""


class CompiledStep:
    """Attempts of one scheme on one f, all by the same graph (one without and one with a gradient)."""

    def __init__(self, scheme: ExplicitPair, rate: Rate, backend: str = "inductor") -> None:
        self.scheme, self.rate, self.backend = scheme, rate, backend
        self._graphs: dict[str, Callable[..., Any]] = {}

    def attempt(
        self, node: Node, y: State, solver_state: tuple[State, ...], tolerances: tuple[Any, Any], args: tuple[Any, ...]
    ) -> tuple[StepResult, Tensor]:
        """The attempt after a node, and the mean square of its error in units of the tolerance.

        Where each row has a time and a step size of its own, the mean squares of the rows.
        """
        like = flatten(y)[0][0]
        device = like.device.type
        if device not in self._graphs:
            step = MethodType(with_separate_code(CompiledStep.step), self)
            mode = "reduce-overhead" if device == "cuda" and self.backend == "inductor" else None
            graph = torch.compile(step, mode=mode, dynamic=False, fullgraph=True, backend=self.backend)
            self._graphs[device] = graph
            forget_graphs_at_exit()
        # Tolerances are tensors as well: a number would be a constant of the graph, and another one another graph.
        t, h, *limits = (
            torch.as_tensor(number, dtype=like.real.dtype, device=like.device)
            for number in (node.t, node.h, *tolerances)
        )
        if device == "cuda":
            torch.compiler.cudagraph_mark_step_begin()
        following, square, *k = self._taken(device, t, h, y, solver_state, tuple(limits), args)
        count_calls(len(k) - len(solver_state))
        if device == "cuda":  # the next replay writes where this one has written
            following, square, k = _copied(following), square.clone(), list(map(_copied, k))
        return self.scheme.attempted(node.h, y, following, k), square

    def _taken(self, device: str, *arguments: Any) -> Any:
        """The step by the graph of a device; without one from now on where torch.compile cannot make it."""
        try:
            return self._graphs[device](*arguments)
        except RuntimeError as error:
            reason = refusal(error)
            message = f"compile=True: torch.compile cannot take this f whole ({reason}); its steps run uncompiled"
            warnings.warn(message, NotCompiledWarning, stacklevel=2)
            self._graphs[device] = self.step
            return self.step(*arguments)

    def step(
        self, t: Tensor, h: Tensor, y: State, solver_state: tuple[State, ...], tolerances: tuple[Any, Any], args: Any
    ) -> Any:
        node = Node(0, t, h)
        following, k = self.scheme.stages_of_pair(lambda at, u: self.rate(at.t, u, *args), node, y, solver_state)
        error = flatten(self.scheme.error_of_pair(h, k))[0]
        rtol, atol = tolerances
        total, count = torch.zeros_like(h), 0
        for e, before, after in zip(error, flatten(y)[0], flatten(following)[0], strict=True):
            scaled = e.detach() / (atol + rtol * torch.maximum(before.detach().abs(), after.detach().abs()))
            squares = scaled.abs().square().reshape(*h.shape, -1)
            total, count = total + squares.sum(-1), count + squares.shape[-1]
        return following, total / count, *k


@cache
def forget_graphs_at_exit() -> None:
    """Let torch.compile drop its graphs before the interpreter does.

    What it knows of an object goes when the object goes, by modules that an interpreter at its end has emptied already:
    it would print a traceback for each.
    """
    atexit.register(torch._dynamo.reset)


def refusal(error: RuntimeError) -> str:
    """In one line why torch.compile has not made a graph. Raises an error that is another one."""
    from torch._dynamo.exc import TorchDynamoException  # a second to import, and here it is there

    if not isinstance(error, TorchDynamoException):
        raise error
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return " ".join(lines[: 2 if lines[0].endswith(":") else 1])


def with_separate_code(function: Any) -> FunctionType:
    """The same function with a code object of its own: torch.compile counts graphs, and limits them, by code object."""
    return FunctionType(function.__code__.replace(), function.__globals__, function.__name__)


def _copied(state: State) -> State:
    return state.clone() if isinstance(state, Tensor) else tuple(map(_copied, state))
