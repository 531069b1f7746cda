"""FractalNet as published: no stem, no identity path, pooling after every block."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from architectures.arguments import name_of, require, scaled
from architectures.layers.norms import groups_in_words, norm_layer, norm_multiple
from architectures.model import layout_of
from architectures.registry import ARCHITECTURES
from architectures.supervised.network import Network, Past, Stage
from schemes.core.node import Node
from schemes.errors import SchemenetError
from schemes.flow import Flow
from schemes.methods.fractal import expansion
from schemes.registry import SCHEMES
from schemes.schema import Spec


class Unit(nn.Sequential):
    """3x3 convolution, dropout, norm, ReLU, and, at the end of a column, the block's pooling (before the join).

    Args:
        channels: of the input.
        out: channels of the output.
        norm: a name of ``architectures.layers.norms``.
        dropout: rate; 0 for none.
        pool: whether it is at the end of a column.
    """

    def __init__(self, channels: int, out: int, norm: str, dropout: float, pool: bool) -> None:
        layers: list[nn.Module] = [nn.Conv2d(channels, out, 3, padding=1, bias=False)]
        if dropout:
            layers.append(nn.Dropout(dropout))
        layers += [norm_layer(norm, out), nn.ReLU()]
        if pool:
            layers.append(nn.MaxPool2d(2))
        super().__init__(*layers)

    def forward(self, node: Node, y: Tensor) -> Tensor:  # type: ignore[override]  # a field also takes its node
        return super().forward(y)


class FractalNet(Network):
    """Draws, for a batch in training, whether one column is kept in the whole network and which."""

    columns: int
    global_drop: float

    @property
    def random_steps(self) -> bool:
        return super().random_steps or self.global_drop > 0

    def embed(self, x: Tensor) -> tuple[Tensor, Past]:
        x, past = super().embed(x)
        if self.training and self.global_drop:
            column = torch.randint(self.columns, (), device=x.device)
            kept = torch.rand((), device=x.device) < self.global_drop
            past = (torch.where(kept, column, torch.full_like(column, -1)),)
        return x, past


@ARCHITECTURES.register(
    "fractalnet", word="rk2", sizes={"fractalnet20": {"columns": 3, "widths": (64, 128, 256, 512, 512)}}
)
def fractalnet(
    num_classes: int = 10,
    in_chans: int = 3,
    image_size: int = 32,
    *,
    columns: int = 3,
    widths: Sequence[int] = (64, 128, 256, 512, 512),
    width: float = 1.0,
    drop_path: float = 0.15,
    global_drop: float = 0.5,
    dropout: float | Sequence[float] = 0.0,
    norm: Literal["batch", "group", "none"] = "batch",
    gradient: Spec = "backprop",
) -> Network:
    r"""FractalNet: blocks of the expansion rule, each followed by pooling.

        f_1(z) = conv(z),      f_{C+1}(z) = mean(f_C(f_C(z)), conv(z))

    Printed at 38.6 M parameters for 20 layers; the construction gives 33,724,618. Not known to reproduce: expect 1 to
    2 points above print. Runge-Kutta of order 2 only for special filters: see the schemes ``fractal`` and ``heun``.

    Args:
        num_classes: of the head; 0 for none.
        in_chans: channels of the images.
        image_size: in pixels. Each block halves the images: 32 pixels allow five blocks, 28 four and 8 three; further
            ones are left out.
        columns: C, of each block.
        widths: of the blocks.
        width: factor of ``widths``.
        drop_path: local drop path, the rate at which inputs of joins are dropped.
        global_drop: global drop path, the share of batches in which one column is kept in the whole network.
        dropout: a rate, or one for each block (the released generator: 0, .1, .2, .3, .4).
        norm: of each unit.
        gradient: mode of all blocks.

    Reference: Larsson, Maire, Shakhnarovich, ICLR 2017, arXiv:1605.07648.
    """
    require(widths=widths, width=width)
    scheme: Spec = {"name": "fractal", "columns": columns, "drop_path": drop_path}
    SCHEMES.build(scheme)
    if not 0 <= global_drop <= 1:
        raise SchemenetError(f"global_drop expected to be in [0, 1], got {global_drop}")
    blocks = min(len(widths), int(math.log2(max(1, image_size))))
    if blocks < 1:
        raise SchemenetError(f"images of {image_size} pixels cannot be halved once")
    outs = scaled(widths[:blocks], width, norm_multiple(norm))
    rates = [dropout] * blocks if isinstance(dropout, int | float) else list(dropout)
    if len(rates) < blocks or not all(0 <= rate < 1 for rate in rates):
        raise SchemenetError(
            f"dropout expected to be a rate in [0, 1) or one for each of {blocks} blocks, got {dropout!r}"
        )
    rows = expansion(columns)
    order = [(row, column) for row, ending in enumerate(rows, start=1) for column in ending]
    depth = len(rows)

    flows: list[Flow] = []
    channels = in_chans
    for out, rate in zip(outs, rates, strict=False):

        def make(node: Node, channels: int = channels, out: int = out, rate: float = rate) -> nn.Module:
            row, column = order[node.stage]
            first = row == depth >> column
            return Unit(channels if first else out, out, norm, rate, pool=row == depth)

        flows.append(Flow(make, 1, scheme=scheme, gradient=gradient))
        channels = out
    layout = layout_of(
        flows, widths=outs, reductions=[2 ** (i + 1) for i in range(blocks)], inner=outs, stem="none", norm=norm,
        norm_groups=groups_in_words(norm, outs), scheme="fractal", field="conv, norm, ReLU", gradient=name_of(gradient),
    )  # fmt: skip
    layout["h"] = ["-"]  # no step size enters
    stages = [Stage(None, flow) for flow in flows]
    network = FractalNet(nn.Identity(), stages, nn.Identity(), channels, num_classes, layout)
    network.columns, network.global_drop = columns, global_drop
    return network
