"""The sign-flip test of paired differences, and the interval that belongs to it.

Under the hypothesis that the pairs differ by nothing but luck, each difference is as likely as its negative. The 2^n
patterns of signs are then equally likely, and the test counts those whose sum is as far from zero as the observed one:
exact, and without an assumption on the shape of the differences. No p can be below 2 / 2^n, so few seeds show nothing.

The interval holds the shifts that the same test does not reject. Its ends are found without a search among the means
of the subsets of the differences: these 2^n - 1 "typical values" cut the line into 2^n parts, each of which holds the
centre of symmetry with the same probability.

Reference: Hartigan, "Using subsample values as typical values", Journal of the American Statistical Association 1969.

A difference of +inf or -inf stands for a run that diverged: further out than any finite difference, of unknown size.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

ALL_SUBSETS = 20  # differences at most, for all subsets to be taken
ROUNDING = 1e-10  # of the sum of magnitudes: sums that are equal on paper differ by less
DRAWN = 2**16  # subsets of more differences, drawn once with a fixed seed, each together with its complement


def sign_flip_p(differences: Sequence[float]) -> float | None:
    """Two-sided p: the share of sign patterns with |sum| at least the observed. None without differences.

    With more than 20 differences the patterns are drawn, the observed one always among them.
    """
    if not len(differences):
        return None
    values = np.asarray(ranked(differences))
    total = abs(values.sum())
    sums, _ = _subsets(values)
    # Flipping the signs of a subset takes twice its sum away.
    return float(np.mean(np.abs(values.sum() - 2 * sums) >= total - 2 * ROUNDING * np.abs(values).sum()))


def sign_flip_interval(differences: Sequence[float], level: float = 0.95) -> tuple[float, float] | None:
    """The k-th smallest and k-th largest of the subsets' means, k = floor((1 - level) / 2 * 2^n).

    It excludes zero exactly where the test's p is at most 1 - level. None where k is zero: below six differences at
    95%, where no shift can be rejected; and where some differences are +inf and some -inf.
    """
    values = np.asarray(differences, dtype=float)
    if not len(values) or (np.isposinf(values).any() and np.isneginf(values).any()):
        return None
    sums, sizes = _subsets(values)
    k = math.floor((1 - level) / 2 * len(sums) + 1e-9)
    if k < 1:
        return None
    sums[np.abs(sums) <= ROUNDING * np.abs(values[np.isfinite(values)]).sum()] = 0.0
    means = np.sort(sums[sizes > 0] / sizes[sizes > 0])
    return float(means[k - 1]), float(means[-k])


def ranked(differences: Sequence[float]) -> list[float]:
    """The differences with infinite ones replaced by a number that outweighs all finite ones together."""
    beyond = 2 * sum(abs(value) for value in differences if math.isfinite(value)) or 1.0
    return [value if math.isfinite(value) else math.copysign(beyond, value) for value in differences]


def least_p(n: int) -> float:
    """The smallest p that n differences can give: all of one sign."""
    return 2.0 ** (1 - n) if n <= ALL_SUBSETS else 2 / DRAWN


def _subsets(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sums and sizes of the subsets of some values, the empty one first."""
    if len(values) <= ALL_SUBSETS:
        sums, sizes = np.zeros(1), np.zeros(1, dtype=int)
        for value in values:
            sums, sizes = np.concatenate([sums, sums + value]), np.concatenate([sizes, sizes + 1])
        return sums, sizes
    half = np.random.default_rng(0).random((DRAWN // 2, len(values))) < 0.5
    half[0] = False
    chosen = np.concatenate([half, ~half])
    return np.where(chosen, values, 0.0).sum(axis=1), chosen.sum(axis=1)
