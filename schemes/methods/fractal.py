"""The expansion rule of FractalNet."""

from __future__ import annotations

import torch
from torch import Tensor

from schemes.core.node import Node
from schemes.core.scheme import Scheme
from schemes.core.state import State, VectorField, axpy, combine, flatten
from schemes.errors import SchemenetError
from schemes.registry import SCHEMES


def expansion(columns: int) -> list[list[int]]:
    """The columns (0 the shallowest) whose units end at each row of a fractal block, top to bottom.

    Column j has 2^j units, each spanning 2^(columns - 1 - j) of the block's 2^(columns - 1) rows.
    """
    depth = 2 ** (columns - 1)
    return [[j for j in range(columns) if row % (depth >> j) == 0] for row in range(1, depth + 1)]


@SCHEMES.register("fractal")
class Fractal(Scheme):
    r"""FractalNet's truncated fractal; f itself is the unit, there is no identity path and no step size.

        f_1(z) = f(z),    f_{C+1}(z) = mean(f_C(f_C(z)), f(z)),    joins that coincide merged into one flat mean

    2^C - 1 units in a step, each with its own weights. As it stands this is no method for u' = f (order None): with
    C = 2 and filters k_1 u + k_2 (k_3 u + f_1) + f_2 it becomes a Runge-Kutta method of order 2 on the one-parameter
    family k_3 = 1, k_1 + k_2 = 1, f_1 = a h f, f_2 = b h f with k_2 a + b = 1 and a b = 1/2, Heun's among them, which
    free training does not keep to. ``heun`` is the RK2 network proper.

    Global drop path is the network's choice of one column: a 0-dimensional integer tensor, passed to ``init_state`` as
    the only past state (-1: none), so that every gradient mode sees it as data.

    Args:
        columns: C.
        drop_path: local drop path, the probability with which each input of a join is dropped in training; at least one
            survives, and the mean is over the survivors; one pattern per batch.

    Reference: Larsson, Maire, Shakhnarovich, "FractalNet: Ultra-Deep Neural Networks without Residuals", ICLR 2017,
    arXiv:1605.07648.
    """

    order = None
    sharing = "per_stage"
    noise_reaches_arguments = True  # there is no sum: a unit's value is the next one's argument

    def __init__(self, columns: int = 2, drop_path: float = 0.0) -> None:
        super().__init__()
        if columns < 1:
            raise SchemenetError(f"scheme 'fractal': columns expected to be at least 1, got {columns}")
        if not 0 <= drop_path < 1:
            raise SchemenetError(f"scheme 'fractal': drop_path expected to be in [0, 1), got {drop_path}")
        self.columns, self.drop_path = columns, drop_path

    @property
    def random_steps(self) -> bool:
        """Whether inputs of joins are dropped in training."""
        return self.drop_path > 0

    @property
    def stages(self) -> int:
        return 2**self.columns - 1

    def init_state(self, y: State, past: tuple[State, ...] = ()) -> tuple[State, ...]:
        integers = (z for z in past if isinstance(z, Tensor) and not z.is_floating_point())
        return tuple(integers)

    def step(
        self, f: VectorField, node: Node, y: State, solver_state: tuple[State, ...]
    ) -> tuple[State, tuple[State, ...]]:
        inputs = [y] * self.columns
        stage, joined = 0, y
        for ending in expansion(self.columns):
            outputs = []
            for column in ending:
                outputs.append(f(node.at(stage), inputs[column]))
                stage += 1
            joined = self._join(outputs, ending, solver_state)
            for column in ending:
                inputs[column] = joined
        return joined, solver_state

    def _join(self, inputs: list[State], columns: list[int], solver_state: tuple[State, ...]) -> State:
        if len(inputs) == 1:
            return inputs[0]
        if not self.training or not (self.drop_path or solver_state):
            return axpy(None, combine(inputs[0], ((1, x) for x in inputs[1:])), 1 / len(inputs))
        leaf = flatten(inputs[0])[0][0]
        weights = survivors(len(inputs), self.drop_path, leaf.device)
        if solver_state:
            chosen = torch.tensor(columns, device=solver_state[0].device) == solver_state[0]
            # A join in which the kept column takes no part does not reach it, and stays a plain mean.
            kept = torch.where(chosen.any(), chosen, torch.ones_like(chosen))
            weights = torch.where(solver_state[0] >= 0, kept, weights)
        shares = weights.to(leaf.real.dtype) / weights.sum()
        return combine(None, zip(shares.unbind(), inputs, strict=True))


def survivors(count: int, drop: float, device: torch.device) -> Tensor:
    """A random mask of the inputs of a join that survive, at least one of them.

    Args:
        count: how many inputs there are.
        drop: the probability with which each is dropped.
        device: of the mask.

    Returns:
        Booleans, (count,).
    """
    alive = torch.rand(count, device=device) >= drop
    spare = torch.arange(count, device=device) == torch.randint(count, (), device=device)
    return torch.where(alive.any(), alive, spare)
