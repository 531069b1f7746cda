"""From the estimated error of a step to the size of the next one.

Everything is host arithmetic on numbers, or on arrays with one entry a sample: the same formulas, so that a sample
takes the same steps alone and in a batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

COEFFICIENTS = {"I": (0.0, 1.0, 0.0), "PI": (0.4, 0.3, 0.0), "PID": (0.2, 0.4, 0.1)}
"""Proportional, integral and derivative parts of a controller; the integral one is the textbook's."""


@dataclass
class Controller:
    r"""The factor by which a step size changes after an attempt with error ratio r_n (1: just tolerated).

        safety * r_n^-(p + i + d)/k * r_{n-1}^(p + 2 d)/k * r_{n-2}^-d/k

    within [shrink, growth], for the controller I at least 1 after a step that was accepted,

    with k the order of the error estimate's decay and (p, i, d) by name. An error of zero grows by ``growth``; after a
    rejection only the present ratio counts. Reference: Söderlind, "Digital Filters in Adaptive Time-Stepping", ACM
    Trans. Math. Softw. 29, 2003; Hairer, Wanner, "Solving Ordinary Differential Equations II", section IV.2.
    """

    name: str
    order: int
    safety: float = 0.9
    shrink: float = 0.2
    growth: float = 10.0

    def start(self, like: Any) -> tuple[Any, Any]:
        """The ratios before the first step: as if they had been just right."""
        return np.ones_like(like), np.ones_like(like)

    def factor(self, ratio: Any, before: tuple[Any, Any]) -> Any:
        """The factor for the next step size; ``before`` are the last two accepted ratios, the latest first."""
        p, i, d = COEFFICIENTS[self.name]
        accepted = ratio <= 1
        floored = np.maximum(ratio, 1e-10)
        filtered = (
            floored ** -((p + i + d) / self.order)
            * before[0] ** ((p + 2 * d) / self.order)
            * before[1] ** (-d / self.order)
        )
        plain = floored ** (-1 / self.order)
        factor = self.safety * np.where(accepted, filtered, plain)
        low = np.where(accepted, 1.0, self.shrink)
        # A filtered controller may slow down after a step that was accepted; the plain one has no reason to.
        low = np.where(accepted & (self.name != "I"), self.shrink, low)
        return np.where(ratio == 0, self.growth, np.clip(factor, low, self.growth))
