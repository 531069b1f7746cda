"""Events of each series of a batch, packed for recurrent networks.

A recurrence over the union of all times would take as many steps as all series have times; over these events it takes
as many as the longest series has, and the result for a series does not depend on the others.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from architectures.observations import Observations, SeriesBatch


class Timeline(NamedTuple):
    """The events of each series in the order of the recurrence, padded to one number for all of a batch.

    Attributes:
        times: (batch, events); padding repeats the last time of a series, or is 0 for a series without events.
        values: the observations, (batch, events, channels), 0 where there is none.
        mask: like ``values``, 1 where there is an observation.
        present: False at padding, (batch, events).
    """

    times: Tensor
    values: Tensor
    mask: Tensor
    present: Tensor

    def observed_later(self) -> Tensor:
        """Whether there is an observation at the event or after it; (batch, events)."""
        return self.mask.any(2).flip(1).cumsum(1).flip(1) > 0


def observed_events(observed: Observations, backwards: bool = False) -> Timeline:
    """The observations of each series, with ``backwards`` from the last to the first."""
    times, values, mask = observed
    if backwards:
        times, values, mask = times.flip(0), values.flip(1), mask.flip(1)
    return _packed(times, values, mask, mask.any(2), backwards)


def all_events(batch: SeriesBatch) -> tuple[Timeline, Tensor]:
    """The observations and target times of each series as its events.

    Returns:
        The events, and for each target time of the batch the index of the series' event, (batch, target times): the
        event at that time, or the last one before where the series has none.
    """
    observed, targets = batch.observed, batch.targets
    if observed.times is targets.times:
        times, target_index = observed.times, torch.arange(len(targets.times), device=targets.times.device)
        values, mask, is_target = observed.values, observed.mask, targets.mask.any(2)
    else:
        times, index = torch.unique(torch.cat((observed.times, targets.times)), return_inverse=True)
        of_observed, target_index = index.split((len(observed.times), len(targets.times)))
        shape = (len(observed.values), len(times), observed.values.shape[2])
        values, mask = (part.new_zeros(shape).index_copy(1, of_observed, part) for part in observed[1:])
        is_target = mask.new_zeros(shape[:2], dtype=torch.bool).index_copy(1, target_index, targets.mask.any(2))
    rows = mask.any(2) | is_target
    events = _packed(times, values, mask, rows)
    return events, (rows.cumsum(1) - 1).clamp(min=0)[:, target_index]


def target_events(targets: Observations) -> tuple[Tensor, Tensor]:
    """The target times of each series, (batch, events), and the index of each target time of the batch among them."""
    rows = targets.mask.any(2)
    empty = targets.values[..., :0]
    return _packed(targets.times, empty, empty, rows).times, (rows.cumsum(1) - 1).clamp(min=0)


def _packed(times: Tensor, values: Tensor, mask: Tensor, rows: Tensor, backwards: bool = False) -> Timeline:
    """The events of each series, ``rows`` (batch, times) of the union, in front of its padding."""
    count = len(times) if rows.is_meta else max(1, int(rows.sum(1).max()))  # on the meta device: the most there can be
    order = rows.logical_not().to(torch.uint8).argsort(dim=1, stable=True)[:, :count]
    present = rows.gather(1, order)
    packed = torch.where(present, times[order], times[:1])
    packed = packed.cummin(1).values if backwards else packed.cummax(1).values
    packed = torch.where(present[:, :1], packed, 0.0)  # a series without events has none of the others' times
    return Timeline(packed, gather_rows(values, order), gather_rows(mask, order), present)


def gather_rows(values: Tensor, index: Tensor) -> Tensor:
    """Entries (batch, n, ...) of values (batch, events, ...) by their index (batch, n)."""
    return values.gather(1, index[..., None].expand(-1, -1, values.shape[2]))
