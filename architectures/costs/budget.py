"""Budgets: the kinds of cost, and how much of one is asked for. Nothing here imports torch."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from schemes.errors import SchemenetError, nearest, unknown


class Kind(NamedTuple):
    """What is counted, in words, and how near a budget of it is met where nothing is said."""

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
"""The kind that is measured; the others are counted, without computing anything."""

FINEST = 0.05
"""Step times do not repeat better than this share, and no finer tolerance is promised."""

BASELINE = "baseline"
"""The target of a budget that is whatever the baseline costs as its architecture says."""

WAYS = ("width", "depth")
PREFIXES = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12}


@dataclass(frozen=True)
class Budget:
    """So much of one kind of cost, within a share of it, met by the width of a network, or first by its depth."""

    kind: str
    target: float | Literal["baseline"]
    by: str
    tolerance: float

    @property
    def goal(self) -> str:
        """The target as text."""
        return self.target if isinstance(self.target, str) else f"{self.target:.7g}"

    def __str__(self) -> str:
        asked = self.goal if isinstance(self.target, str) or self.target < 1 else f"{round(self.target):,}"
        return f"{asked} {KINDS[self.kind].counts}, by {self.by}, within {100 * self.tolerance:.3g}%"


def budget(
    *, kind: str = "parameters", target: str | float | None = None, by: str = "width", tolerance: float | None = None
) -> Budget:
    """A budget from what a user says. Raises SchemenetError with every mistake, a line ``key: ...`` each."""
    wrong, found = [], 0.0
    if kind not in KINDS:
        wrong.append(f"kind: {unknown('kind of budget', kind, KINDS)}")
    if target != BASELINE:
        try:
            found = amount(target)
        except SchemenetError as error:
            wrong.append(f"target: {error}")
        else:
            if kind == STEP_TIME:
                wrong.append(
                    f"target: a number of seconds holds on one machine in one state; {STEP_TIME} is matched to that of "
                    f"another network, measured in turn with it: expected {BASELINE}, got {target!r}"
                )
    if by not in WAYS:
        wrong.append(f"by: {unknown('way to meet a budget', by, WAYS)}")
    if tolerance is not None and not 0 < tolerance < 1:
        wrong.append(f"tolerance: expected a share between 0 and 1, got {tolerance:g}")
    elif tolerance is not None and kind == STEP_TIME and tolerance < FINEST:
        wrong.append(f"tolerance: step times do not repeat that well; expected at least {FINEST:g}, got {tolerance:g}")
    if wrong:
        raise SchemenetError("\n".join(wrong))
    return Budget(kind, BASELINE if target == BASELINE else found, by, tolerance or KINDS[kind].tolerance)


def amount(text: Any) -> float:
    """``0.22M``, ``40k``, ``1.2G``, ``3GB``, 220000: a positive number; the prefixes are powers of ten."""
    found = re.fullmatch(r"\s*([0-9]*\.?[0-9]+(?:e[+-]?[0-9]+)?)\s*([kmgt]?)b?\s*", str(text).lower())
    value = float(found[1]) * PREFIXES[found[2]] if found else 0.0
    if not 0 < value < math.inf:
        hint = nearest(str(text), [BASELINE])
        raise SchemenetError(
            f"expected {BASELINE} or a number such as 0.22M, 40k, 1.2G or 220000, got {text!r}"
            f"{'; ' + hint if hint else ''}"
        )
    return value
