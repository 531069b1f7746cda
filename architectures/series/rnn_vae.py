"""RNN-VAE: the baseline of the latent ODE, without an ODE."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from architectures.arguments import require, scaled
from architectures.model import layout_along
from architectures.observations import Observations
from architectures.registry import ARCHITECTURES
from architectures.series.base import two_layers
from architectures.series.latent_variable import RECURRENT, RecurrentEncoder, Variational
from architectures.series.ragged_events import gather_rows, target_events


@ARCHITECTURES.register("rnn_vae", task="series")
class RnnVae(Variational):
    r"""A variational autoencoder whose encoder and decoder are recurrent networks on the gaps.

        h_0 = tanh(W z),   h_k = cell(t_k - t_{k-1}, h_{k-1}),   x(t_k) ~ N(decoder(h_k), observation_sd^2)

    t_k are the target times of a series, the first gap that from 0. The prediction for one time depends on the target
    times before it. The published decoder is fed the value that it has just decoded; as a function of h_{k-1}, this
    would be no new input for the cell.

    Args:
        in_chans: channels of the series.
        cell: of encoder and decoder.
        latent: width of z.
        recognition: width of the encoder's state.
        hidden: width of the decoder's state.
        units: width of the hidden layer after it.
        width: factor of all of them.
        inner: further factor of ``units``.
        decoder_activation: of that layer.
        **options: as for :class:`architectures.series.latent_variable.Variational`.

    Reference: Rubanova, Chen, Duvenaud, "Latent ODEs for Irregularly-Sampled Time Series", NeurIPS 2019,
    arXiv:1907.03907 (RNN-VAE).
    """

    def __init__(
        self,
        in_chans: int = 2,
        *,
        cell: Literal["rnn", "gru"] = "gru",
        latent: int = 4,
        recognition: int = 25,
        hidden: int = 25,
        units: int = 20,
        width: float = 1.0,
        inner: float = 1.0,
        decoder_activation: str = "tanh",
        **options: Any,
    ) -> None:
        require(latent=latent, recognition=recognition, hidden=hidden, units=units, width=width, inner=inner)
        state, read, run = scaled([latent, recognition, hidden], width)
        (inside,) = scaled([units], width * inner)
        super().__init__(RecurrentEncoder(in_chans, read, cell), in_chans, read, state, inside, **options)
        self.first = nn.Linear(state, run)
        self.rnn = RECURRENT[cell](1, run, batch_first=True)
        self.decoder = two_layers(run, inside, in_chans, decoder_activation)
        self.layout = layout_along(None, widths=[state, read, run], inner=[inside], stem="rnn encoder", field=cell)

    def generate(self, z: Tensor, targets: Observations) -> Tensor:
        times, index = target_events(targets)
        gaps = torch.cat((times[:, :1], times.diff(dim=1)), 1)[..., None] / self.pace
        states, _ = self.rnn(gaps.repeat(len(z), 1, 1), torch.tanh(self.first(z.flatten(0, 1)))[None])
        values = gather_rows(self.decoder(states), index.repeat(len(z), 1))
        return values.unflatten(0, z.shape[:2])
