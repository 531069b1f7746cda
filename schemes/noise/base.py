"""Noise: random weights of the evaluations in a step."""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from schemes.core.node import Node
from schemes.core.scheme import Scheme
from schemes.core.weighting import Weight, Weights
from schemes.errors import SchemenetError


class Blocks(NamedTuple):
    """Where the steps of a flow stand in their network: the index of the first, and how many blocks there are."""

    first: int
    total: int


class Noise(abc.ABC):
    """Draws, once a forward pass, the weights with which evaluations of f enter the steps of a flow.

    What is drawn is data: every gradient mode differentiates the same noisy steps, whatever it evaluates again.
    """

    weighs_steps: ClassVar[bool] = True
    """Whether steps can have weights at all."""

    of_steps: bool = True
    """Whether all evaluations of a step have one weight, so that the flow is one of the field w_n f."""

    random: bool = True
    """Whether anything is drawn in training."""

    def unsupported_reason(self, scheme: Scheme) -> str | None:
        """The reason why the steps of a scheme cannot have this noise; None where they can."""
        return None

    @abc.abstractmethod
    def draw(self, visits: Sequence[Node], blocks: Blocks, y: Tensor, training: bool) -> Weights:
        """Weights for the nodes of a forward pass on a state like ``y``; none where each of them would be 1."""


Per = Literal["batch", "sample"]


def shape_of(per: Per, y: Tensor) -> tuple[int, ...]:
    """The shape of what is drawn for one evaluation: one number, or one for each sample."""
    return () if per == "batch" else (y.shape[0],) + (1,) * (y.dim() - 1)


SCHEDULES: Mapping[str, Callable[[int, int], float]] = {
    "linear": lambda block, total: (block - 1) / max(1, total - 1),
    "linear_paper": lambda block, total: block / total,
    "constant": lambda block, total: 1.0,
}
"""The share of the last block's rate that a block has: the first is number 1, the last number ``total``."""


class Dropping(Noise):
    """Drops block l of L at a rate that its place decides, ``drop`` at the last one.

    ``schedule`` linear: drop (l - 1) / (L - 1), the rule of the released codes and of timm, whose first block is never
    dropped; linear_paper: drop l / L, the papers'; constant: drop for all. What survives is divided by its probability,
    so that 1 is the mean of a weight.
    """

    def __init__(
        self,
        drop: float = 0.5,
        schedule: Literal["linear", "linear_paper", "constant"] = "linear",
        per: Literal["batch", "sample"] = "batch",
    ) -> None:
        if not 0 <= drop < 1:
            raise SchemenetError(f"{type(self).__name__}: drop expected to be in [0, 1), got {drop}")
        self.drop, self.schedule = drop, schedule
        self.per: Per = per
        self.random = drop > 0

    def rate(self, blocks: Blocks, step: int) -> float:
        """The probability with which the block of a flow's step is dropped."""
        return self.drop * SCHEDULES[self.schedule](blocks.first + step + 1, blocks.total)

    def survival(self, blocks: Blocks, step: int, y: Tensor) -> Weight:
        """0, or 1 / (1 - rate)."""
        rate = self.rate(blocks, step)
        alive = torch.rand(shape_of(self.per, y), device=y.device) >= rate
        return Weight(alive / (1 - rate))
