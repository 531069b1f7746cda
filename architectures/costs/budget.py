"""Budgets of a comparison: kind of cost, target and tolerance. Nothing here imports torch."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from schemes.errors import Problems, SchemenetError, nearest, unknown


class Kind(NamedTuple):
    """A kind of cost: what it counts, in words, and the default tolerance of a budget of it."""

    counts: str
    tolerance: float


KINDS = {
    "parameters": Kind("trainable parameters", 0.01),
    "macs": Kind("multiply-adds of a sample's forward pass", 0.01),
    "train_flops": Kind("operations of a sample's forward and backward in training", 0.01),
    "bytes_kept": Kind("bytes that a training step keeps for backward", 0.01),
    "step_time": Kind("seconds of a training step", 0.1),
}

STEP_TIME = "step_time"
"""The kind that is measured; the others are counted without computing anything."""

FINEST = 0.05
"""Least relative tolerance of step times, which do not repeat better."""

BASELINE = "baseline"
"""The target of a budget that equals the cost of the baseline."""

WAYS = ("width", "depth")
PREFIXES = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12}


@dataclass(frozen=True)
class Budget:
    """A target for one kind of cost.

    Attributes:
        kind: a key of ``KINDS``.
        target: in the unit of the kind, or "baseline".
        by: "width", or "depth" first and then width.
        tolerance: relative.
    """

    kind: str
    target: float | Literal["baseline"]
    by: str
    tolerance: float

    @property
    def goal(self) -> str:
        """The target as text."""
        return self.target if isinstance(self.target, str) else f"{self.target:.7g}"

    def __str__(self) -> str:
        target = self.goal if isinstance(self.target, str) or self.target < 1 else f"{round(self.target):,}"
        return f"{target} {KINDS[self.kind].counts}, by {self.by}, within {100 * self.tolerance:.3g}%"


def parse_budget(
    *, kind: str = "parameters", target: str | float | None = None, by: str = "width", tolerance: float | None = None
) -> Budget:
    """A budget from the user's keys; ``tolerance`` None for that of the kind.

    Raises:
        SchemenetError: with all mistakes, a line ``key: ...`` each.
    """
    problems, number = Problems(), 0.0
    if kind not in KINDS:
        problems.add(f"kind: {unknown('kind of budget', kind, KINDS)}")
    if target != BASELINE:
        try:
            number = parse_amount(target)
        except SchemenetError as error:
            problems.add(f"target: {error}")
        else:
            if kind == STEP_TIME:
                problems.add(
                    f"target: a number of seconds holds on one machine in one state; {STEP_TIME} is matched to that of "
                    f"another network, measured in turn with it: expected {BASELINE}, got {target!r}"
                )
    if by not in WAYS:
        problems.add(f"by: {unknown('way to meet a budget', by, WAYS)}")
    if tolerance is not None and not 0 < tolerance < 1:
        problems.add(f"tolerance: expected a share between 0 and 1, got {tolerance:g}")
    elif tolerance is not None and kind == STEP_TIME and tolerance < FINEST:
        problems.add(f"tolerance: step times do not repeat that well; expected at least {FINEST:g}, got {tolerance:g}")
    problems.raise_if_any()
    return Budget(kind, BASELINE if target == BASELINE else number, by, tolerance or KINDS[kind].tolerance)


def parse_amount(text: Any) -> float:
    """``0.22M``, ``40k``, ``1.2G``, ``3GB``, 220000: a positive number; the prefixes are powers of ten."""
    match = re.fullmatch(r"\s*([0-9]*\.?[0-9]+(?:e[+-]?[0-9]+)?)\s*([kmgt]?)b?\s*", str(text).lower())
    value = float(match[1]) * PREFIXES[match[2]] if match else 0.0
    if not 0 < value < math.inf:
        hint = nearest(str(text), [BASELINE])
        raise SchemenetError(
            f"expected {BASELINE} or a number such as 0.22M, 40k, 1.2G or 220000, got {text!r}"
            f"{'; ' + hint if hint else ''}"
        )
    return value
