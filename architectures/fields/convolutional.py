"""Residual branches of convolutions, in pre-activation and in post-activation order."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from torch import Tensor, nn

from architectures.layers.activations import activation_layer
from architectures.layers.norms import norm_layer
from architectures.registry import FIELDS
from schemes.core.node import Node
from schemes.errors import SchemenetError

EXPANSION = 4


class Convolution(NamedTuple):
    channels: int
    out: int
    kernel: int
    stride: int = 1
    groups: int = 1

    def layer(self) -> nn.Conv2d:
        return nn.Conv2d(
            self.channels,
            self.out,
            self.kernel,
            self.stride,
            self.kernel // 2,
            groups=self.groups,
            bias=False,
        )


class Branch(nn.Sequential):
    """Convolutions, norm and activation before each (``pre``), or norm after each and an activation between (``post``).

    Shapes: (batch, channels, height, width) to (batch, out, height / stride, width / stride).

    Args:
        convolutions: in order.
        activation_order: "pre" or "post".
        norm: "batch", "group" or "none".
        leading_norm: False leaves out the norm and activation before the first convolution, which a normalised stem has
            done.
        activation: a key of ``architectures.layers.activations.ACTIVATIONS``.
    """

    def __init__(
        self,
        convolutions: Iterable[Convolution],
        activation_order: str = "pre",
        norm: str = "batch",
        leading_norm: bool = True,
        activation: str = "relu",
    ) -> None:
        layers: list[nn.Module] = []
        convolutions = list(convolutions)
        for i, convolution in enumerate(convolutions):
            if activation_order == "pre":
                if i or leading_norm:
                    layers += [norm_layer(norm, convolution.channels), activation_layer(activation)]
                layers.append(convolution.layer())
            else:
                layers += [convolution.layer(), norm_layer(norm, convolution.out)]
                if i < len(convolutions) - 1:
                    layers.append(activation_layer(activation))
        super().__init__(*layers)

    def forward(self, node: Node, y: Tensor) -> Tensor:  # type: ignore[override]  # a field also takes its node
        return super().forward(y)


@FIELDS.register("basic", convolutions=2, expansion=1, state="image")
def basic(
    channels: int,
    out: int,
    inner: int,
    stride: int = 1,
    activation_order: str = "pre",
    norm: str = "batch",
    leading_norm: bool = True,
    activation: str = "relu",
) -> Branch:
    """3x3, 3x3. Reference: He, Zhang, Ren, Sun, CVPR 2016 (arXiv:1512.03385) and ECCV 2016 (arXiv:1603.05027)."""
    layers = Convolution(channels, inner, 3, stride), Convolution(inner, out, 3)
    return Branch(layers, activation_order, norm, leading_norm, activation)


@FIELDS.register("bottleneck", extends="basic", convolutions=3, expansion=EXPANSION, state="image")
def bottleneck(channels: int, out: int, inner: int, stride: int = 1, **options: Any) -> Branch:
    """1x1, 3x3 (with the stride), 1x1 to four times the inner width. Reference: as ``basic``."""
    layers = Convolution(channels, inner, 1), Convolution(inner, inner, 3, stride), Convolution(inner, out, 1)
    return Branch(layers, **options)


@FIELDS.register("resnext", extends="basic", convolutions=3, expansion=EXPANSION, state="image")
def resnext(channels: int, out: int, inner: int, stride: int = 1, groups: int = 8, **options: Any) -> Branch:
    """1x1, grouped 3x3, 1x1: the sum of ``groups`` narrow bottlenecks, so f is a sum of vector fields.

    Reference: Xie, Girshick, Dollár, Tu, He, CVPR 2017, arXiv:1611.05431.
    """
    if groups < 1 or inner % groups:
        raise SchemenetError(f"field 'resnext': inner width {inner} expected to be a multiple of groups = {groups}")
    grouped = Convolution(inner, inner, 3, stride, groups)
    layers = Convolution(channels, inner, 1), grouped, Convolution(inner, out, 1)
    return Branch(layers, **options)
