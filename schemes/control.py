"""From the estimated error of a step to the size of the next one, in arithmetic of the host."""

from __future__ import annotations

from dataclasses import dataclass

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

    def factor(self, ratio: float, before: tuple[float, float] = (1.0, 1.0)) -> float:
        """The factor for the next step size; ``before`` are the last two accepted ratios, the latest first."""
        if ratio == 0:
            return self.growth
        p, i, d = COEFFICIENTS[self.name]
        if ratio > 1:
            return min(max(self.safety * ratio ** (-1 / self.order), self.shrink), self.growth)
        factor = self.safety * ratio ** (-(p + i + d) / self.order)
        if self.name == "I":  # has no reason to slow down after a step that was accepted
            return min(max(factor, 1.0), self.growth)
        factor *= before[0] ** ((p + 2 * d) / self.order) * before[1] ** (-d / self.order)
        return min(max(factor, self.shrink), self.growth)
