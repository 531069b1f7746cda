"""Series of a batch, each at its own times: what lies on the union of them is drawn together for recurrent networks.

A recurrence over the union would take as many steps as all series have times; over these events it takes as many as
the longest has, and what belongs to one series depends on no other.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from architectures.observations import Observations, SeriesBatch


class Timeline(NamedTuple):
    """The events of each series, in the order in which they are walked, the same number for all of a batch.

    ``times`` (batch, events) stand still behind the last event of a series, which ``here`` (batch, events) tells apart;
    a series without any stands at time 0.
    ``values`` and ``mask`` (batch, events, channels) are the observations, 0 where there is none.
    """

    times: Tensor
    values: Tensor
    mask: Tensor
    here: Tensor

    def gaps(self) -> Tensor:
        """(batch, events): the signed time from the event before; the first event has none."""
        return torch.cat((torch.zeros_like(self.times[:, :1]), self.times.diff(dim=1)), 1)

    def led(self) -> Tensor:
        """(batch, events): whether there is an observation at the event or behind it."""
        return self.mask.any(2).flip(1).cumsum(1).flip(1) > 0


def observed_events(observed: Observations, backwards: bool = False) -> Timeline:
    """The observations of each series, the last first where they are walked ``backwards``."""
    times, values, mask = observed
    if backwards:
        times, values, mask = times.flip(0), values.flip(1), mask.flip(1)
    return _drawn_together(times, values, mask, mask.any(2), backwards)


def all_events(batch: SeriesBatch) -> tuple[Timeline, Tensor]:
    """The times of each series that are observed or asked, and which of them each asked time is: (batch, asked times).

    An asked time of the batch that is none of a series' own is given its last event before.
    """
    observed, asked = batch.observed, batch.asked
    if observed.times is asked.times:
        times, of_asked = observed.times, torch.arange(len(asked.times), device=asked.times.device)
        values, mask, wanted = observed.values, observed.mask, asked.mask.any(2)
    else:
        times, index = torch.unique(torch.cat((observed.times, asked.times)), return_inverse=True)
        of_observed, of_asked = index.split((len(observed.times), len(asked.times)))
        shape = (len(observed.values), len(times), observed.values.shape[2])
        values, mask = (part.new_zeros(shape).index_copy(1, of_observed, part) for part in observed[1:])
        wanted = mask.new_zeros(shape[:2], dtype=torch.bool).index_copy(1, of_asked, asked.mask.any(2))
    rows = mask.any(2) | wanted
    events = _drawn_together(times, values, mask, rows)
    return events, (rows.cumsum(1) - 1).clamp(min=0)[:, of_asked]


def asked_events(asked: Observations) -> tuple[Tensor, Tensor]:
    """The times that each series is asked for, (batch, events), and which of them each asked time is."""
    rows = asked.mask.any(2)
    empty = asked.values[..., :0]
    return _drawn_together(asked.times, empty, empty, rows).times, (rows.cumsum(1) - 1).clamp(min=0)


def _drawn_together(times: Tensor, values: Tensor, mask: Tensor, rows: Tensor, backwards: bool = False) -> Timeline:
    """The entries of the union that each series has, ``rows`` (batch, times), in front of its padding."""
    count = len(times) if rows.is_meta else max(1, int(rows.sum(1).max()))  # without numbers there may be any
    order = rows.logical_not().to(torch.uint8).argsort(dim=1, stable=True)[:, :count]
    here, own = rows.gather(1, order), times[order]
    own = torch.where(here, own, times[:1])
    own = own.cummin(1).values if backwards else own.cummax(1).values
    own = torch.where(here[:, :1], own, 0.0)  # the times of others are none of its own
    return Timeline(own, gathered(values, order), gathered(mask, order), here)


def gathered(values: Tensor, index: Tensor) -> Tensor:
    """Entries (batch, n, ...) of values (batch, events, ...) by their index (batch, n)."""
    return values.gather(1, index[..., None].expand(-1, -1, values.shape[2]))
