"""Batches of series: observations at irregular times, with missing channels, on the union of the times."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Observations(NamedTuple):
    """Values at the union of a batch's times.

    Attributes:
        times: increasing, (times,), in a unit of which a series spans about one.
        values: (batch, times, channels), 0 where nothing was observed.
        mask: like ``values``, 1 where there is an observation, else 0.
    """

    times: Tensor
    values: Tensor
    mask: Tensor


class SeriesBatch(NamedTuple):
    """Inputs and targets of a network on series.

    Attributes:
        observed: what the network reads.
        targets: what it is to predict: the same points where it interpolates, later ones where it extrapolates. Their
            times begin no earlier than those observed.
        labels: classes of the series, (batch,); None without classes.
        indices: of the series in their data set, (batch,), by which metrics draw noise that does not depend on the
            batch; None for a batch of no data set.
    """

    observed: Observations
    targets: Observations
    labels: Tensor | None = None
    indices: Tensor | None = None
