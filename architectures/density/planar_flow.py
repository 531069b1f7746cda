"""The planar flow: layers of one unit each."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from architectures.arguments import require, scaled
from architectures.density.base import LayeredDensity
from architectures.model import layout_along
from architectures.registry import ARCHITECTURES

HALVINGS = 60
"""Of the interval in which a layer's inverse is looked for: to the last bit of a double."""


class PlanarFlow(LayeredDensity):
    """Planar layers, see :func:`planar_flow`; ``u``, ``w`` are (layers, dims), ``b`` (layers,).

    Args:
        dims: of the data.
        layers: how many.
        analytic: the direction in which a layer is a formula, "to_noise" or "from_noise".
    """

    def __init__(self, dims: int, layers: int, analytic: str) -> None:
        super().__init__(dims)
        self.analytic = analytic
        w = torch.randn(layers, dims) / math.sqrt(dims)
        still = math.log(math.e - 1) / w.square().sum(1, keepdim=True) * w  # with this u a layer moves nothing
        self.w, self.b = nn.Parameter(w), nn.Parameter(torch.randn(layers))
        self.u = nn.Parameter(still + 0.1 / layers * torch.randn(layers, dims))
        self.layout = {
            **layout_along(None, widths=[dims], inner=[1], stem="none", field="planar"),
            "steps": [layers], "h": [1.0], "scheme": "ForwardEuler", "sharing": "per_step",
        }  # fmt: skip

    def directions(self) -> tuple[Tensor, Tensor]:
        """What the layers add their tanh along, (layers, dims), and 1 + w.u of it, (layers,), which is positive."""
        along = (self.w * self.u).sum(1)
        slack = functional.softplus(along)
        size = self.w.square().sum(1).clamp_min(torch.finfo(self.w.dtype).tiny)
        return self.u + ((slack - 1 - along) / size).unsqueeze(1) * self.w, slack

    def _forth(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """All layers after one another, and the logarithm of their determinant."""
        u, slack = self.directions()
        heights = []
        for layer in zip(self.w, self.b, u, strict=True):
            y, height = self._layer(y, *layer)
            heights.append(height)
        squares = torch.cat(heights, 1).square()
        return y, (squares + slack * (1 - squares)).log().sum(1)

    @staticmethod
    def _layer(y: Tensor, w: Tensor, b: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        """y + u tanh(w.y + b), and the tanh of each point, (batch, 1)."""
        height = torch.tanh(torch.addmm(b, y, w.unsqueeze(1)))
        return torch.addmm(y, height, u.unsqueeze(0)), height

    def _back(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """The inverse of :meth:`_forth`."""
        heights = []
        u, slack = self.directions()
        for k in reversed(range(len(self.b))):
            y, height = self._undone(y, self.w[k], self.b[k], u[k], slack[k])
            heights.append(height)
        squares = torch.cat(heights[::-1], 1).square()
        return y, -(squares + slack * (1 - squares)).log().sum(1)

    @staticmethod
    def _undone(y: Tensor, w: Tensor, b: Tensor, u: Tensor, slack: Tensor) -> tuple[Tensor, Tensor]:
        """The point that one layer takes to y, and its tanh, (batch, 1).

        Its a = w.z + b is the root of a + c tanh(a) - w.y - b, c = w.u > -1, which grows in a; found by halving, and
        then one step of Newton's, whose derivative is the root's.
        """
        c, goal = slack - 1, torch.addmm(b, y, w.unsqueeze(1))
        with torch.no_grad():
            low, high = goal - c.abs(), goal + c.abs()
            for _ in range(HALVINGS):
                middle = (low + high) / 2
                beyond = middle + c * torch.tanh(middle) > goal
                low, high = torch.where(beyond, low, middle), torch.where(beyond, middle, high)
            a = (low + high) / 2
            slope = a.tanh().square() + slack * (1 - a.tanh().square())
        height = torch.tanh(a - (a + c * torch.tanh(a) - goal) / slope)
        return torch.addmm(y, height, u.unsqueeze(0), alpha=-1), height

    def to_noise(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self._forth(x) if self.analytic == "to_noise" else self._back(x)

    def from_noise(self, z: Tensor) -> tuple[Tensor, Tensor]:
        return self._forth(z) if self.analytic == "from_noise" else self._back(z)

    def generate(self, z: Tensor) -> Iterator[Tensor]:
        u, slack = self.directions()
        order = range(len(self.b))
        for k in order if self.analytic == "from_noise" else reversed(order):
            layer = self.w[k], self.b[k], u[k]
            z, _ = self._layer(z, *layer) if self.analytic == "from_noise" else self._undone(z, *layer, slack[k])
            yield z


@ARCHITECTURES.register("planar_flow", sizes={"planar_flow_vi": {"analytic": "from_noise"}}, task=("density", "energy"))
def planar_flow(
    in_chans: int = 2,
    *,
    layers: int = 32,
    analytic: Literal["to_noise", "from_noise"] = "to_noise",
    width: float = 1.0,
) -> PlanarFlow:
    r"""K layers, each of which moves points along one direction by one tanh: K (2d + 1) parameters.

        y_{k+1} = y_k + u_k tanh(w_k.y_k + b_k),    |det| = 1 + (1 - tanh^2) w_k.u_k

    A layer is a step of forward Euler, h = 1, of the field of one unit whose continuous limit is ``cnf``; the
    determinant is that of the step itself. It is invertible where w.u > -1, for which u is replaced in every evaluation
    by u + (m(w.u) - w.u) w / |w|^2, m(x) = -1 + log(1 + e^x).

    In one direction this is a formula. The other direction solves one monotone equation in one unknown for each layer
    and point, differentiably, which takes tens of times as long.

    Args:
        in_chans: d, dimensions of the data.
        layers: K.
        analytic: the direction of the formula: "to_noise" for maximum likelihood, "from_noise" (``planar_flow_vi``) for
            density matching, as in the paper.
        width: factor of ``layers``: there is nothing else to make larger.

    Reference: Rezende, Mohamed, "Variational Inference with Normalizing Flows", ICML 2015, arXiv:1505.05770.
    """
    require(layers=layers, width=width)
    return PlanarFlow(in_chans, scaled([layers], width)[0], analytic)
