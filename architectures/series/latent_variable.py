"""Variational autoencoders of series: one latent state stands for a whole series."""

from __future__ import annotations

import abc
import math

import torch
from torch import Tensor, nn

from architectures.arguments import require
from architectures.observations import Observations, SeriesBatch
from architectures.series.base import Prediction, SeriesModel, residuals
from architectures.series.ode_rnn import JumpFlow
from architectures.series.ragged_events import gather_rows, observed_events
from schemes.errors import Problems

RECURRENT = {"rnn": nn.RNN, "gru": nn.GRU}


class RecurrentEncoder(nn.Module):
    """A recurrent network from the last observation back to the first; each gap to the one before is an input.

    The gap of the first observation is that from time 0.

    Args:
        channels: of the series.
        hidden: width of the state.
        cell: a key of ``RECURRENT``.
    """

    def __init__(self, channels: int, hidden: int, cell: str) -> None:
        super().__init__()
        self.rnn = RECURRENT[cell](2 * channels + 1, hidden, batch_first=True)

    def forward(self, observed: Observations, pace: Tensor) -> Tensor:
        """The state after the first observation.

        Args:
            observed: standardized.
            pace: the mean gap, the unit of the gaps.

        Returns:
            The state, (batch, hidden); 0 for a series without observations.
        """
        events = observed_events(observed, backwards=True)
        times = events.times
        count = events.present.sum(1)
        below = torch.cat((times[:, :-1] - times[:, 1:], times[:, -1:]), 1)
        final = torch.arange(times.shape[1], device=times.device) == count[:, None] - 1
        below = torch.where(final, times, below)[..., None] / pace
        states, _ = self.rnn(torch.cat((events.values, events.mask, below), 2))
        state = gather_rows(states, (count - 1).clamp(min=0)[:, None])[:, 0]
        return torch.where(count[:, None] > 0, state, 0.0)


class FlowingEncoder(nn.Module):
    """An ODE-RNN from the last observation back to the first, and to time 0; called as :class:`RecurrentEncoder`."""

    def __init__(self, flow: JumpFlow) -> None:
        super().__init__()
        self.flow = flow

    def forward(self, observed: Observations, pace: Tensor) -> Tensor:
        events = observed_events(observed, backwards=True)
        times = events.times
        state = events.values.new_zeros(len(times), self.flow.cell.hidden_size)
        state = self.flow.jump(state, events.values[:, 0], events.mask[:, 0])
        for k in range(1, times.shape[1]):
            state = self.flow.through(state, times[:, k - 1], times[:, k] - times[:, k - 1], accumulate=k > 1)
            state = self.flow.jump(state, events.values[:, k], events.mask[:, k])
        return self.flow.through(state, times[:, -1], -times[:, -1], accumulate=times.shape[1] > 1)


class Variational(SeriesModel):
    r"""A variational autoencoder: a latent state z at time 0 generates a series x. Trained by the evidence lower bound.

        q(z | observed) = N(mu, sigma^2),   p(z) = N(0, 1),   p(x | z) = N(decoded(z, t), observation_sd^2)
        loss = E_q[-log p(targets | z)] + beta KL(q || p),   in nats a series, over the targets that are observed

    The buffer ``batches`` counts the batches of the training.

    Args:
        encoder: from standardized observations and the mean gap to (batch, recognition).
        channels: of the series.
        recognition: width of the encoder's state.
        latent: width of z.
        hidden: width of the classifier's hidden layer.
        num_classes: of the series; 0 for no classifier.
        observation_sd: of p(x | z), in standardized units.
        samples: draws of z over which training takes the expectation.
        kl_weight: the final beta.
        kl_wait: batches for which beta is 0.
        kl_rise: beta is kl_weight (1 - exp(-k / kl_rise)) at the k-th batch after them; at once kl_weight with 0.
        label_weight: factor of the cross entropy in the loss.

    Reference: Kingma and Welling, "Auto-Encoding Variational Bayes", ICLR 2014, arXiv:1312.6114.
    """

    batches: Tensor

    def __init__(
        self,
        encoder: nn.Module,
        channels: int,
        recognition: int,
        latent: int,
        hidden: int,
        /,
        num_classes: int = 0,
        *,
        observation_sd: float = 0.3,
        samples: int = 1,
        kl_weight: float = 1.0,
        kl_wait: int = 0,
        kl_rise: float = 0.0,
        label_weight: float = 1.0,
    ) -> None:
        require(observation_sd=observation_sd)
        super().__init__(channels, latent, hidden, num_classes, label_weight)
        problems = Problems()
        for name, value in {"samples": samples, "kl_weight": kl_weight, "kl_wait": kl_wait, "kl_rise": kl_rise}.items():
            if not (least := int(name == "samples")) <= value < math.inf:
                problems.add(f"{name} expected to be at least {least:g}, got {value:g}")
        problems.raise_if_any()
        self.encoder, self.latent = encoder, latent
        self.posterior = nn.Linear(recognition, 2 * latent)
        self.observation_sd, self.samples = observation_sd, samples
        self.kl_weight, self.kl_wait, self.kl_rise = kl_weight, kl_wait, kl_rise
        self.register_buffer("batches", torch.zeros((), dtype=torch.long))

    @abc.abstractmethod
    def generate(self, z: Tensor, targets: Observations) -> Tensor:
        """Standardized predictions at the target times.

        Args:
            z: latent states, (samples, batch, latent).
            targets: whose times are read.

        Returns:
            (samples, batch, times, channels).
        """

    def decode(self, z: Tensor, targets: Observations) -> Tensor:
        """The same in the units of the data."""
        return self.unstandardize(self.generate(z, targets))

    def encode(self, observed: Observations) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of q, each (batch, latent)."""
        mean, log_variance = self.posterior(self.encoder(self.standardize(observed), self.pace)).chunk(2, 1)
        return mean, (0.5 * log_variance).exp()

    def predict(self, batch: SeriesBatch, samples: int = 0) -> Prediction:
        """Predict by the mean of q where ``samples`` is 0, else by so many draws from it."""
        mean, sd = self.encode(batch.observed)
        z = mean[None] if samples == 0 else mean + sd * torch.randn(samples, *mean.shape, **self.like())
        return Prediction(self.decode(z, batch.targets), self._logits(mean))

    def loss(self, batch: SeriesBatch) -> Tensor:
        beta = self.kl_factor()
        mean, sd = self.encode(batch.observed)
        z = mean + sd * torch.randn(self.samples, *mean.shape, **self.like())
        reconstruction = self.negative_log_likelihood(self.decode(z, batch.targets), batch.targets).mean(0)
        bound = (reconstruction + beta * divergence(mean, sd)).mean()
        return bound + self.label_loss(self._logits(mean), batch.labels)

    def negative_log_likelihood(self, values: Tensor, targets: Observations) -> Tensor:
        """-log p(targets | z) in nats, (samples, batch)."""
        squares = (residuals(values, targets) / self.observation_sd).square()
        constant = math.log(2 * math.pi) + 2 * math.log(self.observation_sd)
        return 0.5 * (squares + constant * targets.mask).sum((2, 3))

    def negative_bound(self, batch: SeriesBatch, noise: Tensor) -> Tensor:
        """The negative bound (batch,) with KL in full, by draws mu + sigma ``noise`` (samples, batch, latent)."""
        mean, sd = self.encode(batch.observed)
        reconstruction = self.negative_log_likelihood(self.decode(mean + sd * noise, batch.targets), batch.targets)
        return reconstruction.mean(0) + divergence(mean, sd)

    def _logits(self, mean: Tensor) -> Tensor | None:
        return None if self.classifier is None else self.classifier(mean)

    @torch.no_grad()
    def kl_factor(self) -> Tensor | float:
        """The weight of KL in this batch; counts the batches of training."""
        if not self.training:
            return self.kl_weight
        k = self.batches - self.kl_wait
        self.batches += 1
        risen = 1 - torch.exp(-k / self.kl_rise) if self.kl_rise else 1.0
        return torch.where(k >= 0, self.kl_weight * risen, 0.0)


def divergence(mean: Tensor, sd: Tensor) -> Tensor:
    """KL(N(mean, sd^2) || N(0, 1)) in nats, summed over the last dimension."""
    return 0.5 * (mean.square() + sd.square() - 1 - 2 * sd.log()).sum(-1)
