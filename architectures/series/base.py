"""What the networks of irregular series have in common: what they are asked, and the parts that they are made of."""

from __future__ import annotations

import abc
import math
from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from architectures.arguments import require, require_vector_field, scaled
from architectures.layers.activations import activation_layer
from architectures.model import Model
from architectures.observations import Observations, SeriesBatch
from architectures.registry import FIELDS
from architectures.series.ragged_events import Timeline, all_events, gathered, observed_events
from architectures.standardizer import moments
from schemes.core.node import Node
from schemes.errors import SchemenetError
from schemes.schema import Spec

UNLABELLED = -1
"""The label of a series of which no class is known; it adds nothing to a loss."""


class Prediction(NamedTuple):
    """``values`` (samples, batch, asked times, channels); ``logits`` (batch, classes), None without labels."""

    values: Tensor
    logits: Tensor | None


class SeriesModel(Model):
    """A network that reads a :class:`SeriesBatch` and predicts what it is asked for.

    Times begin at 0 or later, and a unit of time is the span that the data calls one. What a network answers for one
    series depends on no other of the batch, and never on asked values. With ``num_classes`` it also tells the class of
    a series by one more hidden layer, and the cross entropy counts ``label_weight`` times.

    Inside, channels are counted in ``scale`` from ``location``, and what reads a gap is told it in mean gaps, ``pace``:
    buffers that :meth:`adapt` takes from a training set. Answers and losses are in the units it is handed. ``anywhere``
    says that what it answers for one time depends on no other that is asked.
    """

    anywhere = False
    location: Tensor
    scale: Tensor
    pace: Tensor

    def __init__(self, channels: int, read: int, hidden: int, num_classes: int, label_weight: float) -> None:
        super().__init__()
        if not 0 <= label_weight < math.inf:
            raise SchemenetError(f"label_weight expected to be at least 0, got {label_weight:g}")
        self.register_buffer("location", torch.zeros(channels))
        self.register_buffer("scale", torch.ones(channels))
        self.register_buffer("pace", torch.ones(()))
        self.channels, self.num_classes, self.label_weight = channels, num_classes, label_weight
        self.classifier = two_layers(read, hidden, num_classes) if num_classes else None

    @torch.no_grad()
    def adapt(self, observed: Iterable[Observations]) -> None:
        """Take mean and standard deviation of the channels, and the mean gap, from what was observed for training.

        In parts, such as single series: on one union of all times they would fill memory where each has its own.
        """
        events = [observed_events(part) for part in observed]
        values, mask = (torch.cat([part[i].flatten(0, 1) for part in events]) for i in (1, 2))
        mean, scale = moments(values, mask)
        self.location.copy_(mean)
        self.scale.copy_(scale)
        passed = torch.stack([part.times.diff(dim=1).sum() for part in events]).sum()
        gaps = torch.stack([(part.here.sum(1) - 1).clamp(min=0).sum() for part in events]).sum()
        self.pace.copy_((passed / gaps).where(passed > 0, 1.0))

    def inward(self, observed: Observations) -> Observations:
        """Observations as the network counts them; 0 wherever nothing was observed."""
        values = (observed.values - self.location) / self.scale
        return observed._replace(values=values.where(observed.mask > 0, 0.0))

    def outward(self, values: Tensor) -> Tensor:
        """The network's (..., channels) in the data's units."""
        return self.location + self.scale * values

    @abc.abstractmethod
    def predict(self, batch: SeriesBatch, samples: int = 0) -> Prediction:
        """The answer of the mean, or where the network has a distribution of answers, ``samples`` of them."""

    def of_labels(self, logits: Tensor | None, labels: Tensor | None) -> Tensor | float:
        """What wrong classes add to the loss."""
        if logits is None or labels is None:
            return 0.0
        known = labels != UNLABELLED
        losses = functional.cross_entropy(logits, labels, ignore_index=UNLABELLED, reduction="sum")
        return self.label_weight * losses / known.sum().clamp(min=1)

    def random_batch(self, shape: tuple[int, ...], batch_size: int) -> SeriesBatch:
        """Regular series, all of them observed: an upper bound of what irregular ones cost."""
        like = self.like()
        times = torch.linspace(0, 1, shape[0], **like)
        values = torch.randn(batch_size, *shape, **like)
        points = Observations(times, values, torch.ones_like(values))
        labels = torch.zeros(batch_size, dtype=torch.long, device=like["device"]) if self.num_classes else None
        return SeriesBatch(points, points, labels)


State = tuple[Tensor, ...]
"""Of a recurrence: the first part (batch, state) is what predictions are decoded from."""


class Autoregressive(SeriesModel):
    """A recurrence that predicts each event of a series from the observations before it.

    One step ahead where there are observations; behind the last one it is rolled out on its own predictions. Trained
    by the mean squared error of all asked entries of a batch. In training it also reads its own prediction in place of
    an observation with probability ``feeding``, so that it learns to go on alone.

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

    def begin(self, like: Tensor) -> State:
        """The state at time 0; ``like`` is (batch, channels)."""
        return (like.new_zeros(len(like), self.state),)

    @abc.abstractmethod
    def reach(self, state: State, start: Tensor, gap: Tensor, accumulate: bool) -> State:
        """The state right before an event, behind the gap (batch,) that begins at ``start`` (batch,)."""

    @abc.abstractmethod
    def read(self, state: State, values: Tensor, mask: Tensor, ahead: Tensor) -> State:
        """The state after an event with entries (batch, channels); ``ahead`` (batch,) is the next gap in mean gaps."""

    def walk(self, events: Timeline) -> tuple[Tensor, Tensor]:
        """The prediction of each event (batch, events, channels), and the state behind the last observation.

        Both events and predictions are as the network counts them.
        """
        times, led = events.times, events.led()
        alone = events.here & ~led
        if self.training and self.feeding:
            alone = alone | (torch.rand_like(times) < self.feeding)
        gaps = torch.cat((times[:, :1], times.diff(dim=1), torch.zeros_like(times[:, :1])), 1)
        state = self.begin(events.values[:, 0])
        last, predictions = state[0], []
        for k in range(times.shape[1]):
            state = self.reach(state, times[:, k] - gaps[:, k], gaps[:, k], accumulate=k > 0)
            predicted, own = self.decoder(state[0]), alone[:, k, None]
            values = torch.where(own, predicted, events.values[:, k])
            mask = torch.where(own, 1.0, events.mask[:, k])
            state = self.read(state, values, mask, gaps[:, k + 1] / self.pace)
            last = torch.where(led[:, k, None], state[0], last)
            predictions.append(predicted)
        return torch.stack(predictions, 1), last

    def predict(self, batch: SeriesBatch, samples: int = 0) -> Prediction:
        events, asked = all_events(batch._replace(observed=self.inward(batch.observed)))
        values, last = self.walk(events)
        logits = None if self.classifier is None else self.classifier(last)
        return Prediction(self.outward(gathered(values, asked))[None], logits)

    def loss(self, batch: SeriesBatch) -> Tensor:
        found = self.predict(batch)
        asked = batch.asked
        squares = misses(found.values[0], asked).square().sum()
        return squares / asked.mask.sum().clamp(min=1) + self.of_labels(found.logits, batch.labels)


def misses(values: Tensor, asked: Observations) -> Tensor:
    """How far values (..., batch, times, channels) are from those asked; 0 where none is, whatever stands there."""
    return torch.where(asked.mask > 0, values - asked.values, 0.0)


def two_layers(channels: int, hidden: int, out: int, activation: str = "tanh") -> nn.Sequential:
    """Linear, activation, linear."""
    return nn.Sequential(nn.Linear(channels, hidden), activation_layer(activation), nn.Linear(hidden, out))


def vector_field(field: Spec, width: int, inner: int) -> nn.Module:
    """A registered field on vectors; refused where it takes images."""
    require_vector_field(field)
    return FIELDS.build(field, channels=width, out=width, inner=inner)


class AcrossGaps(nn.Module):
    r"""A field along gaps that each series has of its own, as one equation over s in [0, 1].

        dy/ds = gap f(start + s gap, y)

    ``start`` and ``gap`` (batch,); a series without a gap stands still, and a negative gap leads back in time.
    """

    def __init__(self, field: nn.Module) -> None:
        super().__init__()
        self.field = field

    def forward(self, s: Tensor, y: Tensor, start: Tensor, gap: Tensor) -> Tensor:
        return gap[:, None] * self.field(Node(0, start + s * gap, 0.0), y)
