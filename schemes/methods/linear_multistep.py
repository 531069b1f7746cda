"""Linear two-step method with a learnable coefficient: LM-ResNet."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from schemes.core.node import Node
from schemes.core.scheme import Coefficient, Scheme
from schemes.core.state import State, VectorField, axpy, lerp
from schemes.errors import SchemenetError
from schemes.registry import SCHEMES


@SCHEMES.register("linear_multistep")
class LinearMultistep(Scheme):
    r"""The two-step method of LM-ResNet.

        u_{n+1} = (1 - k_n) u_n + k_n u_{n-1} + h f_n(u_n)               scale false, as published
        u_{n+1} = (1 - k_n) u_n + k_n u_{n-1} + h (1 + k_n) f_n(u_n)     scale true

    Zero-stable for -1 < k <= 1. A method for u' = f only where f is scaled by 1 + k: order 1, and 2 at k = 1; unscaled
    it integrates over the time T / (1 + k), so ``order`` is None there and for a trained k. The first step is forward
    Euler, unless the flow gets the state before (LM-ResNet passes on the projected shortcut of a stage's first block).
    The released code trains kappa = 1 - k.

    Args:
        k: "trained" (one scalar a step, drawn from U[-0.1, 0]), "zero" (ResNet), or a fixed number.
        scale: whether f is scaled by 1 + k.

    Reference: Lu, Zhong, Li, Dong, "Beyond Finite Layer Neural Networks: Bridging Deep Architectures and Numerical
    Differential Equations", ICML 2018, arXiv:1710.10121.
    """

    stages = 1
    history = 1
    accepts_past_states = True
    zero_stable = (-1.0, 1.0)  # the range of k, its lower end left out

    def __init__(self, k: Literal["trained", "zero"] | float = "trained", scale: bool = False) -> None:
        super().__init__()
        low, high = self.zero_stable
        if isinstance(k, int | float) and not low < k <= high:
            raise SchemenetError(
                f"scheme 'linear_multistep': k = {k} is not zero-stable; "
                f"expected {low:g} < k <= {high:g}, 'trained' or 'zero'"
            )
        self.fixed = None if k == "trained" else 0.0 if k == "zero" else float(k)
        self.scale = scale
        self.k: nn.Parameter | None = None
        self.first = 1  # the first step that knows the state before

    @property
    def order(self) -> int | None:
        if self.fixed == 0.0:
            return 1
        if self.fixed is None or not self.scale:
            return None
        return 2 if self.fixed == 1.0 else 1

    def allocate(self, steps: int, past: int = 0) -> None:
        self.first = 0 if past else 1
        if self.fixed is None and steps > self.first:
            self.k = nn.Parameter(torch.empty(steps - self.first).uniform_(-0.1, 0.0))

    def coefficients(self) -> tuple[Coefficient, ...]:
        if self.k is None:
            return ()
        steps = enumerate(self.k.unbind(), start=self.first)
        return tuple(Coefficient("k", step, k, *self.zero_stable) for step, k in steps)

    def coefficient(self, node: Node) -> float | Tensor:
        """k_n of a step that knows the state before."""
        return self.k[node.step - self.first] if self.k is not None else self.fixed or 0.0

    def init_state(self, y: State, past: tuple[State, ...] = ()) -> tuple[State, ...]:
        return past[:1]

    def step(
        self, f: VectorField, node: Node, y: State, solver_state: tuple[State, ...]
    ) -> tuple[State, tuple[State, ...]]:
        slope = f(node, y)
        if not solver_state:
            return axpy(y, slope, node.h), (y,)
        k = self.coefficient(node)
        if self.scale:
            slope = axpy(None, slope, 1 + k)
        return axpy(lerp(y, solver_state[0], k), slope, node.h), (y,)
