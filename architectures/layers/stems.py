"""Stems: from images to the first state."""

from __future__ import annotations

from torch import Tensor, nn

from architectures.layers.norms import norm_layer
from architectures.layers.transitions import Transition, shortcut
from architectures.registry import FIELDS
from schemes.errors import SchemenetError, unknown

REDUCTION = {"3x3": 1, "7x7": 4, "conv": 4, "res": 4}
"""The factor by which each stem reduces the resolution."""


def stem(kind: str, in_chans: int, out: int, norm: str, normalised: bool = False) -> nn.Module:
    """3x3: one convolution, for small images; 7x7: with stride 2 and a 3x3 max-pool of stride 2, for ImageNet's.

    conv: a 3x3 convolution without padding, then two 4x4 ones of stride 2, norm and ReLU between them; res: the first
    of these, then two pre-activation blocks of stride 2. A 28x28 image becomes 6x6 by ``conv``, 7x7 by ``res``.
    With ``normalised`` the last convolution (for 7x7 the only one, before its pool) is followed by norm and ReLU.

    Reference: He, Zhang, Ren, Sun, CVPR 2016, arXiv:1512.03385; ``conv`` and ``res``: Chen, Rubanova, Bettencourt,
    Duvenaud, NeurIPS 2018, arXiv:1806.07366 (the authors' MNIST example).
    """
    if kind not in REDUCTION:
        raise SchemenetError(unknown("stem", kind, REDUCTION))

    def active() -> list[nn.Module]:
        return [norm_layer(norm, out), nn.ReLU()]

    if kind in ("3x3", "7x7"):
        size, stride = (3, 1) if kind == "3x3" else (7, 2)
        layers: list[nn.Module] = [nn.Conv2d(in_chans, out, size, stride, size // 2, bias=False)]
    else:
        layers = [nn.Conv2d(in_chans, out, 3)]
        for _ in range(2):
            halving = [nn.Conv2d(out, out, 4, 2, 1)] if kind == "conv" else [StridedBlock(out, norm)]
            layers += [*active(), *halving]
    if normalised:
        layers += active()
    if kind == "7x7":
        layers.append(nn.MaxPool2d(3, 2, 1))
    return layers[0] if len(layers) == 1 else nn.Sequential(*layers)


class StridedBlock(nn.Module):
    """S(x) + F(x) at half the resolution; x is the state behind norm and ReLU, for both paths."""

    def __init__(self, channels: int, norm: str) -> None:
        super().__init__()
        branch = FIELDS.build(
            "basic", channels=channels, out=channels, inner=channels, stride=2, norm=norm, leading_norm=False
        )
        self.both = Transition(branch, shortcut("C", channels, channels, 2, norm))

    def forward(self, x: Tensor) -> Tensor:
        return self.both(x)[0]


def described(kind: str, out: int, normalised: bool) -> str:
    """The stem in a table's cell."""
    layers = {
        "3x3": "conv 3x3",
        "7x7": "conv 7x7/2",
        "conv": "conv 3x3, 4x4/2, 4x4/2",
        "res": "conv 3x3, 2 blocks/2",
    }  # fmt: skip
    end = ", max-pool /2" if kind == "7x7" else ""
    return f"{layers[kind]}{', norm, ReLU' if normalised else ''}{end} to {out}"
