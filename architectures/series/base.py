"""Base classes of the networks of irregular series, and the parts that they share."""

from __future__ import annotations

import abc
import math
from collections.abc import Iterable
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from architectures.arguments import build_field, require, require_vector_field, scaled
from architectures.layers.activations import activation_layer
from architectures.model import Model
from architectures.observations import Observations, SeriesBatch
from architectures.series.ragged_events import Timeline, all_events, gather_rows, observed_events
from architectures.standardizer import moments
from schemes.core.node import Node
from schemes.errors import SchemenetError
from schemes.schema import Spec

UNLABELLED = -1
"""The label of a series whose class is not known; it adds nothing to the loss."""


class Prediction(NamedTuple):
    """``values`` (samples, batch, target times, channels); ``logits`` (batch, classes), None without classes."""

    values: Tensor
    logits: Tensor | None


class SeriesModel(Model):
    """A network that reads the observations of a :class:`SeriesBatch` and predicts its targets.

    Times begin at 0 or later. The prediction for one series depends on no other of the batch, and never on target
    values. Inside, channels are standardized by ``location`` and ``scale``, and gaps are in units of the mean gap,
    ``pace``: buffers that :meth:`adapt` takes from a training set. Predictions and losses are in the units of the data.

    ``independent_times`` says that the prediction for one time depends on no other target time.

    Args:
        channels: of the series.
        state: width of what the classifier reads.
        hidden: width of the classifier's hidden layer.
        num_classes: of the series; 0 for no classifier.
        label_weight: factor of the cross entropy in the loss.
    """

    independent_times: ClassVar[bool] = False
    location: Tensor
    scale: Tensor
    pace: Tensor

    def __init__(self, channels: int, state: int, hidden: int, num_classes: int, label_weight: float) -> None:
        super().__init__()
        if not 0 <= label_weight < math.inf:
            raise SchemenetError(f"label_weight expected to be at least 0, got {label_weight:g}")
        self.register_buffer("location", torch.zeros(channels))
        self.register_buffer("scale", torch.ones(channels))
        self.register_buffer("pace", torch.ones(()))
        self.channels, self.num_classes, self.label_weight = channels, num_classes, label_weight
        self.classifier = two_layers(state, hidden, num_classes) if num_classes else None

    @torch.no_grad()
    def adapt(self, observed: Iterable[Observations]) -> None:
        """Take mean and standard deviation of the channels, and the mean gap, from a training set.

        Args:
            observed: its observations in parts, such as single series: on one union of all times they would need much
                memory where each has its own.
        """
        events = [observed_events(part) for part in observed]
        values, mask = (torch.cat([part[i].flatten(0, 1) for part in events]) for i in (1, 2))
        mean, scale = moments(values, mask)
        self.location.copy_(mean)
        self.scale.copy_(scale)
        passed = torch.stack([part.times.diff(dim=1).sum() for part in events]).sum()
        gaps = torch.stack([(part.present.sum(1) - 1).clamp(min=0).sum() for part in events]).sum()
        self.pace.copy_((passed / gaps).where(passed > 0, 1.0))

    def standardize(self, observed: Observations) -> Observations:
        """Observations in the units of the layers; 0 where nothing was observed."""
        values = (observed.values - self.location) / self.scale
        return observed._replace(values=values.where(observed.mask > 0, 0.0))

    def unstandardize(self, values: Tensor) -> Tensor:
        """Values (..., channels) of the layers in the units of the data."""
        return self.location + self.scale * values

    @abc.abstractmethod
    def predict(self, batch: SeriesBatch, samples: int = 0) -> Prediction:
        """Predict the targets.

        Args:
            batch: of whose targets the values are not read.
            samples: how many predictions a network with a distribution of them draws; 0 for that of the mean.
        """

    def label_loss(self, logits: Tensor | None, labels: Tensor | None) -> Tensor | float:
        """The weighted cross entropy of the labels; 0 without labels.

        Args:
            logits: (batch, classes), or None.
            labels: (batch,), or None; :data:`UNLABELLED` ones add nothing.
        """
        if logits is None or labels is None:
            return 0.0
        known = labels != UNLABELLED
        losses = functional.cross_entropy(logits, labels, ignore_index=UNLABELLED, reduction="sum")
        return self.label_weight * losses / known.sum().clamp(min=1)

    def random_batch(self, shape: tuple[int, ...], batch_size: int) -> SeriesBatch:
        """A batch of regular series, all of them observed: an upper bound of what irregular ones cost.

        Args:
            shape: (times, channels).
            batch_size: number of series.
        """
        like = self.like()
        times = torch.linspace(0, 1, shape[0], **like)
        values = torch.randn(batch_size, *shape, **like)
        points = Observations(times, values, torch.ones_like(values))
        labels = torch.zeros(batch_size, dtype=torch.long, device=like["device"]) if self.num_classes else None
        return SeriesBatch(points, points, labels)


State = tuple[Tensor, ...]
"""The state of a recurrence; predictions are decoded from its first part, (batch, state)."""


class Autoregressive(SeriesModel):
    """A recurrence that predicts each event of a series from the observations before it.

    One step ahead where there are observations; after the last one it is unrolled on its predictions. Trained by the
    mean squared error of all target entries of a batch.

    Args:
        num_classes: classes of the series; 0 for none.
        in_chans: channels of the series.
        hidden: width of the state.
        units: width of the hidden layer of the decoder, and of the field where there is one.
        width: factor of ``hidden`` and ``units``.
        inner: further factor of ``units``.
        decoder_activation: of the decoder's hidden layer.
        feeding: probability with which a prediction replaces an observation in training, so that the network learns to
            continue without observations.
        label_weight: factor of the cross entropy in the loss.

    Reference: ``feeding``: Bengio, Vinyals, Jaitly, Shazeer, "Scheduled Sampling for Sequence Prediction with Recurrent
    Neural Networks", NeurIPS 2015, arXiv:1506.03099.
    """

    def __init__(
        self,
        num_classes: int = 0,
        in_chans: int = 2,
        *,
        hidden: int = 25,
        units: int = 20,
        width: float = 1.0,
        inner: float = 1.0,
        decoder_activation: str = "tanh",
        feeding: float = 0.0,
        label_weight: float = 1.0,
    ) -> None:
        require(hidden=hidden, units=units, width=width, inner=inner)
        (state,), (inside,) = scaled([hidden], width), scaled([units], width * inner)
        super().__init__(in_chans, state, inside, num_classes, label_weight)
        if not 0 <= feeding <= 1:
            raise SchemenetError(f"feeding expected to be a probability, got {feeding}")
        self.state, self.inside, self.feeding = state, inside, feeding
        self.decoder = two_layers(state, inside, in_chans, decoder_activation)

    def initial_state(self, like: Tensor) -> State:
        """The state at time 0; ``like`` is (batch, channels)."""
        return (like.new_zeros(len(like), self.state),)

    @abc.abstractmethod
    def advance(self, state: State, start: Tensor, gap: Tensor, accumulate: bool) -> State:
        """The state right before an event.

        Args:
            state: after the event before.
            start: the time of that event, (batch,).
            gap: the time between both, (batch,).
            accumulate: whether the evaluations of f are added to those of the gaps before.
        """

    @abc.abstractmethod
    def update(self, state: State, values: Tensor, mask: Tensor, ahead: Tensor) -> State:
        """The state after an event.

        Args:
            state: right before it.
            values: of the event, (batch, channels).
            mask: 1 where a channel was observed, (batch, channels).
            ahead: the next gap in mean gaps, (batch,).
        """

    def unroll(self, events: Timeline) -> tuple[Tensor, Tensor]:
        """The prediction of each event (batch, events, channels), and the state after the last observation.

        Both events and predictions are standardized.
        """
        times, observed_later = events.times, events.observed_later()
        fed = events.present & ~observed_later  # whether the prediction stands for an observation
        if self.training and self.feeding:
            fed = fed | (torch.rand_like(times) < self.feeding)
        gaps = torch.cat((times[:, :1], times.diff(dim=1), torch.zeros_like(times[:, :1])), 1)
        state = self.initial_state(events.values[:, 0])
        last, predictions = state[0], []
        for k in range(times.shape[1]):
            state = self.advance(state, times[:, k] - gaps[:, k], gaps[:, k], accumulate=k > 0)
            predicted = self.decoder(state[0])
            values = torch.where(fed[:, k, None], predicted, events.values[:, k])
            mask = torch.where(fed[:, k, None], 1.0, events.mask[:, k])
            state = self.update(state, values, mask, gaps[:, k + 1] / self.pace)
            last = torch.where(observed_later[:, k, None], state[0], last)
            predictions.append(predicted)
        return torch.stack(predictions, 1), last

    def predict(self, batch: SeriesBatch, samples: int = 0) -> Prediction:
        events, index = all_events(batch._replace(observed=self.standardize(batch.observed)))
        values, last = self.unroll(events)
        logits = None if self.classifier is None else self.classifier(last)
        return Prediction(self.unstandardize(gather_rows(values, index))[None], logits)

    def loss(self, batch: SeriesBatch) -> Tensor:
        prediction, targets = self.predict(batch), batch.targets
        squares = residuals(prediction.values[0], targets).square().sum()
        return squares / targets.mask.sum().clamp(min=1) + self.label_loss(prediction.logits, batch.labels)


def residuals(values: Tensor, targets: Observations) -> Tensor:
    """Differences of values (..., batch, times, channels) from the targets; 0 where there is none."""
    return torch.where(targets.mask > 0, values - targets.values, 0.0)


def two_layers(channels: int, hidden: int, out: int, activation: str = "tanh") -> nn.Sequential:
    """Linear, activation, linear.

    Args:
        channels: of the input.
        hidden: width between the layers.
        out: channels of the output.
        activation: a name of ``architectures.layers.activations``.
    """
    return nn.Sequential(nn.Linear(channels, hidden), activation_layer(activation), nn.Linear(hidden, out))


def vector_field(field: Spec, width: int, inner: int) -> nn.Module:
    """A registered field on vectors.

    Args:
        field: its name, or a mapping with parameters.
        width: of the state.
        inner: width inside the field.

    Raises:
        SchemenetError: for a field that takes images.
    """
    require_vector_field(field)
    return build_field(field, channels=width, out=width, inner=inner)


class AcrossGaps(nn.Module):
    r"""A field along the gaps of each series, as one equation over s in [0, 1].

        dy/ds = gap f(start + s gap, y)

    ``start`` and ``gap`` (batch,); a series without a gap stands still, and a negative gap leads back in time.
    """

    def __init__(self, field: nn.Module) -> None:
        super().__init__()
        self.field = field

    def forward(self, s: Tensor, y: Tensor, start: Tensor, gap: Tensor) -> Tensor:
        return gap[:, None] * self.field(Node(0, start + s * gap, 0.0), y)
