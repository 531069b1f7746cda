"""One hidden layer: what is left of a network without flows."""

from __future__ import annotations

from torch import nn

from architectures.arguments import require, scaled
from architectures.model import layout_of
from architectures.registry import ARCHITECTURES
from architectures.supervised.network import Network


@ARCHITECTURES.register("one_layer_mlp", reads=("vector", "image"))
def one_layer_mlp(
    num_classes: int = 10,
    in_chans: int = 1,
    image_size: int | None = 28,
    *,
    hidden: int = 300,
    width: float = 1.0,
) -> Network:
    """Linear to ``hidden``, tanh, linear to the classes: 784-300-10 on MNIST, 238,510 parameters.

    No flow, and so no scheme: the first row of the table in which ODE-Nets are compared.

    Args:
        num_classes: classes.
        in_chans: length of the vectors, or channels of the images.
        image_size: in pixels; None for vectors.
        hidden: width of the hidden layer.
        width: factor of ``hidden``.

    Reference: LeCun, Bottou, Bengio, Haffner, "Gradient-Based Learning Applied to Document Recognition", Proceedings
    of the IEEE, 1998.
    """
    require(hidden=hidden, width=width)
    total = scaled([hidden], width)[0]
    stem = nn.Sequential(nn.Flatten(), nn.Linear(in_chans * (image_size or 1) ** 2, total), nn.Tanh())
    layout = layout_of(
        [], widths=[total], inner=[], stem=f"linear, tanh to {total}", norm="none", scheme="none", field="none",
        gradient="backprop",
    )  # fmt: skip
    return Network(stem, [], nn.Identity(), total, num_classes, layout)
