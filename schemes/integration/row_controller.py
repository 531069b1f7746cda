"""Step size control by tensors: the rule, and the step sizes of all rows of a batch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from schemes.core.evaluation_counts import SolverCounts
from schemes.integration.step_size_controller import (
    COEFFICIENTS,
    FLOOR,
    NOT_FINITE,
    StepSizeController,
    StepSizeSettings,
)


def next_factors(
    ratio: Tensor,
    good: Tensor,
    latest: Tensor,
    earlier: Tensor,
    constants: tuple[str, float, float, float],
    order: int,
) -> Tensor:
    """The factors by which step sizes change, as ``PIDFactor.factor``.

    Args:
        ratio: the error ratios of the attempts.
        good: where they are at most 1.
        latest: the error ratio of the last step that met the tolerance.
        earlier: that of the one before it.
        constants: controller, safety, shrink and growth.
        order: h^order is how the error estimate of one step falls.
    """
    controller, safety, shrink, growth = constants
    p, i, d = COEFFICIENTS[controller]
    factor = (ratio ** (-1 / order) * safety).clamp(shrink, growth)
    if controller == "I":
        factor = torch.maximum(factor, good)  # at least 1 where the step is good
    else:
        power = safety * ratio ** (-(p + i + d) / order)
        power = power * latest ** ((p + 2 * d) / order) * earlier ** (-d / order)
        factor = torch.where(good, power.clamp(shrink, growth), factor)
    return factor


class Passed(NamedTuple):
    """Output times that lie in accepted steps, one entry for each.

    Attributes:
        rows: the row among the present ones.
        samples: the same row in the whole batch.
        time_index: of the output time.
        theta: the output time as a fraction of the row's step, 1 its very end.
    """

    rows: Tensor
    samples: Tensor
    time_index: Tensor
    theta: Tensor


class Round(NamedTuple):
    """One attempt of all present rows: start and size, which took part and which were accepted, evaluations of f."""

    t: Tensor
    h: Tensor
    active: Tensor
    taken: Tensor
    evaluations: int


class RowController:
    """As :class:`StepSizeController`, for all rows of a batch by tensors of shape (rows,) in double precision.

    Rows that go back in time are kept in mirrored time -t, which rounding does not change: within this class every row
    goes forwards. ``samples`` are the present rows in the whole batch, ``arrived`` the number of those that have
    arrived; such a row takes steps of size zero. ``rounds`` are the attempts so far: a row
    that has not arrived has made all of them. ``active`` are the rows that took part in the last attempt,
    ``jumped`` says whether f jumps where a step of the last attempt has ended.

    Args:
        settings: of the grid.
        order: h^order is how the error estimate of one step falls.
        times: start and output times of each row, (rows, times), in double precision.
        stops_at_outputs: whether steps end at output times.
    """

    def __init__(self, settings: StepSizeSettings, order: int, times: Tensor, stops_at_outputs: bool = False) -> None:
        self.settings, self.order, self.times = settings, order, times
        back = times[:, -1] < times[:, 0]
        self.direction = torch.where(back, -1.0, 1.0).double()
        self.mirrors, self._directions = bool(back.any()), self.direction
        mirrored = times * self.direction.unsqueeze(1)
        self.t, self.end = mirrored[:, 0].clone(), mirrored[:, -1].clone()
        self.span = self.end - self.t
        self.scale = self.span
        self.h = self.span
        self.latest = self.earlier = torch.ones_like(self.t)
        self.samples = torch.arange(len(times), device=times.device)
        self.arrived = int((self.span == 0).sum())
        self.batch, self.rounds = len(times), 0
        self.missed: list[float] = []
        self.jumped = False
        self._every = torch.ones_like(self.samples, dtype=torch.bool)
        self._start_evaluations = torch.zeros_like(self.samples)
        self._segments: list[tuple[Tensor, list[Round]]] = [(self.samples, [])]
        self._outputs = mirrored[:, 1:-1].contiguous() if times.shape[1] > 2 else None
        self._outputs_done = torch.zeros_like(self.samples)
        self._next_output = self.t if self._outputs is None else self._outputs[:, 0]
        self._jumps = self._inside(settings.jump_t, math.nan)
        stops = [self._inside((*settings.step_t, *settings.jump_t), math.inf)]
        if stops_at_outputs and self._outputs is not None:
            stops.append(self._outputs)
        self._stops = torch.cat([part for part in stops if part is not None] or [mirrored[:, :0]], 1)
        if self._stops.shape[1]:
            self._stops = torch.cat((torch.minimum(self._stops, self.end.unsqueeze(1)), self.end.unsqueeze(1)), 1)
            self._stops = self._stops.sort(1).values
        self._stop = self.end
        self._lowest = float(FLOOR * torch.maximum(torch.maximum(self.t.abs(), self.end.abs()), self.scale).max())

    def _inside(self, times: Sequence[float], otherwise: float) -> Tensor | None:
        """The given times strictly between start and end of each row, in its mirrored time."""
        if not times:
            return None
        mirrored = self.direction.unsqueeze(1) * self.direction.new_tensor(list(times))
        inside = (self.t.unsqueeze(1) < mirrored) & (mirrored < self.end.unsqueeze(1))
        return torch.where(inside, mirrored, otherwise)

    def signed(self, mirrored: Tensor) -> Tensor:
        """Times or sizes in the direction of each row."""
        return mirrored * self.direction if self.mirrors else mirrored

    @property
    def left(self) -> int:
        """Present rows that have not arrived."""
        return len(self.samples) - self.arrived

    def begin(self, sizes: Tensor, evaluations: int) -> None:
        """Start with steps of these sizes, after so many evaluations of f for each row that moves."""
        self.h = torch.minimum(sizes.clamp_min(self.settings.min_step), self.span)
        self._start_evaluations = (self.span > 0) * evaluations

    def proposal(self) -> Tensor:
        """The sizes of the next steps in mirrored time: the proposed ones, cut at the next time to end at."""
        size = self.h
        if self.settings.max_step is not None:
            size = size.clamp_max(self.settings.max_step)
        if self._stops.shape[1]:
            place = torch.searchsorted(self._stops, self.t.unsqueeze(1), right=True)
            self._stop = self._stops.gather(1, place.clamp_max(self._stops.shape[1] - 1)).squeeze(1)
        left = self._stop - self.t
        self._cut = size * (1 + 1e-6) >= left  # a tiny last step is merged into this one
        self.active = left > 0 if self.arrived else self._every
        return torch.where(self._cut, left, size)

    def judge(self, h: Tensor, ratio: Tensor, evaluations: int) -> tuple[Tensor, int]:
        """Accept or reject the steps of sizes h, of so many evaluations of f, with these error ratios.

        Advances the times of the accepted rows and chooses the next sizes.

        Returns:
            The mask of the accepted rows, and their number.
        """
        settings = self.settings
        good = ratio <= 1
        constants = settings.controller, settings.safety, settings.shrink, settings.growth
        size = h * next_factors(ratio, good, self.latest, self.earlier, constants, self.order)
        cut = self._cut & good
        size = torch.maximum(size, self.h * cut)  # a cut step says nothing against the size that it was cut from
        taken = good & self.active if self.arrived else good
        if settings.min_step:
            least = self.active & ~good & (h <= settings.min_step) & (ratio < math.inf)
            taken = taken | least
            size = size.clamp_min(settings.min_step)
            self.missed += ratio[least].tolist()
        if settings.controller != "I":
            met = good & self.active
            self.earlier = torch.where(met, self.latest, self.earlier)
            self.latest = torch.where(met, ratio.clamp_min(1e-10), self.latest)
        self._segments[-1][1].append(Round(self.t, h, self.active, taken, evaluations))
        self.rounds += 1
        self._before, self._size = self.t, h
        self.t = torch.where(taken, torch.where(self._cut, self._stop, self.t + h), self.t)
        finite = ratio < math.inf
        accepted, numbers, self.arrived = torch.stack((taken, finite, self.t == self.end)).sum(1).tolist()
        if numbers < len(size):
            size = torch.where(finite, size, (h * NOT_FINITE).clamp_min(settings.min_step))
        self.h = size
        self.jumped = self._jumps is not None and bool((self._jumps == self.t.unsqueeze(1))[taken].any())
        return taken, accepted

    def too_small(self, h: Tensor, taken: Tensor) -> int | None:
        """The first row of which, after a step of size h was rejected, no smaller one makes sense."""
        if not self.settings.min_step and float(self.h.min()) >= self._lowest:
            return None
        small = self.h < FLOOR * torch.maximum(self.t.abs(), self.scale)
        rows = (self.active & ~taken & (small | (h <= self.settings.min_step))).nonzero().flatten().tolist()
        return rows[0] if rows else None

    def passed(self, taken: Tensor) -> Passed | None:
        """The output times but the last one in the accepted steps of the last attempt."""
        if self._outputs is None:
            return None
        due = taken & (self._next_output <= self.t)
        rows = due.nonzero().squeeze(1)
        if not len(rows):
            return None
        outputs = self._outputs[rows]
        before = self._outputs_done[rows]
        after = torch.searchsorted(outputs, self.t[rows].unsqueeze(1), right=True).squeeze(1)
        counts = after - before
        place = torch.arange(len(rows), device=rows.device).repeat_interleave(counts)
        index = torch.arange(len(place), device=rows.device) + (before - counts.cumsum(0) + counts)[place]
        time, rows_of_times = outputs[place, index], rows[place]
        theta = (time - self._before[rows_of_times]) / self._size[rows_of_times]
        theta = torch.where(time == self.t[rows_of_times], 1.0, theta)
        self._outputs_done = self._outputs_done.index_copy(0, rows, after)
        last = outputs.shape[1] - 1
        following = outputs.gather(1, after.clamp_max(last).unsqueeze(1)).squeeze(1)
        following = torch.where(after > last, math.inf, following)
        self._next_output = self._next_output.index_copy(0, rows, following)
        return Passed(rows_of_times, self.samples[rows_of_times], index + 1, theta)

    def keep(self, rows: Tensor) -> None:
        """Go on with these of the present rows, of which none has arrived."""
        for name in (
            "direction", "t", "end", "span", "scale", "h", "latest", "earlier", "samples", "times", "_stops",
            "_outputs_done", "_next_output", "_outputs", "_jumps", "_every",
        ):  # fmt: skip
            if (value := getattr(self, name)) is not None:
                setattr(self, name, value[rows])
        self._stop, self.arrived = self.end, 0
        self._segments.append((self.samples, []))

    # For people ------------------------------------------------------------------------------------------------

    def of_row(self, row: int) -> StepSizeController:
        """The controller of one of the present rows, as far as it has come."""
        sample = int(self.samples[row])
        controller = StepSizeController(self.settings, self.order, self.times[row].tolist())
        _, _, counts = self.by_sample()
        t, h = (float(part[row]) * controller.direction for part in (self.t, self.h))
        controller.take_over(t, h, (1.0, 1.0), [], counts[sample].rejected, [])
        controller.counts = counts[sample]
        return controller

    def by_sample(self) -> tuple[list[list[float]], list[list[float]], list[SolverCounts]]:
        """Times and signed sizes of the accepted steps of each sample, and its counts."""
        times, sizes = ([[] for _ in range(self.batch)] for _ in range(2))
        attempts, accepted = torch.zeros(2, self.batch, dtype=torch.long)
        evaluations = self._start_evaluations.cpu()
        for samples, rounds in self._segments:
            if not rounds:
                continue
            t, h, active, taken = (torch.stack(parts, 1).cpu() for parts in list(zip(*rounds, strict=True))[:4])
            samples = samples.cpu()
            if self.mirrors:
                direction = self._directions.cpu()[samples].unsqueeze(1)
                t, h = t * direction, h * direction
            ends = taken.sum(1).cumsum(0).tolist()
            starts = [0, *ends[:-1]]
            flat_t, flat_h = t[taken].tolist(), h[taken].tolist()
            for sample, start, end in zip(samples.tolist(), starts, ends, strict=True):
                times[sample] += flat_t[start:end]
                sizes[sample] += flat_h[start:end]
            attempts[samples] += active.sum(1)
            accepted[samples] += taken.sum(1)
            evaluations[samples] += active.long() @ torch.tensor([each.evaluations for each in rounds])
        rejected = attempts - accepted
        counts = [
            SolverCounts(e, 0, a, r)
            for e, a, r in zip(evaluations.tolist(), accepted.tolist(), rejected.tolist(), strict=True)
        ]
        return times, sizes, counts


def first_sizes(state: Tensor, slope: Tensor, span: Tensor) -> Tensor:
    """:func:`schemes.integration.step_size_controller.first_size` of each row; zero where the span is."""
    small = (state < 1e-5) | (slope < 1e-5)
    return torch.minimum(torch.where(small, 1e-6, 0.01 * state / slope), span)


def refined_sizes(h0: Tensor, slope: Tensor, change: Tensor, order: int, span: Tensor) -> Tensor:
    """:func:`schemes.integration.step_size_controller.refined` of each row; zero where h0 is."""
    curvature = change / h0
    largest = torch.maximum(slope, curvature)
    h1 = torch.where(largest <= 1e-15, (h0 * 1e-3).clamp_min(1e-6), (0.01 / largest) ** (1 / order))
    size = torch.minimum(torch.minimum(100 * h0, h1), span)
    size = torch.where(largest == 0, 0.1 * span, size)
    return torch.where(torch.isfinite(curvature), size, h0)
