"""Dense fields of FFJORD, in which the time is an input of every layer."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn

from architectures.fields.timed import TimedLinear, time_channel
from architectures.layers.activations import activation_layer
from architectures.registry import FIELDS
from schemes.core.node import Node
from schemes.errors import SchemenetError


class Squashed(nn.Linear):
    """(A y + a) sigmoid(g t + c) + s t on (batch, channels): time opens and closes each output, and shifts it."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__(channels, out)
        self.gate, self.shift = nn.Linear(1, out), nn.Linear(1, out, bias=False)

    def forward(self, t: float | Tensor, y: Tensor) -> Tensor:  # type: ignore[override]  # takes the time as well
        t = time_channel(t, y)
        return super().forward(y) * torch.sigmoid(self.gate(t)) + self.shift(t)


class TimedLayers(nn.Module):
    """Layers of (t, y) with an activation between them."""

    def __init__(self, layer: Callable[[int, int], nn.Module], sizes: list[int], activation: nn.Module) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layer(a, b) for a, b in pairwise(sizes))
        self.activation = activation

    def forward(self, node: Node, y: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            y = self.activation(layer(node.t, y))
        return self.layers[-1](node.t, y)


def _layers(
    layer: Callable[[int, int], nn.Module], channels: int, out: int, inner: int, fine: float, layers: int, kind: str
) -> TimedLayers:
    if layers < 1:
        raise SchemenetError(f"layers expected to be at least 1, got {layers}")
    further = max(1, round(inner * fine))
    return TimedLayers(layer, [channels, inner, *[further] * (layers - 1), out], activation_layer(kind))


@FIELDS.register("concat", convolutions=2, expansion=1, state="vector")
def concat(
    channels: int, out: int, inner: int, fine: float = 1.0, layers: int = 3,
    activation: str = "tanh",
) -> TimedLayers:  # fmt: skip
    """``layers`` hidden layers, and the last, with time as an input of each: of one, ``mlp_time``.

    The first hidden layer is ``inner`` wide, further ones ``fine`` times that.

    Reference: Grathwohl, Chen, Bettencourt, Sutskever, Duvenaud, "FFJORD", ICLR 2019, arXiv:1810.01367.
    """
    return _layers(TimedLinear, channels, out, inner, fine, layers, activation)


@FIELDS.register("concat_squash", convolutions=2, expansion=1, state="vector")
def concat_squash(
    channels: int, out: int, inner: int, fine: float = 1.0, layers: int = 3,
    activation: str = "tanh",
) -> TimedLayers:  # fmt: skip
    """``layers`` hidden layers, and the last, each (A y + a) sigmoid(g t + c) + s t.

    Widths and reference: ``concat``.
    """
    return _layers(Squashed, channels, out, inner, fine, layers, activation)
