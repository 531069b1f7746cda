"""Recurrent network: one step per observation."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from architectures.model import layout_along
from architectures.registry import ARCHITECTURES
from architectures.series.base import Autoregressive, State

CELLS = {"rnn": nn.RNNCell, "gru": nn.GRUCell}


@ARCHITECTURES.register("rnn", task="series")
class Recurrent(Autoregressive):
    r"""A recurrent network on the observations of a series, predicting one step ahead.

        h_k = cell([x_k, m_k, t_{k+1} - t_k], h_{k-1}),   prediction of x_{k+1} = decoder(h_k)

    x_k are the values (0 where missing), m_k their mask. It steps through the events of each series, targets included,
    and after the last observation reads its predictions. The published baseline has 25 units and one linear layer after
    the state; the decoder here has one hidden layer, as the latent ODE's.

    Args:
        in_chans: channels of the series.
        cell: tanh or a GRU.
        gaps: whether the time to the next event is an input of the cell ("RNN delta-t"); else only the order of the
            events enters.
        **options: as for :class:`architectures.series.base.Autoregressive`.

    Reference: Chen, Rubanova, Bettencourt, Duvenaud, NeurIPS 2018, arXiv:1806.07366 (the baseline of section 5);
    Rubanova, Chen, Duvenaud, "Latent ODEs for Irregularly-Sampled Time Series", NeurIPS 2019, arXiv:1907.03907.
    """

    def __init__(
        self, in_chans: int = 2, *, cell: Literal["rnn", "gru"] = "rnn", gaps: bool = True, **options: Any
    ) -> None:
        super().__init__(in_chans=in_chans, **options)
        self.gaps = gaps
        self.cell = CELLS[cell](2 * in_chans + int(gaps), self.state)
        self.layout = layout_along(None, widths=[self.state], inner=[self.inside], stem="none", field=cell)

    def advance(self, state: State, start: Tensor, gap: Tensor, accumulate: bool) -> State:
        return state

    def update(self, state: State, values: Tensor, mask: Tensor, ahead: Tensor) -> State:
        inputs = (values, mask, ahead[:, None]) if self.gaps else (values, mask)
        return (self.cell(torch.cat(inputs, 1), state[0]),)
