"""RealNVP: affine coupling."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from architectures.arguments import build_field, name_of, require, require_vector_field, scaled
from architectures.density.base import LayeredDensity, join, part, two_parts
from architectures.model import layout_along
from architectures.registry import ARCHITECTURES
from schemes.core.node import Node
from schemes.schema import Spec


class Coupling(nn.Module):
    """y <- y exp(s) + t with (raw, t) = f(other), s = r tanh(raw); r is trained, and bounds s.

    Args:
        step: its number, for the field's node.
        field: f, from the other part to twice the moved one.
        dims: of the moved part.
    """

    def __init__(self, step: int, field: nn.Module, dims: int) -> None:
        super().__init__()
        self.node, self.field = Node(step, float(step), 1.0), field
        self.bound = nn.Parameter(torch.ones(dims))

    def forward(self, other: Tensor) -> tuple[Tensor, Tensor]:
        """s and t."""
        raw, shift = self.field(self.node, other).chunk(2, 1)
        return self.bound * torch.tanh(raw), shift


class RealNVP(LayeredDensity):
    """Affine couplings as a density, see :func:`real_nvp`.

    Args:
        dims: of the data.
        couplings: 0, 2, ... move the even columns, 1, 3, ... the odd ones.
    """

    def __init__(self, dims: int, couplings: list[Coupling]) -> None:
        super().__init__(dims)
        self.couplings = nn.ModuleList(couplings)

    def to_noise(self, x: Tensor) -> tuple[Tensor, Tensor]:
        parts, log_det = list(part(x)), x.new_zeros(len(x))
        for i, coupling in enumerate(self.couplings):
            log_scale, shift = coupling(parts[1 - i % 2])
            parts[i % 2] = parts[i % 2] * log_scale.exp() + shift
            log_det = log_det + log_scale.sum(1)
        return join(*parts), log_det

    def from_noise(self, z: Tensor) -> tuple[Tensor, Tensor]:
        states, gains = zip(*self._back(z), strict=True)
        return states[-1], torch.stack(gains).sum(0)

    def generate(self, z: Tensor) -> Iterator[Tensor]:
        yield from (x for x, _ in self._back(z))

    def _back(self, z: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """The point before each coupling, from the last one to the first, and what each adds to log |det dx/dz|."""
        parts = list(part(z))
        for i in reversed(range(len(self.couplings))):
            log_scale, shift = self.couplings[i](parts[1 - i % 2])
            parts[i % 2] = (parts[i % 2] - shift) * (-log_scale).exp()
            yield join(*parts), -log_scale.sum(1)


@ARCHITECTURES.register("real_nvp", task=("density", "energy"))
def real_nvp(
    in_chans: int = 2,
    *,
    steps: int = 4,
    hidden: int = 64,
    width: float = 1.0,
    field: Spec = "mlp",
) -> RealNVP:
    r"""Affine coupling, from data to noise.

        a <- a exp(s_n(b)) + t_n(b),    b <- b exp(s'_n(a)) + t'_n(a),    log |det dz/dx| = sum s_n + sum s'_n

    a and b are the even and the odd columns. Each half step is linear in what it moves, so that exp(s) solves it
    exactly where NICE adds; with s = 0 it is NICE. The paper's networks are convolutional, with batch norm between
    couplings and several scales; none of that is here.

    Args:
        in_chans: dimensions of the data.
        steps: of two couplings each.
        hidden: width of the fields' hidden layers.
        width: factor of ``hidden``.
        field: of each coupling; it gives t, and what a tanh and a trained factor make s of.

    Reference: Dinh, Sohl-Dickstein, Bengio, "Density estimation using Real NVP", ICLR 2017, arXiv:1605.08803.
    """
    require(steps=steps, hidden=hidden, width=width)
    sizes, (inner,) = two_parts(in_chans), scaled([hidden], width)
    require_vector_field(field)
    couplings = []
    for i in range(2 * steps):
        moved, other = sizes[i % 2], sizes[1 - i % 2]
        couplings.append(Coupling(i // 2, build_field(field, channels=other, out=2 * moved, inner=inner), moved))
    network = RealNVP(in_chans, couplings)
    network.layout = {
        **layout_along(None, widths=[in_chans], inner=[inner], stem="none", field=name_of(field)), "steps": [steps],
    }  # fmt: skip
    return network
