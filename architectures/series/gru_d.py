"""GRU-D: a GRU whose inputs and state decay while nothing is observed."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from architectures.model import layout_along
from architectures.registry import ARCHITECTURES
from architectures.series.base import Autoregressive, State


@ARCHITECTURES.register("gru_d", task="series")
class GruD(Autoregressive):
    r"""A GRU with learned decay: of a missing input to the empirical mean, of the state to zero.

        g_x = exp(-max(0, w d + b)),   x^ = m x + (1 - m) (g_x x_last + (1 - g_x) x_mean)
        g_h = exp(-max(0, W d + c)),   h_k = GRU([x^, m], g_h h_{k-1})

    d_k (channels) is the time since each channel was last observed (since 0 where it never was), x_last its value then
    (the mean where it never was), m the mask; w is a vector, W a matrix. The prediction of an event is decoded from
    the decayed state before it; after the last observation the predictions are read. Channels are counted from x_mean,
    so that it is 0 inside.

    Args:
        in_chans: channels of the series.
        **options: as for :class:`architectures.series.base.Autoregressive`.

    Reference: Che, Purushotham, Cho, Sontag, Liu, "Recurrent Neural Networks for Multivariate Time Series with Missing
    Values", Scientific Reports 8, 2018, arXiv:1606.01865.
    """

    def __init__(self, in_chans: int = 2, **options: Any) -> None:
        super().__init__(in_chans=in_chans, **options)
        self.cell = nn.GRUCell(2 * in_chans, self.state)
        self.input_rate, self.input_bias = nn.Parameter(torch.ones(in_chans)), nn.Parameter(torch.zeros(in_chans))
        self.state_rate = nn.Linear(in_chans, self.state)
        self.layout = layout_along(None, widths=[self.state], inner=[self.inside], stem="none", field="gru")

    def initial_state(self, like: Tensor) -> State:
        return (*super().initial_state(like), torch.zeros_like(like), torch.zeros_like(like))

    def advance(self, state: State, start: Tensor, gap: Tensor, accumulate: bool) -> State:
        h, since, latest = state
        since = since + gap[:, None]
        return h * torch.exp(-self.state_rate(since).relu()), h, since, latest

    def update(self, state: State, values: Tensor, mask: Tensor, ahead: Tensor) -> State:
        faded, h, since, latest = state
        kept = torch.exp(-(self.input_rate * since + self.input_bias).relu())
        entered = torch.cat((mask * values + (1 - mask) * kept * latest, mask), 1)
        h = torch.where(mask.any(1, keepdim=True), self.cell(entered, faded), h)  # unobserved, it decays further
        return h, since * (1 - mask), torch.where(mask > 0, values, latest)
