"""Transitions: the change of resolution between flows. Downsampling is never a step."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from architectures.layers.norms import norm_layer
from schemes.core.node import Node
from schemes.core.state import VectorField
from schemes.core.weighting import Weighted, weigh_by
from schemes.errors import SchemenetError, unknown
from schemes.noise.base import Blocks, Noise
from schemes.noise.none import NoNoise

ENTRY = Node(step=0, t=0.0, h=1.0)
"""The node that a transition's own branch is evaluated at."""


class ZeroPad(nn.Module):
    """Appends zero channels, behind the others or with ``even`` on both sides evenly."""

    def __init__(self, extra: int, even: bool = False) -> None:
        super().__init__()
        before = extra // 2 if even else 0
        self.padding = (0, 0, 0, 0, before, extra - before)

    def forward(self, x: Tensor) -> Tensor:
        return functional.pad(x, self.padding)


class Subsample(nn.Module):
    """Every stride-th row and column."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :, :: self.stride, :: self.stride]


class Projection(nn.Conv2d):
    """The 1x1 convolution of a shortcut, on every stride-th row and column.

    On a CPU with AVX2 oneDNN's strided 1x1 convolution of channels-last images writes behind the end of a buffer in
    backward (seen with torch 2.15: the process aborts, or continues with a damaged heap). There the rows and columns
    are picked first and convolved with stride 1: the same products.
    """

    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__(channels, out, 1, stride, bias=False)

    def forward(self, input: Tensor) -> Tensor:
        if input.device.type == "cpu" and input.is_contiguous(memory_format=torch.channels_last):
            rows, columns = self.stride
            return functional.conv2d(input[:, :, ::rows, ::columns], self.weight)
        return super().forward(input)


def shortcut(kind: str, channels: int, out: int, stride: int, norm: str) -> nn.Module:
    """The shortcut of a transition. Five variants are in use under the one name "ResNet".

    A: subsampling and zero channels, no parameters (He et al. 2015 on CIFAR); B: 1x1 convolution and norm;
    C: 1x1 convolution; D: norm, ReLU, 1x1 convolution (LM-ResNet's code); pool: average pooling and zero channels on
    both sides (RevNet's code).

    Args:
        kind: "A", "B", "C", "D" or "pool".
        channels: of the input.
        out: channels of the output.
        stride: of the convolution, or of the subsampling.
        norm: a name of ``architectures.layers.norms``.

    Raises:
        SchemenetError: for A and pool where the channels do not grow.
    """
    if kind in ("A", "pool") and out < channels:
        raise SchemenetError(
            f"transition {kind!r} pads with zero channels, and cannot go from {channels} channels to {out}; "
            "use transition B, C or D, or widths that grow"
        )
    project = Projection(channels, out, stride)
    if kind == "A":
        return nn.Sequential(Subsample(stride), ZeroPad(out - channels))
    if kind == "B":
        return nn.Sequential(project, norm_layer(norm, out))
    if kind == "C":
        return project
    if kind == "D":
        return nn.Sequential(norm_layer(norm, channels), nn.ReLU(), project)
    if kind == "pool":
        return nn.Sequential(nn.AvgPool2d(stride, ceil_mode=True), ZeroPad(out - channels, even=True))
    raise SchemenetError(unknown("transition", kind, ("A", "B", "C", "D", "pool")))


class Crossing(nn.Module):
    """Base class of transitions: the branches of one block, and the noise on them."""

    visits: tuple[Node, ...] = (ENTRY,)

    def __init__(self, noise: Noise | None = None, blocks: Blocks | None = None) -> None:
        super().__init__()
        self.noise, self.blocks = noise or NoNoise(), blocks or Blocks(0, 1)

    def weighted(self, f: VectorField, x: Tensor) -> VectorField:
        """f with the weights that noise draws for this pass."""
        return Weighted(f, weigh_by(self.noise.draw(self.visits, self.blocks, x, self.training)))


class Transition(Crossing):
    """x to S(x) + F(x): shortcut S and a strided branch F.

    Returns the new state and the past states of the flow that follows. Noise acts on F.

    Args:
        branch: F, with a stride.
        path: S.
        projection: applied to the new state, a ReLU in post-activation networks; None for none.
        history: the past state: "shortcut" for S(x); "project" for the older states of the flow before, brought to the
            new resolution by ``older``; "restart" for none.
        older: the module that does so; None for no past state.
        **noise: ``noise`` and ``blocks``, the place of this block in the network.
    """

    def __init__(
        self,
        branch: nn.Module,
        path: nn.Module,
        projection: nn.Module | None = None,
        history: str = "shortcut",
        older: nn.Module | None = None,
        **noise: Any,
    ) -> None:
        super().__init__(**noise)
        self.branch, self.path, self.projection = branch, path, projection
        self.history, self.older = history, older

    def forward(self, x: Tensor, past: tuple[Tensor, ...] = ()) -> tuple[Tensor, tuple[Tensor, ...]]:
        before = self.path(x)
        after = before + self.weighted(self.branch, x)(ENTRY, x)
        if self.history == "shortcut":
            past = (before,)
        else:
            past = () if self.older is None else tuple(self.older(state) for state in past)
        return (after if self.projection is None else self.projection(after)), past


class CoupledTransition(Crossing):
    """RevNet's first unit of a stage, on halves: y_1 = S(x_1) + F(x_2), y_2 = S(x_2) + G(y_1), F with the stride."""

    visits = (ENTRY, ENTRY.at(1, component=1))

    def __init__(self, branches: tuple[nn.Module, nn.Module], paths: tuple[nn.Module, nn.Module], **noise: Any) -> None:
        super().__init__(**noise)
        self.branches, self.paths = nn.ModuleList(branches), nn.ModuleList(paths)

    def forward(self, x: Tensor, past: tuple[Tensor, ...] = ()) -> tuple[Tensor, tuple[Tensor, ...]]:
        f = self.weighted(lambda node, y: self.branches[node.component](node, y), x)
        first, second = x.chunk(2, dim=1)
        first = self.paths[0](first) + f(self.visits[0], second)
        second = self.paths[1](second) + f(self.visits[1], first)
        return torch.cat((first, second), dim=1), ()
