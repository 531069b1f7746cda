"""The recurrent baseline of a neural ODE on trajectories."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from architectures.arguments import require, scaled
from architectures.dynamics.base import TrajectoryModel
from architectures.model import layout_along
from architectures.observations import SeriesBatch
from architectures.registry import ARCHITECTURES
from architectures.standardizer import Standardizer


class TrajectoryGRU(TrajectoryModel):
    """A hidden state that a gated recurrent unit moves from one target time of a series to the next.

    Args:
        channels: of the series.
        hidden: width of the state.
        layout: see :class:`architectures.model.Model`.
    """

    def __init__(self, channels: int, hidden: int, layout: dict[str, Any]) -> None:
        super().__init__(Standardizer(channels), channels)
        self.layout = layout
        self.enter, self.leave = nn.Linear(channels, hidden), nn.Linear(hidden, channels)
        self.cell = nn.GRUCell(1, hidden)

    def forward(self, batch: SeriesBatch) -> Tensor:
        units, targets = self.units, batch.targets
        hidden = torch.tanh(self.enter((batch.observed.values[:, 0] - units.location) / units.scale))
        last = batch.observed.times[:1].expand(len(hidden))
        predictions = []
        for i, time in enumerate(targets.times):
            present = targets.mask[:, i].amax(-1)  # a series alone and in a batch takes the same steps
            moved = self.cell(((time - last) / units.span)[:, None], hidden)
            hidden = torch.lerp(hidden, moved, present[:, None])
            last = torch.lerp(last, time.expand_as(last), present)
            predictions.append(self.leave(hidden))
        return units.location + units.scale * torch.stack(predictions, 1)


@ARCHITECTURES.register("trajectory_gru", task="trajectory")
def trajectory_gru(
    in_chans: int = 2,
    *,
    hidden: int = 32,
    width: float = 1.0,
    inner: float = 1.0,
) -> TrajectoryGRU:
    """h_0 = tanh(A y_0), h_k = GRU(t_k - t_{k-1}, h_{k-1}), y_k = B h_k: a map from time to time, no flow.

    Args:
        in_chans: channels of the series.
        hidden: width of h.
        width: factor of ``hidden``.
        inner: further factor of it.

    Reference: Cho et al., "Learning Phrase Representations using RNN Encoder-Decoder for Statistical Machine
    Translation", EMNLP 2014, arXiv:1406.1078 (the unit).
    """
    require(hidden=hidden, width=width, inner=inner)
    total = scaled([hidden], width * inner)[0]
    layout = layout_along(None, widths=[total], inner=[], stem="linear, tanh", field="none")
    return TrajectoryGRU(in_chans, total, layout)
