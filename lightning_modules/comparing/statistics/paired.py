"""Statistics of numbers that come in pairs, one for each seed."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import TypeVar

import numpy as np
from scipy import stats

RESAMPLES = 9999
FEWEST_TO_RESAMPLE = 6  # as the sign-flip interval at 95%

Name = TypeVar("Name", bound=Hashable)


def mean_and_sd(values: Sequence[float]) -> tuple[float | None, float | None]:
    """Mean and sample standard deviation (n - 1); None where there are too few values."""
    mean = float(np.mean(values)) if len(values) else None
    return mean, float(np.std(values, ddof=1)) if len(values) > 1 else None


def correlation(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Pearson's correlation.

    Args:
        first: errors of one arm, (pairs,).
        second: of the other, (pairs,).

    Returns:
        None with fewer than three pairs (two always give -1 or 1) or without spread.
    """
    if len(first) < 3 or np.ptp(first) == 0 or np.ptp(second) == 0:
        return None
    return float(np.corrcoef(first, second)[0, 1])


def bootstrap_interval(differences: Sequence[float], level: float = 0.95) -> tuple[float, float] | None:
    """Interval of the mean of paired differences by bias-corrected and accelerated bootstrap, always the same draws.

    Args:
        differences: one for each pair.
        level: of the interval.

    Returns:
        Its ends; None below six differences, where any is infinite and where all are equal.

    Reference: Efron, "Better bootstrap confidence intervals", Journal of the American Statistical Association 1987.
    """
    values = np.asarray(differences, dtype=float)
    if len(values) < FEWEST_TO_RESAMPLE or not np.isfinite(values).all() or all_equal(differences):
        return None
    bounds = stats.bootstrap(
        (values,), np.mean, confidence_level=level, n_resamples=RESAMPLES, method="BCa", rng=np.random.default_rng(0)
    ).confidence_interval
    return (float(bounds.low), float(bounds.high)) if np.isfinite([bounds.low, bounds.high]).all() else None


def wins(differences: Sequence[float]) -> float:
    """In how many pairs the first is better, its error lower; ties count half."""
    return sum(1.0 if value < 0 else 0.5 if value == 0 else 0.0 for value in differences)


def all_equal(differences: Sequence[float]) -> bool:
    """Whether two or more finite differences are one number, up to rounding."""
    if len(differences) < 2 or not np.isfinite(differences).all():
        return False
    return bool(np.ptp(differences) <= 1e-12 * max(map(abs, differences)))


def holm(ps: Mapping[Name, float], comparisons: int | None = None) -> dict[Name, float]:
    """Adjusted p of each member of a family, which bounds the probability of any false claim among them.

    The smallest p is multiplied by the number of comparisons m, the next by m - 1, ...; none is below one before it, or
    above 1.

    Args:
        ps: by the name of the member.
        comparisons: m, which counts members without a p as well, as if theirs were 1; None for ``len(ps)``.

    Reference: Holm, "A simple sequentially rejective multiple test procedure", Scandinavian Journal of Statistics 1979.
    """
    m = len(ps) if comparisons is None else comparisons
    adjusted, reached = {}, 0.0
    for rank, name in enumerate(sorted(ps, key=ps.__getitem__)):
        reached = max(reached, min(1.0, (m - rank) * ps[name]))
        adjusted[name] = reached
    return adjusted
