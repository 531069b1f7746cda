"""The recurrent network that steps from observation to observation."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from architectures.model import layout_along
from architectures.registry import ARCHITECTURES
from architectures.residual import require, scaled
from architectures.series import Autoregressive
from architectures.timeline import Timeline, gathered

CELLS = {"rnn": nn.RNN, "gru": nn.GRU}


@ARCHITECTURES.register("rnn", task="series")
class Recurrent(Autoregressive):
    r"""A recurrent network on the observations of a series, predicting one step ahead.

        h_k = cell([x_k, m_k, t_{k+1} - t_k], h_{k-1}),   prediction of x_{k+1} = decoder(h_k)

    x_k are the values (0 where missing), m_k their mask. With ``gaps`` the cell is told how far it is to the next event
    ("RNN delta-t"); without, it knows their order alone. ``cell`` is tanh or a GRU. It steps through the events of each
    series, asked ones included, and behind the last observation is fed what it predicts. The published baseline has 25
    units and reads its state out by one linear layer; the decoder here has one hidden layer, as the latent ODE's.

    Reference: Chen, Rubanova, Bettencourt, Duvenaud, NeurIPS 2018, arXiv:1806.07366 (the baseline of section 5);
    Rubanova, Chen, Duvenaud, "Latent ODEs for Irregularly-Sampled Time Series", NeurIPS 2019, arXiv:1907.03907.
    """

    def __init__(
        self,
        num_classes: int = 0,
        in_chans: int = 2,
        image_size: int | None = None,
        *,
        cell: Literal["rnn", "gru"] = "rnn",
        gaps: bool = True,
        hidden: int = 25,
        units: int = 20,
        width: float = 1.0,
        inner: float = 1.0,
        label_weight: float = 1.0,
    ) -> None:
        require(hidden=hidden, units=units, width=width, inner=inner)
        state, inside = scaled([hidden], width, 1)[0], scaled([units], width * inner, 1)[0]
        super().__init__(in_chans, state, inside, num_classes, label_weight)
        self.told = gaps
        self.rnn = CELLS[cell](2 * in_chans + int(gaps), state, batch_first=True)
        self.layout = layout_along(None, widths=[state], inner=[inside], stem="none", field=cell)

    def walk(self, events: Timeline) -> tuple[Tensor, Tensor]:
        free = events.here & ~events.led()
        ahead = torch.cat((events.gaps()[:, 1:], torch.zeros_like(events.times[:, :1])), 1)[..., None]
        led = events.led().sum(1)  # so many events of each series come before it runs free
        most, rolled = (len(free[0]), 0) if free.is_meta else (max(1, int(led.max())), int(free.sum(1).max()))
        start = events.values.new_zeros(1, len(free), self.state)
        states, _ = self.rnn(self._input(events.values, events.mask, ahead)[:, :most], start)
        before = torch.cat((start.transpose(0, 1), states), 1)  # the state before each event
        last = gathered(before, led[:, None])[:, 0]
        predictions, state = [self.decoder(before[:, :most])], last
        for i in range(rolled):
            predicted = self.decoder(state)
            at = (led + i).clamp(max=len(free[0]) - 1)[:, None]
            read = self._input(predicted[:, None], torch.ones_like(predicted)[:, None], gathered(ahead, at))
            state = self.rnn(read, state[None].contiguous())[1][0]
            predictions.append(predicted[:, None])
        place = torch.arange(len(free[0]), device=led.device).expand_as(free)
        place = torch.where(place < led[:, None], place, most - led[:, None] + place)
        together = torch.cat(predictions, 1)
        return gathered(together, place.clamp(max=together.shape[1] - 1)), last

    def _input(self, values: Tensor, mask: Tensor, ahead: Tensor) -> Tensor:
        return torch.cat((values, mask, ahead) if self.told else (values, mask), 2)
