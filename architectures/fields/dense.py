"""A branch of dense layers."""

from __future__ import annotations

from torch import Tensor, nn

from architectures.registry import FIELDS
from schemes.node import Node


@FIELDS.register("mlp", convolutions=2, expansion=1, state="vector")
class DenseBranch(nn.Sequential):
    """Linear, tanh, linear on (batch, channels). Reference: Chen et al., NeurIPS 2018, arXiv:1806.07366."""

    def __init__(self, channels: int, out: int, inner: int) -> None:
        super().__init__(nn.Linear(channels, inner), nn.Tanh(), nn.Linear(inner, out))

    def forward(self, node: Node, y: Tensor) -> Tensor:  # type: ignore[override]  # a field also takes its node
        return super().forward(y)
