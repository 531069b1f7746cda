"""A sum of planar units whose weights follow time."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from architectures.fields.timed import time_channel
from architectures.registry import FIELDS
from schemes.core.node import Node
from schemes.errors import SchemenetError


@FIELDS.register("planar", convolutions=2, expansion=1, state="vector")
class Planar(nn.Module):
    r"""``inner`` units, each along one direction; a network of the time gives the weights of all of them.

        f(t, y) = sum_m sigma_m(t) u_m(t) tanh(w_m(t).y + b_m(t))
        tr df/dy = sum_m sigma_m(t) (1 - tanh^2) w_m(t).u_m(t)

    That network is linear, tanh, linear, tanh, linear, ``hidden`` times ``fine`` wide. y is (batch, channels), all of
    it at one time; ``out`` is ``channels``.

    Reference: Chen, Rubanova, Bettencourt, Duvenaud, NeurIPS 2018, arXiv:1806.07366, section 4.1.
    """

    def __init__(self, channels: int, out: int, inner: int, fine: float = 1.0, hidden: int = 32) -> None:
        super().__init__()
        if out != channels or hidden < 1:
            raise SchemenetError(
                f"field 'planar': hidden expected to be at least 1, got {hidden}, and as many channels out as in, got "
                f"{channels} and {out}"
            )
        wide = max(1, round(hidden * fine))
        self.channels, self.units = channels, inner
        self.weights = nn.Sequential(
            nn.Linear(1, wide), nn.Tanh(), nn.Linear(wide, wide), nn.Tanh(),
            nn.Linear(wide, inner * (2 * channels + 2)),
        )  # fmt: skip

    def _at(self, node: Node, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """sigma u and w, (units, channels), and the tanh of each unit, (batch, units)."""
        weights = self.weights(time_channel(node.t, y)).view(self.units, -1)
        u, w, (b, gate) = weights[:, : self.channels], weights[:, self.channels : -2], weights[:, -2:].unbind(1)
        return torch.sigmoid(gate).unsqueeze(1) * u, w, torch.tanh(torch.addmm(b, y, w.T))

    def forward(self, node: Node, y: Tensor) -> Tensor:
        u, _, height = self._at(node, y)
        return height @ u

    def with_trace(self, node: Node, y: Tensor) -> tuple[Tensor, Tensor]:
        """f and tr df/dy, (batch, channels) and (batch,)."""
        u, w, height = self._at(node, y)
        return height @ u, (1 - height.square()) @ (u * w).sum(1)
