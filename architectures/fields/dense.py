"""A branch of dense layers."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn

from architectures.layers.activations import activation_layer
from architectures.registry import FIELDS
from schemes.core.node import Node
from schemes.errors import SchemenetError


@FIELDS.register("mlp", convolutions=2, expansion=1, state="vector")
class DenseBranch(nn.Sequential):
    """Linear, activation, linear on (batch, channels), with ``layers`` hidden layers.

    Reference: Chen et al., NeurIPS 2018, arXiv:1806.07366.
    """

    def __init__(self, channels: int, out: int, inner: int, layers: int = 1, activation: str = "tanh") -> None:
        if layers < 1:
            raise SchemenetError(f"field 'mlp': layers expected to be at least 1, got {layers}")
        widths = [channels, *[inner] * layers]
        hidden = [(nn.Linear(a, b), activation_layer(activation)) for a, b in pairwise(widths)]
        super().__init__(*(part for pair in hidden for part in pair), nn.Linear(inner, out))

    def forward(self, node: Node, y: Tensor) -> Tensor:  # type: ignore[override]  # a field also takes its node
        return super().forward(y)
