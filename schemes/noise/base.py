"""What noise on a step is."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from schemes.base import Scheme
from schemes.errors import SchemenetError
from schemes.node import Node
from schemes.weighted import Weight, Weights


class Blocks(NamedTuple):
    """Where the steps of a flow stand in their network: the index of the first, and how many blocks there are."""

    first: int
    total: int

    def depth(self, step: int) -> float:
        """0 for the network's first block, 1 for its last."""
        return (self.first + step) / max(1, self.total - 1)


class Noise(abc.ABC):
    """Draws, once a forward pass, the weights with which evaluations of f enter the steps of a flow.

    What is drawn is data: every gradient mode differentiates the same noisy steps, whatever it evaluates again.
    """

    of_steps: bool = True
    """Whether all evaluations of a step have one weight, so that the flow is one of the field w_n f."""

    def refuses(self, scheme: Scheme) -> str | None:
        """The reason why the steps of a scheme cannot have this noise; None where they can."""
        return None

    @abc.abstractmethod
    def draw(self, visits: Sequence[Node], blocks: Blocks, y: Tensor, training: bool) -> Weights:
        """Weights for the nodes of a forward pass on a state like ``y``; none where each of them would be 1."""


Per = Literal["batch", "sample"]


def shape_of(per: Per, y: Tensor) -> tuple[int, ...]:
    """The shape of what is drawn for one evaluation: one number, or one for each sample."""
    return () if per == "batch" else (y.shape[0],) + (1,) * (y.dim() - 1)


class Dropping(Noise):
    """Drops at a rate that grows from 0 at the network's first block to ``drop`` at its last, or is the same for all.

    What survives is divided by its probability, so that 1 is the mean of a weight.
    """

    def __init__(
        self,
        drop: float = 0.5,
        schedule: Literal["linear", "constant"] = "linear",
        per: Literal["batch", "sample"] = "batch",
    ) -> None:
        if not 0 <= drop < 1:
            raise SchemenetError(f"{type(self).__name__}: drop expected to be in [0, 1), got {drop}")
        self.drop, self.schedule = drop, schedule
        self.per: Per = per

    def rate(self, depth: float) -> float:
        """The probability with which a block at this depth (0 to 1) is dropped."""
        return self.drop * depth if self.schedule == "linear" else self.drop

    def survival(self, depth: float, y: Tensor) -> Weight:
        """0, or 1 / (1 - rate)."""
        rate = self.rate(depth)
        alive = torch.rand(shape_of(self.per, y), device=y.device) >= rate
        return Weight(alive / (1 - rate))
