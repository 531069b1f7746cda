"""The summary of each arm of a comparison, against one baseline over the seeds in common.

A difference is arm minus baseline in the measure, of classifiers the test error, so below zero is better. Arms are one
family for the rule's correction; each control is judged alone, since a claim about controls needs all of them to lose.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from lightning_modules.comparing.records import STATUSES, Arm, Comparison, Run, StepTime, finite
from lightning_modules.comparing.statistics.paired import bootstrap_interval, correlation, mean_and_sd, wins
from lightning_modules.comparing.statistics.rule import BASELINE, RULE, SignFlipRule, Verdict
from lightning_modules.metrics import ERROR, Measure

COSTS = (
    "parameters", "flow_parameters", "macs", "train_flops", "nfe_forward", "nfe_backward", "bytes_kept", "peak_bytes",
)  # fmt: skip
"""Costs in a run's ledger; the step time is measured apart, for all arms in turn."""

RATIOS = (*COSTS, "step_time")


@dataclass(frozen=True)
class Cost:
    """A measured cost over the runs of an arm; ``low`` and ``high`` differ for adaptive solvers."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Summary:
    """One arm over its seeds; errors are the values of the comparison's measure, of which less is better.

    ``difference`` is the mean over ``pairs``, the seeds that arm and baseline both finished. ``differences`` has the
    seeds as well where one of the two diverged, as +inf (the arm) or -inf (the baseline), or zero for both: these
    are tested. ``low`` and ``high`` are the interval of the test, where there is one, perhaps infinite.
    ``other_measures`` has mean and deviation of the measures that are not judged.
    """

    arm: Arm
    errors: Mapping[int, float]
    counts: Mapping[str, int]
    mean: float | None
    sd: float | None
    pairs: tuple[int, ...]
    difference: float | None
    low: float | None
    high: float | None
    verdict: str
    p: float | None
    correlation: float | None
    costs: Mapping[str, Cost]
    step_ratio: float | None
    adjusted_p: float | None = None
    bootstrap: tuple[float, float] | None = None
    wins: float | None = None
    differences: Mapping[int, float] = field(default_factory=dict)
    ratios: Mapping[str, float] = field(default_factory=dict)
    other_measures: Mapping[str, tuple[float | None, float | None]] = field(default_factory=dict)
    measure: Measure = ERROR

    @property
    def planned(self) -> int:
        return sum(self.counts.values())

    @property
    def complete(self) -> bool:
        """Whether every planned run is done; a verdict without is marked."""
        return self.counts["done"] == self.planned

    @property
    def left_out(self) -> list[str]:
        """How many runs are not done, by why: "1 diverged"."""
        return [f"{self.counts[why]} {why}" for why in STATUSES if why != "done" and self.counts[why]]

    @property
    def improvement(self) -> float | None:
        """The share of pairs in which the arm is better than the baseline, ties half."""
        return None if self.wins is None else self.wins / len(self.differences)


def summarise(comparison: Comparison, rule: SignFlipRule = RULE) -> list[Summary]:
    """One summary per arm, the baseline first, then in the order of the plan. Means are over finished runs only.

    Args:
        comparison: as read from its folders.
        rule: judges arms and controls.
    """
    outcomes = {arm.name: outcomes_of(comparison, arm.name) for arm in comparison.arms}
    base = next((arm for arm in comparison.arms if arm.name == comparison.baseline), None)
    of_base = outcomes[base.name] if base else {}
    others = [arm for arm in comparison.arms if arm is not base]
    differences = {arm.name: paired_differences(outcomes[arm.name], of_base) for arm in others}
    family = {arm.name: list(differences[arm.name].values()) for arm in others if not arm.control}
    verdicts = rule.judge(family)
    for arm in others:
        if arm.control:
            verdicts |= rule.judge({arm.name: list(differences[arm.name].values())})
    costs = {arm.name: _costs(comparison, arm) for arm in comparison.arms}
    return [
        _summary(
            comparison, rule, arm, outcomes[arm.name], of_base, differences.get(arm.name, {}),
            verdicts.get(arm.name, Verdict(BASELINE)), costs[arm.name],
            _ratios(costs[arm.name], costs[base.name], arm, base) if base else {},
        )
        for arm in sorted(comparison.arms, key=lambda arm: arm is not base)
    ]  # fmt: skip


def _summary(
    comparison: Comparison,
    rule: SignFlipRule,
    arm: Arm,
    outcomes: Mapping[int, float],
    of_base: Mapping[int, float],
    differences: Mapping[int, float],
    verdict: Verdict,
    costs: Mapping[str, Cost],
    ratios: Mapping[str, float],
) -> Summary:
    errors = {seed: error for seed, error in outcomes.items() if math.isfinite(error)}
    mean, sd = mean_and_sd(list(errors.values()))
    pairs = tuple(seed for seed in differences if seed in errors and math.isfinite(of_base[seed]))
    tested = list(differences.values())
    low, high = rule.interval(tested) or (None, None)
    counted = Counter(run.status for run in comparison.of(arm.name))
    return Summary(
        arm=arm,
        errors=errors,
        counts={status: counted[status] for status in STATUSES},
        mean=mean,
        sd=sd,
        pairs=pairs,
        difference=mean_and_sd([differences[seed] for seed in pairs])[0],
        low=low,
        high=high,
        verdict=verdict.label,
        p=verdict.p,
        correlation=correlation([errors[s] for s in pairs], [of_base[s] for s in pairs]),
        costs=costs,
        step_ratio=ratios.get("step_time"),
        adjusted_p=verdict.adjusted,
        bootstrap=bootstrap_interval(tested, rule.level),
        wins=wins(tested) if tested else None,
        differences=differences,
        ratios=ratios,
        other_measures=_other_measures(comparison.of(arm.name)),
        measure=comparison.measure,
    )


def _other_measures(runs: Sequence[Run]) -> dict[str, tuple[float | None, float | None]]:
    """Mean and deviation over the finished runs; none where one of them has no number: the others would flatter it."""
    finished = [run.other_measures for run in runs if run.status == "done"]
    names = dict.fromkeys(name for values in finished for name in values)
    return {
        name: mean_and_sd([values[name] for values in finished])
        if all(name in values for values in finished)
        else (None, None)
        for name in names
    }


def outcomes_of(comparison: Comparison, arm: str) -> dict[int, float]:
    """The measure by seed of the runs of an arm that are done; infinite for those that diverged."""
    return {
        run.seed: run.value if run.status == "done" and run.value is not None else math.inf
        for run in comparison.of(arm)
        if run.status in ("done", "diverged")
    }


def paired_differences(first: Mapping[int, float], second: Mapping[int, float]) -> dict[int, float]:
    """First minus second over the seeds in common; of two runs that diverged neither is worse."""
    common = [seed for seed in first if seed in second]
    return {seed: 0.0 if first[seed] == second[seed] else first[seed] - second[seed] for seed in common}


def improvements(comparison: Comparison, arms: Sequence[str]) -> dict[tuple[str, str], tuple[float, int]]:
    """In how many pairs the first arm is better than the second, ties half, for all pairs of arms.

    Descriptive: nothing is tested here.

    Args:
        comparison: as read from its folders.
        arms: names of arms.

    Returns:
        By (first, second): the number of pairs won, and the number of pairs.

    Reference: Bouthillier et al., "Accounting for variance in machine learning benchmarks", MLSys 2021,
        arXiv:2103.03098.
    """
    outcomes = {arm: outcomes_of(comparison, arm) for arm in arms}
    improved = {}
    for first in arms:
        for second in arms:
            differences = list(paired_differences(outcomes[first], outcomes[second]).values())
            if first != second and differences:
                improved[first, second] = (wins(differences), len(differences))
    return improved


def _costs(comparison: Comparison, arm: Arm) -> dict[str, Cost]:
    """Measured costs over the runs that have a ledger; without any, those that are known from the plan."""
    costs = {}
    for name in COSTS:
        measured = [finite(run.ledger.get(name)) for run in comparison.of(arm.name)]
        values = [value for value in measured if value is not None]
        if not values and (planned := finite(arm.sizes.get(name))) is not None:
            values = [planned]
        if values:
            costs[name] = Cost(sum(values) / len(values), min(values), max(values))
    return costs


def _ratios(costs: Mapping[str, Cost], base: Mapping[str, Cost], arm: Arm, of_base: Arm) -> dict[str, float]:
    """Every cost over the baseline's, where that is known and not zero."""
    ratios = {name: cost.mean / base[name].mean for name, cost in costs.items() if name in base and base[name].mean > 0}
    times = _step_ratio(arm.step_time, of_base.step_time)
    return ratios if times is None else ratios | {"step_time": times}


def _step_ratio(time: StepTime | None, base: StepTime | None) -> float | None:
    """Step time over the baseline's, where both were taken on the same device, threads and batch size."""
    if time is None or base is None:
        return None
    if (time.device, time.threads, time.batch_size) != (base.device, base.threads, base.batch_size):
        return None
    return time.median_s / base.median_s
