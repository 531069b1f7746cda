"""Fair sizes: the width at which an architecture meets a budget."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from architectures.factory import create_model, made_for
from architectures.ledger import macs, parameters
from architectures.network import Network
from architectures.registry import ARCHITECTURES
from schemes.errors import SchemenetError

WIDEST, WIDEST_INSIDE = 64.0, 3.0
HOPELESS = 0.5  # a miss that the width inside the branch cannot mend


def match_budget(
    name: str,
    *,
    parameters: int | None = None,
    macs: int | None = None,
    tolerance: float = 0.01,
    **options: Any,
) -> dict[str, Any]:
    """Options (``width``, and ``inner`` where needed) with which ``create_model(name, ...)`` meets a budget.

    One of ``parameters`` (trainable) or ``macs`` (forward, one sample) is the target. The width multiplier is found
    first; where whole channels miss the target by more than ``tolerance``, the width inside the branch is the fine
    knob. Everything is built on the meta device. Raises SchemenetError with the nearest sizes where the target cannot
    be met.
    """
    if (parameters is None) == (macs is None):
        raise SchemenetError("match_budget takes one of parameters and macs")
    target = parameters if parameters is not None else macs
    if target is None or target <= 0 or not 0 < tolerance < 1:
        raise SchemenetError(f"a budget is positive and its tolerance in (0, 1), got {target} and {tolerance}")
    measure = _measure(name, "parameters" if parameters is not None else "macs", options)
    if "width" not in ARCHITECTURES.options(name):
        raise SchemenetError(f"architecture {name!r} has no width to match a budget with")

    seen: dict[tuple[float, float], int] = {}

    def size(width: float, inner: float = 1.0) -> int:
        key = (width, inner)
        if key not in seen:
            seen[key] = measure({"width": width} if inner == 1.0 else {"width": width, "inner": inner})
        return seen[key]

    low, high = _bracket(size, target, WIDEST)
    best = _best(seen, target)
    if tolerance < _miss(seen[best], target) < HOPELESS and "inner" in ARCHITECTURES.options(name):
        # Every width near the target, narrower ones with a wider inside and the other way round.
        for step in sorted(range(-8, 9), key=abs):
            width = (low + high) / 2 * (1 + step / 50)
            _bracket(lambda inner, width=width: size(width, inner), target, WIDEST_INSIDE)
            best = _best(seen, target)
            if _miss(seen[best], target) <= tolerance:
                break
    if _miss(seen[best], target) > tolerance:
        below = max((s for s in seen.values() if s <= target), default=None)
        above = min((s for s in seen.values() if s >= target), default=None)
        raise SchemenetError(
            f"architecture {name!r} cannot meet a budget of {target:,} within {tolerance:.1%}; "
            f"the nearest sizes are {' and '.join(f'{s:,}' for s in (below, above) if s is not None)}"
        )
    width, inner = best
    return {"width": round(width, 6)} if inner == 1.0 else {"width": round(width, 6), "inner": round(inner, 6)}


def _measure(name: str, kind: str, options: dict[str, Any]) -> Callable[[dict[str, float]], int]:
    data = {**made_for(name, **options), **options}
    chans, size = data["in_chans"], data["image_size"]
    shape = (chans,) if size is None else (chans, size, size)

    def measure(knobs: dict[str, float]) -> int:
        # Rounded here as they are returned, so that what was measured is what will be built.
        rounded = {key: round(value, 6) for key, value in knobs.items()}
        with torch.device("meta"):
            network: Network = create_model(name, **{**options, **rounded})
        return parameters(network) if kind == "parameters" else macs(network, shape)

    return measure


def _bracket(size: Callable[[float], int], target: int, widest: float) -> tuple[float, float]:
    """Bisection of a growing staircase between 1 / widest and widest: the last two factors around the target."""
    low, high = 1 / widest, widest
    while high / low >= 1.0005:
        middle = (low * high) ** 0.5
        if size(middle) < target:
            low = middle
        else:
            high = middle
    return low, high


def _miss(size: int, target: int) -> float:
    return abs(size / target - 1)


def _best(seen: dict[tuple[float, float], int], target: int) -> tuple[float, float]:
    """The nearest size; of equally near ones the one whose inside is closest to the plain width."""
    return min(seen, key=lambda key: (_miss(seen[key], target), abs(key[1] - 1)))
