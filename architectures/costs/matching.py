"""Matching of sizes: the width, or the depth, at which an architecture meets a budget."""

from __future__ import annotations

import bisect
import contextlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from architectures.costs.budget import BASELINE, STEP_TIME, Budget, parse_budget
from architectures.costs.depth import depth_in
from architectures.costs.ledger import STATIC_COSTS, has_data_dependent_cost, step_times
from architectures.factory import create_model, image_defaults
from architectures.model import Model
from architectures.registry import ARCHITECTURES
from schemes.errors import SchemenetError

Knobs = dict[str, Any]
"""Options that a budget sets: ``depth`` (or the architecture's option for it), ``width``, ``inner``."""


def _geometric(most: float, ratio: float = 1.0005) -> list[float]:
    """Factors from 1 / most to most, 1 among them."""
    count = int(math.log(most) / math.log(ratio))
    return [round(ratio**i, 6) for i in range(-count, count + 1)]


FACTORS, INNER_FACTORS = _geometric(64.0), _geometric(3.0)
HOPELESS = 0.5  # a miss that the width inside the branch cannot correct
STEERS = 1.1  # what twice the depth must at least multiply a cost by for depth to be what the cost depends on
GUESSES, BEYOND, CLOSE = 6, 1.03, 1.1  # of the search: how many, how far past the goal, and when they do no better
TRIALS, MEASURED, WARM_UP = 6, 15, 3  # widths whose step time is measured, and the steps of each


def match_budget(
    name: str,
    *,
    target: str | float | Model,
    kind: str = "parameters",
    by: str = "width",
    tolerance: float | None = None,
    batch_size: int = 128,
    shape: tuple[int, ...] | None = None,
    **options: Any,
) -> Knobs:
    """Find the size at which a network meets a budget.

    The width multiplier is found first; where whole channels miss the target by more than ``tolerance``, the width
    inside the branch is adjusted as well. ``by="depth"`` takes the nearest depth before, unless the cost hardly depends
    on it. All costs but times are counted on the meta device.

    Args:
        name: the architecture.
        target: a number (``220_000``, ``"0.22M"``), or a network whose cost is the target.
        kind: ``parameters`` (trainable), ``macs`` (forward, one sample), ``train_flops`` (forward and backward, one
            sample), ``bytes_kept`` (one training step on ``batch_size`` samples) or ``step_time`` (of such a step; only
            with a network as target, in turn with which it is measured on that network's device).
        by: "width", or "depth" first.
        tolerance: relative; None for 0.01, or 0.1 for times.
        batch_size: for bytes and times.
        shape: of a sample; None for the images that the layout is made for.
        **options: of ``create_model``.

    Returns:
        Options for ``create_model(name, ...)``: ``width``, and ``depth`` or ``inner`` where needed.

    Raises:
        SchemenetError: with the nearest sizes, where the target cannot be met.
    """
    like = target if isinstance(target, Model) else None
    text = BASELINE if isinstance(target, Model) else target
    budget = parse_budget(kind=kind, target=text, by=by, tolerance=tolerance)
    if like is None and budget.target == BASELINE:
        raise SchemenetError(f"target: expected a number or a network, got {target!r}")
    if like is not None:
        check_known(like, kind, "the network that is the target")
    sizes = _Sizes(name, budget, batch_size, shape, options)
    if kind == STEP_TIME and like is not None:
        return _matched_in_time(sizes, like)
    return _counted(sizes, like)


def check_known(network: Model, kind: str, what: str) -> None:
    """Raise SchemenetError where a cost depends on how many steps a solve takes."""
    if kind != "parameters" and has_data_dependent_cost(network):
        raise SchemenetError(
            f"{what} is solved in as many steps as it takes, and its {kind} are known only after training; match by "
            "kind=parameters, or give it an explicit scheme on a uniform grid"
        )


class _Sizes:
    """Costs of the networks of one architecture by their knobs; those of one layout are counted once."""

    def __init__(
        self, name: str, budget: Budget, batch_size: int, shape: tuple[int, ...] | None, options: Mapping[str, Any]
    ) -> None:
        self.name, self.budget, self.batch_size, self.options = name, budget, batch_size, options
        data = {**image_defaults(name, **options), **options}
        chans, size = data["in_chans"], data["image_size"]
        self.shape = shape or ((chans,) if size is None else (chans, size, size))
        self._costs: dict[str, float] = {}
        if "width" not in ARCHITECTURES.options(name):
            raise SchemenetError(f"architecture {name!r} has no width to match a budget with")
        check_known(self.network({}), budget.kind, f"architecture {name!r}")

    def network(self, knobs: Knobs, device: str = "meta") -> Model:
        with torch.device(device):
            return create_model(self.name, **{**self.options, **knobs})

    def cost(self, network: Model) -> int:
        return STATIC_COSTS[self.budget.kind](network, self.shape, self.batch_size)

    def __call__(self, knobs: Knobs) -> float:
        network = self.network(knobs)
        depth = {key: value for key, value in knobs.items() if key not in ("width", "inner")}
        built = str((network.layout, depth))
        if built not in self._costs:
            self._costs[built] = self.cost(network)
        return self._costs[built]

    def unmet(self, goal: float, costs: Sequence[float]) -> SchemenetError:
        below = max((cost for cost in costs if cost <= goal), default=None)
        above = min((cost for cost in costs if cost >= goal), default=None)
        near = " and ".join(f"{cost:,}" for cost in (below, above) if cost is not None)
        return SchemenetError(
            f"architecture {self.name!r} cannot meet a budget of {goal:,.12g} {self.budget.kind} by {self.budget.by} "
            f"within {self.budget.tolerance:.1%}; the nearest sizes are {near}"
        )


def _counted(sizes: _Sizes, like: Model | None) -> Knobs:
    """The depth, with ``by="depth"``, and the width that meet a counted budget."""
    goal = float(sizes.budget.target) if like is None else sizes.cost(like)
    return _widened(sizes, goal, _deepened(sizes, goal) if sizes.budget.by == "depth" else {})


def _deepened(sizes: _Sizes, goal: float) -> Knobs:
    """The depth whose cost is nearest to the goal; none where the cost is not a matter of depth."""
    depth = depth_in(sizes.name, sizes.network({}), sizes.options)

    def cost(n: float) -> float:
        return sizes({depth.option: depth.value(int(n))})

    if cost(min(2 * depth.current, depth.most)) < STEERS * cost(depth.current):
        return {}
    costs = _search(cost, goal, range(1, depth.most + 1), depth.current)
    nearest = min(costs, key=lambda n: (_miss(costs[n], goal), abs(n - depth.current)))
    return {depth.option: depth.value(int(nearest))}


def _widened(sizes: _Sizes, goal: float, knobs: Knobs) -> Knobs:
    """The width, and where it is too coarse the width inside the branch, that meet the goal."""
    defaults = {**ARCHITECTURES.defaults(sizes.name), **sizes.options}
    costs: dict[tuple[float, float], float] = {}

    def cost(width: float, inner: float = 1.0) -> float:
        fine = {} if inner == 1.0 else {"inner": _rounded(inner * defaults["inner"])}
        costs[width, inner] = sizes({**knobs, "width": _rounded(width * defaults["width"]), **fine})
        return costs[width, inner]

    def best() -> tuple[float, float]:
        """The nearest size; of equally near ones the one whose inside is closest to the plain width."""
        return min(costs, key=lambda key: (_miss(costs[key], goal), abs(math.log(key[1])), abs(math.log(key[0]))))

    tolerance = sizes.budget.tolerance
    _search(cost, goal, FACTORS, near=tolerance / 10)
    if tolerance < _miss(costs[best()], goal) < HOPELESS and "inner" in defaults:
        # Every width near the target, narrower ones with a wider inside and the other way round.
        middle = best()[0]
        for step in sorted(range(-8, 9), key=abs):
            width = _rounded(middle * (1 + step / 50))
            _search(lambda inner, width=width: cost(width, inner), goal, INNER_FACTORS, near=tolerance / 10)
            if _miss(costs[best()], goal) <= tolerance:
                break
    if _miss(costs[best()], goal) > tolerance:
        raise sizes.unmet(goal, list(costs.values()))
    width, inner = best()
    matched = knobs | {"width": _rounded(width * defaults["width"])}
    return matched if inner == 1.0 else matched | {"inner": _rounded(inner * defaults["inner"])}


def _matched_in_time(sizes: _Sizes, baseline: Model) -> Knobs:
    """The width at which a training step takes as long as the baseline's; starts from that of equal operations.

    Each trial is the ratio of two medians over steps that both networks take in turn, so that other load of the machine
    falls on both.
    """
    defaults, device = ARCHITECTURES.defaults(sizes.name) | dict(sizes.options), str(baseline.like()["device"])
    knobs: Knobs = {"width": defaults["width"]}
    operations = replace(sizes.budget, kind="train_flops", tolerance=HOPELESS)
    with contextlib.suppress(SchemenetError):  # it is only a starting point
        knobs |= _counted(_Sizes(sizes.name, operations, sizes.batch_size, sizes.shape, sizes.options), baseline)
    tried: dict[float, float] = {}
    while len(tried) < TRIALS:
        networks = {BASELINE: baseline, sizes.name: sizes.network(knobs, device)}
        times = step_times(networks, sizes.shape, sizes.batch_size, steps=MEASURED, warm_up=WARM_UP)
        ratio = times[sizes.name]["median_s"] / times[BASELINE]["median_s"]
        if _miss(ratio, 1.0) <= sizes.budget.tolerance:
            return knobs
        tried[knobs["width"]] = ratio
        knobs["width"] = _rounded(_power_law(list(tried.items())[-2:], 1.0))
        if knobs["width"] in tried:
            break
    nearest = sorted(tried.items(), key=lambda trial: _miss(trial[1], 1.0))[:2]
    near = " and ".join(f"{ratio:.2f} (width={width:g})" for width, ratio in nearest)
    raise SchemenetError(
        f"architecture {sizes.name!r} did not meet the baseline's step_time within {sizes.budget.tolerance:.0%} in "
        f"{len(tried)} measured widths; the nearest took {near} times as long; a quiet machine or a wider "
        "tolerance may help"
    )


def _search(
    cost: Callable[[float], float], goal: float, positions: Sequence[float], start: float = 1.0, near: float = 0.0
) -> dict[float, float]:
    """The costs at the positions tried, until two neighbours are known between which a growing cost passes the goal.

    The first guesses follow the power law through the last two costs, three per cent beyond the goal, so that it is
    soon bracketed closely; from there on by halving. Ends early where the goal is missed by no more than ``near``.
    """
    costs: dict[float, float] = {}
    low, high, here = -1, len(positions), positions.index(start)
    while True:
        tried = costs[positions[here]] = cost(positions[here])
        low, high = (here, high) if tried < goal else (low, here)
        if high - low <= 1 or _miss(tried, goal) <= near:
            return costs
        bracketed = low >= 0 and high < len(positions)
        if len(costs) > GUESSES or (bracketed and costs[positions[high]] < CLOSE * costs[positions[low]]):
            here = (low + high) // 2
        else:
            aim = goal * (BEYOND if tried < goal else 1 / BEYOND)
            guess = bisect.bisect_left(positions, _power_law(list(costs.items())[-2:], aim))
            here = min(max(guess, low + 1), high - 1)


def _power_law(points: Sequence[tuple[float, float]], goal: float) -> float:
    """Where cost ~ position^p reaches the goal, by the last two points, or by the last alone with p = 3/2."""
    power = 1.5
    if len(points) > 1 and points[0][1] != points[1][1]:
        (x, cost), (other_x, other) = points
        power = min(max(math.log(other / cost) / math.log(other_x / x), 0.25), 4.0)
    x, cost = points[-1]
    return x * (goal / cost) ** (1 / power)


def _miss(cost: float, goal: float) -> float:
    return abs(cost / goal - 1)


def _rounded(value: float) -> float:
    """With the digits that a config stores, so that the network that was measured is the one that is built."""
    return round(value, 6)
