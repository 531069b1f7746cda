"""NICE: additive coupling, a reversible scheme as a density."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from architectures.arguments import build_field, name_of, require, require_vector_field, scaled
from architectures.density.base import LayeredDensity, join, part, two_parts
from architectures.model import layout_of
from architectures.registry import ARCHITECTURES
from schemes.core.node import Node
from schemes.errors import SchemenetError
from schemes.flow import Flow
from schemes.registry import SCHEMES
from schemes.schema import Spec


class Nice(LayeredDensity):
    """Additive coupling as a density, see :func:`nice`.

    Args:
        dims: of the data.
        flow: from data to noise, of a scheme of coupled systems.
    """

    def __init__(self, dims: int, flow: Flow) -> None:
        super().__init__(dims)
        self.flow = flow
        self.log_scale = nn.Parameter(torch.zeros(dims))

    def to_noise(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = join(*self.flow(part(x)))
        return y * self.log_scale.exp(), self.log_scale.sum().expand(len(x))

    def from_noise(self, z: Tensor) -> tuple[Tensor, Tensor]:
        *_, x = self.generate(z)
        return x, -self.log_scale.sum().expand(len(z))

    def generate(self, z: Tensor) -> Iterator[Tensor]:
        z = z * (-self.log_scale).exp()
        yield z
        yield from (join(*state) for state in self.flow.undone(part(z)))


@ARCHITECTURES.register("nice", task=("density", "energy"))
def nice(
    in_chans: int = 2,
    *,
    steps: int = 4,
    hidden: int = 64,
    width: float = 1.0,
    field: Spec = "mlp",
    scheme: Spec = "symplectic_euler",
    gradient: Spec = "reversible",
) -> Nice:
    r"""Additive coupling: symplectic Euler of a coupled system, h = 1, from data to noise; its log-determinant is zero.

        a_{n+1} = a_n + f_n(b_n),    b_{n+1} = b_n + g_n(a_{n+1}),    z = exp(s) (a_N, b_N),    log |det dz/dx| = sum s

    a and b are the even and the odd columns. The diagonal s is the paper's, trained; its noise is logistic, here it is
    normal.

    Args:
        in_chans: dimensions of the data.
        steps: N, of two couplings each, every coupling with its field.
        hidden: width of the fields' hidden layers.
        width: factor of ``hidden``.
        field: f and g, a field on vectors.
        scheme: of coupled systems.
        gradient: mode; ``reversible`` keeps nothing but the end.

    Reference: Dinh, Krueger, Bengio, "NICE: Non-linear Independent Components Estimation", ICLR 2015 workshop,
    arXiv:1410.8516.
    """
    require(steps=steps, hidden=hidden, width=width)
    sizes, (inner,) = two_parts(in_chans), scaled([hidden], width)
    if SCHEMES.build(scheme).components != 2:
        raise SchemenetError(
            f"couples two parts of a vector, and scheme {name_of(scheme)!r} has one component; use symplectic_euler or "
            "verlet"
        )

    def make(node: Node) -> nn.Module:
        out, channels = sizes[node.component], sizes[1 - node.component]
        return build_field(field, channels=channels, out=out, inner=inner)

    require_vector_field(field)
    network = Nice(in_chans, Flow(make, steps, scheme, "per_step", gradient=gradient))
    network.layout = layout_of(
        [network.flow], widths=[in_chans], inner=[inner], stem="none", norm="none", scheme=name_of(scheme),
        field=name_of(field), gradient=name_of(gradient),
    )  # fmt: skip
    return network
