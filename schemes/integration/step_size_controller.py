"""Step size controller: accepts or rejects steps and proposes the next size."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from schemes.core.evaluation_counts import SolverCounts

FLOOR = 1e-15
"""The smallest step, relative to the time and the span: below it t + h is hardly another time."""
NEAR = 1e-12
"""Where in a step an output time that lies after an event is still taken to be at it."""
NOT_FINITE = 0.25
"""The factor after an attempt that gave no number."""


@dataclass(frozen=True)
class StepSizeSettings:
    """Settings of an adaptive grid but for its tolerances; ``integration.adaptive_grid`` says what they mean."""

    controller: Literal["I", "PI", "PID"] = "I"
    first_step: float | None = None
    min_step: float = 0.0
    max_step: float | None = None
    max_steps: int = 10_000
    seconds: float | None = None
    safety: float = 0.9
    shrink: float = 0.2
    growth: float = 10.0
    step_t: tuple[float, ...] = ()
    jump_t: tuple[float, ...] = ()
    norm: Callable | None = None


class ErrorControl(NamedTuple):
    """What decides the steps of a solve: settings, and tolerances in one of the forms of an adaptive grid."""

    settings: StepSizeSettings
    rtol: Any
    atol: Any


class StepSizeController:
    """The step sizes of one solve over ``times``, decided by the error ratios of the attempts.

    ``h`` is the proposed size of the next step; None until :meth:`begin`. ``steps`` are (t, h) of the accepted ones,
    ``outputs_done`` is the number of output times reached so far, the start included. After an accepted step
    ``output_fractions`` are the output times in it, as fractions of it, 1 its very end, and ``jumped`` says whether f
    jumps there. Steps end at the ``stops``, and at those times that the grid names. ``missed`` are the error ratios of
    steps that were too large for the tolerance, but not larger than the least that is allowed.
    """

    def __init__(
        self,
        settings: StepSizeSettings,
        order: int,
        times: Sequence[float],
        h: float | None = None,
        stops: Sequence[float] = (),
    ) -> None:
        self.settings, self.times = settings, times
        self.t, self.end = times[0], times[-1]
        self.direction = math.copysign(1.0, self.end - self.t)
        self.span = abs(self.end - self.t)
        self.scale = self.span if math.isfinite(self.span) else 1.0
        self.h = h
        self.counts = SolverCounts()
        self.steps: list[tuple[float, float]] = []
        self.missed: list[float] = []
        self.output_fractions: tuple[float, ...] = ()
        self.jumped = False
        self._factor = PIDFactor(settings.controller, order, settings.safety, settings.shrink, settings.growth)
        self._before = (1.0, 1.0)
        self.outputs_done = 1
        low, high = sorted((self.t, self.end))
        self._jumps = {t for t in settings.jump_t if low < t < high}
        ends = {t for t in (*settings.step_t, *stops) if low < t < high} | self._jumps | {self.end}
        self._stops = sorted(ends, reverse=self.direction > 0)  # the next one is the last of the list

    @property
    def arrived(self) -> bool:
        return self.t == self.end

    @property
    def attempts(self) -> int:
        return self.counts.accepted + self.counts.rejected

    def begin(self, size: float) -> None:
        """Start with a step of this size."""
        self.h = self.direction * min(max(size, self.settings.min_step), self.span)

    def proposal(self) -> float:
        """The signed size of the next step: the proposed one, cut at the next time that a step must end at."""
        assert self.h is not None
        while self.direction * (self._stops[-1] - self.t) <= 0:
            self._stops.pop()
        size, left = abs(self.h), abs(self._stops[-1] - self.t)
        if self.settings.max_step is not None:
            size = min(size, self.settings.max_step)
        self._cut = size * (1 + 1e-6) >= left  # a tiny last step is merged into this one
        return self._stops[-1] - self.t if self._cut else self.direction * size

    def judge(self, h: float, ratio: float) -> bool:
        """Accept or reject the step of size h with this error ratio; advance the time if so, choose the next size."""
        finite = math.isfinite(ratio)
        factor = self._factor.factor(ratio, self._before) if finite else NOT_FINITE
        if not (ratio <= 1 or (finite and abs(h) <= self.settings.min_step)):
            self.counts.rejected += 1
            self.h = math.copysign(max(abs(h) * factor, self.settings.min_step), h)
            return False
        if ratio <= 1:
            self._before = max(ratio, 1e-10), self._before[0]
        else:
            self.missed.append(ratio)
        # A step that was cut to end at a time says nothing against the size that it was cut from.
        least = abs(self.h or 0.0) if self._cut and ratio <= 1 else 0.0
        self.h = self.direction * max(abs(h) * factor, least, self.settings.min_step)
        self.counts.accepted += 1
        self._advance(h)
        return True

    def _advance(self, h: float) -> None:
        arrived = self._stops[-1] if self._cut else self.t + h
        self.output_fractions = self._outputs_in(self.t, h, arrived)
        self.steps.append((self.t, h))
        self.t, self.jumped = arrived, arrived in self._jumps

    def _outputs_in(self, t: float, h: float, arrived: float) -> tuple[float, ...]:
        """The output times up to the end of the step of size h from t, as fractions of it."""
        fractions = []
        while self.outputs_done < len(self.times) and self.direction * (self.times[self.outputs_done] - arrived) <= 0:
            time = self.times[self.outputs_done]
            fractions.append(1.0 if time == arrived else (time - t) / h)
            self.outputs_done += 1
        return tuple(fractions)

    @property
    def latest_ratios(self) -> tuple[float, float]:
        """The error ratios of the last two accepted steps, the latest first."""
        return self._before

    def take_over(
        self,
        t: float,
        h: float,
        ratios: tuple[float, float],
        steps: Sequence[tuple[float, float]],
        rejected: int,
        missed: Sequence[float],
    ) -> list[tuple[float, ...]]:
        """Continue from where others have come by the same rules.

        Args:
            t: the time that was reached.
            h: the size of the next step.
            ratios: see :attr:`latest_ratios`.
            steps: (t, h) of the accepted ones.
            rejected: how many attempts were.
            missed: the error ratios of accepted steps that were too large.

        Returns:
            The output times in each of the steps, as fractions of it.
        """
        ends = [*(start for start, _ in steps[1:]), t]
        fractions = [self._outputs_in(start, size, end) for (start, size), end in zip(steps, ends, strict=False)]
        self.t, self.h, self._before = t, h, ratios
        self.steps += steps
        self.missed += missed
        self.counts.accepted += len(steps)
        self.counts.rejected += rejected
        return fractions

    def end_with(self, theta: float) -> None:
        """The last accepted step is the end, at this fraction of it."""
        t, h = self.steps[-1]
        kept = tuple(before for before in self.output_fractions if before <= theta + NEAR)
        self.outputs_done -= len(self.output_fractions) - len(kept)
        self.output_fractions, self.times = (*kept, theta), (*self.times[: self.outputs_done], t + theta * h)
        self.end = self.t

    def too_small(self, tried: float) -> bool:
        """Whether, after a step of size ``tried`` was rejected, no smaller one makes sense."""
        size = abs(self.h or 0.0)
        return size < FLOOR * max(abs(self.t), self.scale) or abs(tried) <= self.settings.min_step


def first_size(state: float, slope: float, span: float) -> float:
    """By which an explicit Euler step goes a hundredth of the state's size, both measured in tolerances.

    Reference for this and :func:`refined`: Hairer, Nørsett, Wanner, "Solving Ordinary Differential Equations I",
    section II.4.
    """
    return min(span, 1e-6 if state < 1e-5 or slope < 1e-5 else 0.01 * state / slope)


def refined(h0: float, slope: float, change: float, order: int, span: float) -> float:
    """By which a method whose error falls like h^order errs by about a hundredth of the tolerance.

    ``change`` is the size of the slope's change over the step h0.
    """
    curvature = change / h0
    if not math.isfinite(curvature):
        return h0
    largest = max(slope, curvature)
    if largest == 0 and math.isfinite(span):  # nothing moves
        return 0.1 * span
    h1 = max(1e-6, h0 * 1e-3) if largest <= 1e-15 else (0.01 / largest) ** (1 / order)
    return min(100 * h0, h1, span)


COEFFICIENTS = {"I": (0.0, 1.0, 0.0), "PI": (0.4, 0.3, 0.0), "PID": (0.2, 0.4, 0.1)}
"""Proportional, integral and derivative parts of a controller; the integral one is the textbook's."""


@dataclass
class PIDFactor:
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
