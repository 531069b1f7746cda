"""Series of observations at irregular times, with missing channels, as batches on the union of their times."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Observations(NamedTuple):
    """Values at the union of a batch's times.

    ``times`` (times,), increasing, in the data's own unit scaled so that a span is of the order of 1; ``values``
    (batch, times, channels), 0 where nothing was observed; ``mask`` like it, 1 where it was and else 0.
    """

    times: Tensor
    values: Tensor
    mask: Tensor


class SeriesBatch(NamedTuple):
    """What a network is shown, and what it is asked for.

    ``observed`` is what it may read. ``asked`` is what it is to predict: the same points where it interpolates, later
    ones where it extrapolates; its times begin no earlier than those observed. ``labels`` (batch,) are classes of the
    series, None where there are none. ``indices`` (batch,) are those of the series in their data set, by which a
    measure draws noise that does not depend on the batch; None where a batch is of no set.
    """

    observed: Observations
    asked: Observations
    labels: Tensor | None = None
    indices: Tensor | None = None
