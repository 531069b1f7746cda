"""Latent ODE: a latent state that follows an ODE, decoded at the target times."""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor

from architectures.arguments import name_of, require, scaled
from architectures.model import layout_along
from architectures.observations import Observations
from architectures.registry import ARCHITECTURES
from architectures.series.base import two_layers, vector_field
from architectures.series.latent_variable import FlowingEncoder, RecurrentEncoder, Variational
from architectures.series.ode_rnn import JumpFlow
from schemes.ivp.trajectory_flow import Timed, TrajectoryFlow
from schemes.schema import Spec


@ARCHITECTURES.register("latent_ode", task="series")
class LatentOde(Variational):
    r"""A variational autoencoder whose latent state follows an ODE, z(0) ~ q(z | observed).

        z' = f(t, z),   z(0) = mu + sigma eps,   x(t) ~ N(decoder(z(t)), observation_sd^2)

    q comes from a recurrent network that runs backwards through the observations. Series of a batch are solved together
    along the union of the target times, one unit of time at a time: ``grid.steps`` are those of a unit, and a series
    alone takes the same steps as in any batch; on an adaptive grid this holds to the tolerance.

    Sizes as for the spirals of the first paper (in its released example f has two layers, both ELU, the decoder is
    ReLU, and time is the spiral's angle); PhysioNet's in the second: latent 20, recognition 40, f and decoder of 50,
    GRU.

    Args:
        in_chans: channels of the series.
        encoder: "rnn", whose inputs include each gap, or "ode_rnn", which solves each gap.
        cell: of ``encoder=rnn``: tanh or a GRU.
        latent: width of z.
        recognition: width of the encoder's state.
        units: width of the hidden layers of f and of the decoder.
        width: factor of ``latent`` and ``recognition``, and of ``units``.
        inner: further factor of ``units``.
        decoder_activation: of the decoder's hidden layer.
        field: f, a field on vectors.
        scheme: of the latent solve.
        grid: of the latent solve.
        gradient: mode.
        time_scale: units of f's time in one of the data's: the more, the further an untrained f moves the state.
        encoder_scheme: of the gaps of ``encoder=ode_rnn``.
        encoder_grid: of the gaps of ``encoder=ode_rnn``.
        **options: as for :class:`architectures.series.latent_variable.Variational`.

    Reference: Chen, Rubanova, Bettencourt, Duvenaud, NeurIPS 2018, arXiv:1806.07366; Rubanova, Chen, Duvenaud, "Latent
    ODEs for Irregularly-Sampled Time Series", NeurIPS 2019, arXiv:1907.03907.
    """

    independent_times = True

    def __init__(
        self,
        in_chans: int = 2,
        *,
        encoder: Literal["rnn", "ode_rnn"] = "rnn",
        cell: Literal["rnn", "gru"] = "rnn",
        latent: int = 4,
        recognition: int = 25,
        units: int = 20,
        width: float = 1.0,
        inner: float = 1.0,
        decoder_activation: str = "tanh",
        field: Spec = "mlp",
        scheme: Spec = "dopri5",
        grid: Spec = "adaptive",
        gradient: Spec = "backprop",
        time_scale: float = 1.0,
        encoder_scheme: Spec = "forward_euler",
        encoder_grid: Spec = {"name": "uniform", "steps": 1},  # noqa: B006  read only
        **options: Any,
    ) -> None:
        require(
            latent=latent, recognition=recognition, units=units, width=width, inner=inner, time_scale=time_scale
        )  # fmt: skip
        state, read = scaled([latent, recognition], width)
        (inside,) = scaled([units], width * inner)
        if encoder == "rnn":
            encoding = RecurrentEncoder(in_chans, read, cell)
        else:
            flow = JumpFlow(in_chans, read, inside, field, encoder_scheme, encoder_grid, gradient)
            encoding = FlowingEncoder(flow)
        super().__init__(encoding, in_chans, read, state, inside, **options)
        self.time_scale = time_scale
        self.path = TrajectoryFlow(Timed(vector_field(field, state, inside)), scheme, grid, gradient)
        self.decoder = two_layers(state, inside, in_chans, decoder_activation)
        self.layout = layout_along(
            self.path, widths=[state, read], inner=[inside], stem=f"{encoder} encoder", field=name_of(field),
            scheme=name_of(scheme),
        )  # fmt: skip

    def generate(self, z: Tensor, targets: Observations) -> Tensor:
        states = self.path.through(z.flatten(0, 1), self.time_scale * targets.times, start=0.0, unit=self.time_scale)
        values = self.decoder(states.unflatten(1, z.shape[:2]))  # (times, samples, batch, channels)
        return values.permute(1, 2, 0, 3)
