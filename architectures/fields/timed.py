"""The branch of an ODE-Net: time enters every convolution as one more channel."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from architectures.norms import norm_layer
from architectures.registry import FIELDS
from schemes.node import Node


class TimedConvolution(nn.Conv2d):
    """A 3x3 convolution that sees a constant plane of value t in front of the channels."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__(channels + 1, out, 3, padding=1, bias=False)

    def forward(self, t: float, y: Tensor) -> Tensor:  # type: ignore[override]  # takes the time as well
        plane = y.new_full((y.shape[0], 1, *y.shape[2:]), t)
        return super().forward(torch.cat((plane, y), dim=1))


@FIELDS.register("basic_time", convolutions=2, expansion=1)
class TimedBranch(nn.Module):
    """norm, ReLU, 3x3, norm, ReLU, 3x3, norm, with time as a channel before each convolution; keeps the resolution.

    The authors' MNIST example has group norm and a bias in the convolutions; here the norm is an option and, as in the
    other fields, convolutions have none.

    Reference: Chen, Rubanova, Bettencourt, Duvenaud, NeurIPS 2018, arXiv:1806.07366.
    """

    def __init__(self, channels: int, out: int, inner: int, norm: str = "batch") -> None:
        super().__init__()
        self.enter = nn.Sequential(norm_layer(norm, channels), nn.ReLU())
        self.first = TimedConvolution(channels, inner)
        self.between = nn.Sequential(norm_layer(norm, inner), nn.ReLU())
        self.second = TimedConvolution(inner, out)
        self.leave = norm_layer(norm, out)

    def forward(self, node: Node, y: Tensor) -> Tensor:
        hidden = self.between(self.first(node.t, self.enter(y)))
        return self.leave(self.second(node.t, hidden))
