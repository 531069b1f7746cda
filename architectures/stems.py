"""From images to the first state."""

from __future__ import annotations

from torch import nn

from architectures.norms import norm_layer
from schemes.errors import SchemenetError, unknown

REDUCTION = {"3x3": 1, "7x7": 4}
"""How far each stem reduces the resolution."""


def stem(kind: str, in_chans: int, out: int, norm: str | None) -> nn.Module:
    """3x3: one convolution, for small images; 7x7: with stride 2 and a 3x3 max-pool of stride 2, for ImageNet's.

    The convolution is followed by ``norm`` and a ReLU, or by nothing where norm is None (pre-activation networks).
    Reference: He, Zhang, Ren, Sun, CVPR 2016, arXiv:1512.03385.
    """
    if kind not in REDUCTION:
        raise SchemenetError(unknown("stem", kind, REDUCTION))
    size, stride = (3, 1) if kind == "3x3" else (7, 2)
    layers: list[nn.Module] = [nn.Conv2d(in_chans, out, size, stride, size // 2, bias=False)]
    if norm is not None:
        layers += [norm_layer(norm, out), nn.ReLU()]
    if kind == "7x7":
        layers.append(nn.MaxPool2d(3, 2, 1))
    return layers[0] if len(layers) == 1 else nn.Sequential(*layers)


def described(kind: str, out: int, normalised: bool) -> str:
    """The stem in a table's cell."""
    end = ", max-pool /2" if kind == "7x7" else ""
    return f"conv {kind}{'/2' if end else ''}{', norm, ReLU' if normalised else ''}{end} to {out}"
