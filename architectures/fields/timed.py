"""Time-dependent fields: every layer has t as one more input in front of the channels of the state.

A layer is linear, so that its output for (t, y) is the sum of a function of y and one of t. The second part is the
same for every sample and computed once: neither y nor a plane of t is copied for it, and the weights keep the
shape of the published layer, which concatenates the two.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from architectures.layers.activations import activation_layer
from architectures.layers.norms import norm_layer
from architectures.registry import FIELDS
from schemes.core.node import Node


def time_channel(t: float | Tensor, y: Tensor) -> Tensor:
    """t as one channel beside those of y, (1, 1, ...), or (batch, 1, ...) where each sample has a time of its own.

    A Python number, a tensor of no dimension or one of shape (batch,); no tensor is read by the host.
    """
    ones = [1] * (y.dim() - 1)
    t = t.to(y.dtype).view(-1, *ones) if isinstance(t, Tensor) else y.new_full((1, *ones), t)
    return t.expand(-1, 1, *y.shape[2:])


class TimedConvolution(nn.Conv2d):
    """A 3x3 convolution of (t, y), t as a constant plane in front of the channels (batch, channels, height, width)."""

    def __init__(self, channels: int, out: int, bias: bool) -> None:
        super().__init__(channels + 1, out, 3, padding=1, bias=bias)

    def forward(self, t: float | Tensor, y: Tensor) -> Tensor:  # type: ignore[override]  # takes the time as well
        of_time = functional.conv2d(time_channel(t, y), self.weight[:, :1], self.bias, padding=1)
        return functional.conv2d(y, self.weight[:, 1:], padding=1).add_(of_time)


class TimedLinear(nn.Linear):
    """A linear layer of (t, y) on (batch, channels)."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__(channels + 1, out)

    def forward(self, t: float | Tensor, y: Tensor) -> Tensor:  # type: ignore[override]  # takes the time as well
        of_time = functional.linear(time_channel(t, y), self.weight[:, :1], self.bias)
        return functional.linear(y, self.weight[:, 1:]) + of_time


@FIELDS.register("basic_time", convolutions=2, expansion=1, state="image")
class TimedBranch(nn.Module):
    """norm, ReLU, 3x3, norm, ReLU, 3x3, norm, with time as a channel before each convolution; keeps the resolution.

    As in the authors' MNIST example: 75,392 parameters at 64 channels with group norm. ``bias`` False leaves the
    convolutions without one, as in the other fields. ReLU has a kink, at which a solver loses its order; with ``tanh``
    or ``softplus`` for ``activation`` f is smooth.

    Reference: Chen, Rubanova, Bettencourt, Duvenaud, NeurIPS 2018, arXiv:1806.07366.
    """

    def __init__(
        self, channels: int, out: int, inner: int, norm: str = "batch", bias: bool = True, activation: str = "relu"
    ) -> None:
        super().__init__()
        self.enter = nn.Sequential(norm_layer(norm, channels), activation_layer(activation))
        self.first = TimedConvolution(channels, inner, bias)
        self.between = nn.Sequential(norm_layer(norm, inner), activation_layer(activation))
        self.second = TimedConvolution(inner, out, bias)
        self.leave = norm_layer(norm, out)

    def forward(self, node: Node, y: Tensor) -> Tensor:
        hidden = self.between(self.first(node.t, self.enter(y)))
        return self.leave(self.second(node.t, hidden))


@FIELDS.register("mlp_time", convolutions=2, expansion=1, state="vector")
class TimedDenseBranch(nn.Module):
    """Linear, activation, linear on (batch, channels), with time as an input of each linear layer.

    Reference: Grathwohl, Chen, Bettencourt, Sutskever, Duvenaud, "FFJORD", ICLR 2019, arXiv:1810.01367 (its layers
    that concatenate the time).
    """

    def __init__(self, channels: int, out: int, inner: int, activation: str = "tanh") -> None:
        super().__init__()
        self.first, self.second = TimedLinear(channels, inner), TimedLinear(inner, out)
        self.activation = activation_layer(activation)

    def forward(self, node: Node, y: Tensor) -> Tensor:
        return self.second(node.t, self.activation(self.first(node.t, y)))
