"""Paired statistics of a comparison, and the rules by which its words are chosen.

Every arm is compared with one baseline over the seeds that both finished. A difference is arm minus
baseline in test error, so below zero is better. Words follow rules: "better" or "worse" only where the
interval excludes zero.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from lightning_modules.comparing.runs import STATUSES, Arm, Comparison, StepTime

LEVEL = 0.95
CONTROL_FACTOR = 1.25  # a control whose error is within this factor of the baseline's says: nothing to separate here
COSTS = ("parameters", "flow_parameters", "macs", "nfe_forward", "nfe_backward", "bytes_kept", "peak_bytes")

ONE_SEED = "one seed: no interval"
NO_PAIR = "no seed in common"
NO_SPREAD = "no spread: no interval"


@dataclass(frozen=True)
class Cost:
    """A measured cost over the runs of an arm; ``low`` and ``high`` differ for adaptive solvers."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Summary:
    """One arm over its seeds; errors are fractions, ``difference`` is to the baseline over ``pairs``."""

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

    @property
    def planned(self) -> int:
        return sum(self.counts.values())


def mean_and_sd(values: Sequence[float]) -> tuple[float | None, float | None]:
    """Mean and sample standard deviation (n - 1); None where there are too few values."""
    mean = float(np.mean(values)) if len(values) else None
    return mean, float(np.std(values, ddof=1)) if len(values) > 1 else None


def paired_t_interval(
    differences: Sequence[float], level: float = LEVEL
) -> tuple[float | None, float | None, float | None]:
    """Mean of paired differences with its t interval: mean -+ t(n - 1) sd / sqrt(n).

    The interval is None with fewer than two differences, and where all are equal: a spread of zero in a
    few values is no estimate of the spread, and would call any difference certain.
    """
    mean, sd = mean_and_sd(differences)
    if mean is None or sd is None or sd <= 1e-12 * max(map(abs, differences)):
        return mean, None, None
    half = t_factor(len(differences), level) * sd / math.sqrt(len(differences))
    return mean, mean - half, mean + half


def t_factor(n: int, level: float = LEVEL) -> float:
    """How many standard errors the interval of n differences reaches to each side."""
    return float(stats.t.ppf((1 + level) / 2, n - 1))


def sign_flip_p(differences: Sequence[float]) -> float | None:
    """Exact two-sided sign-flip test: the share of the 2^n sign patterns with |sum| at least the observed.

    None without differences, and for more than 40, where exact counting takes too long.
    """
    n = len(differences)
    if not 1 <= n <= 40:
        return None
    values = np.asarray(differences, dtype=float)
    # Tolerance: sums that are equal on paper differ by rounding, and the observed pattern must count itself.
    bound = abs(values.sum()) - 1e-10 * np.abs(values).sum()
    if bound <= 0:
        return 1.0
    left, right = (_signed_sums(half) for half in (values[: n // 2], values[n // 2 :]))
    right.sort()
    above = len(right) - np.searchsorted(right, bound - left, side="left")
    below = np.searchsorted(right, -bound - left, side="right")
    return float((above.sum() + below.sum()) / 2.0**n)


def _signed_sums(values: np.ndarray) -> np.ndarray:
    sums = np.zeros(1)
    for value in values:
        sums = np.concatenate([sums + value, sums - value])
    return sums


def correlation(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Pearson's correlation; None with fewer than three pairs (two always give -1 or 1) or without spread."""
    if len(first) < 3 or np.ptp(first) == 0 or np.ptp(second) == 0:
        return None
    return float(np.corrcoef(first, second)[0, 1])


def verdict(differences: Sequence[float], level: float = LEVEL) -> str:
    """Better or worse where the interval of differences in test error excludes zero, else why not."""
    if len(differences) < 2:
        return ONE_SEED if len(differences) else NO_PAIR
    _, low, high = paired_t_interval(differences, level)
    if low is None or high is None:
        return NO_SPREAD
    return "better" if high < 0 else "worse" if low > 0 else "not separated"


def summarise(comparison: Comparison) -> list[Summary]:
    """One summary per arm in the order of the plan, the baseline first. Means are over finished runs only."""
    errors = {
        arm.name: {
            run.seed: run.test_error
            for run in comparison.of(arm.name)
            if run.status == "done" and run.test_error is not None
        }
        for arm in comparison.arms
    }
    base_errors = errors.get(comparison.baseline, {})
    base_time = next((arm.step_time for arm in comparison.arms if arm.name == comparison.baseline), None)
    summaries = []
    for arm in sorted(comparison.arms, key=lambda arm: arm.name != comparison.baseline):
        own = errors[arm.name]
        mean, sd = mean_and_sd(list(own.values()))
        is_baseline = arm.name == comparison.baseline
        pairs = () if is_baseline else tuple(seed for seed in comparison.seeds if seed in own and seed in base_errors)
        differences = [own[seed] - base_errors[seed] for seed in pairs]
        difference, low, high = paired_t_interval(differences)
        counted = Counter(run.status for run in comparison.of(arm.name))
        summaries.append(
            Summary(
                arm=arm,
                errors=own,
                counts={status: counted[status] for status in STATUSES},
                mean=mean,
                sd=sd,
                pairs=pairs,
                difference=difference,
                low=low,
                high=high,
                verdict="baseline" if is_baseline else verdict(differences),
                p=sign_flip_p(differences),
                correlation=correlation([own[s] for s in pairs], [base_errors[s] for s in pairs]),
                costs=_costs(comparison, arm),
                step_ratio=_step_ratio(arm, base_time),
            )
        )
    return summaries


def _costs(comparison: Comparison, arm: Arm) -> dict[str, Cost]:
    """Measured costs over the runs that have a ledger; without any, only the planned number of parameters."""
    costs = {}
    for name in COSTS:
        values = [run.ledger.get(name) for run in comparison.of(arm.name)]
        values = [float(v) for v in values if isinstance(v, int | float) and math.isfinite(v)]
        if not values and name == "parameters" and arm.sizes.get(name) is not None:
            values = [float(arm.sizes[name])]
        if values:
            costs[name] = Cost(sum(values) / len(values), min(values), max(values))
    return costs


def _step_ratio(arm: Arm, base: StepTime | None) -> float | None:
    """Step time over the baseline's, where both were taken on the same device, threads and batch size."""
    own = arm.step_time
    if own is None or base is None:
        return None
    if (own.device, own.threads, own.batch_size) != (base.device, base.threads, base.batch_size):
        return None
    return own.median_s / base.median_s


def what_seeds_show(n: int, comparisons: int, level: float = LEVEL) -> list[str]:
    """In plain words: what n paired seeds and this many comparisons with one baseline can and cannot show."""
    said = []
    if n < 2:
        seeds = "One seed shows" if n == 1 else "No finished pair of seeds shows"
        said.append(
            f"{seeds} no spread: there is no interval, and no difference of test errors here can be told from luck."
        )
        return said
    factor = t_factor(n, level)
    freedom = f"{n - 1} degree{'s' if n > 2 else ''} of freedom"
    said.append(
        f"n = {n} seeds: the {100 * level:g}% t interval with {freedom} is {factor:.2f} standard errors"
        f" wide on each side, so only a mean difference beyond {factor / math.sqrt(n):.2f} standard"
        ' deviations of the paired differences can be called better or worse; "not separated" does not'
        " mean equal."
    )
    least = 2.0 ** (1 - n)
    reach = f"cannot go below 2/2^{n} = {least:.2g}"
    below = f"can reach 2/2^{n} = {least:.2g}"
    said.append(
        f"The exact two-sided sign-flip test {reach}, so by it alone {n} seeds cannot reach"
        f" {1 - level:.2g}; the t interval gets further only by assuming that the differences are normally"
        " distributed."
        if least > 1 - level
        else f"The exact two-sided sign-flip test {below}: a check that does not assume normality."
    )
    if comparisons > 1:
        expected = comparisons * (1 - level)
        any_of_them = 1 - level**comparisons
        said.append(
            f"{comparisons} arms are compared with one baseline and no correction for that is made here:"
            f" about 1 in {1 / (1 - level):.0f} intervals excludes zero by luck, {expected:.2g} of these"
            f" {comparisons} on average (at least one with probability {any_of_them:.0%}, were they"
            " independent; they share the baseline)."
        )
    said.append(
        "Seeds vary initialisation and the order of the data; the data set, its test set and the recipe"
        " are the same in all runs, and the intervals do not cover them."
    )
    return said


def what_controls_show(summaries: Sequence[Summary], factor: float = CONTROL_FACTOR) -> list[str]:
    """By rule: whether the controls allow to read anything into the differences between architectures."""
    baseline = next((s for s in summaries if s.verdict == "baseline"), None)
    controls = [s for s in summaries if s.arm.control]
    if not controls:
        return ["No control was run: whether this data set at this length separates architectures is not known."]
    if baseline is None or baseline.mean is None:
        return ["The baseline has no finished run: the controls cannot be judged."]
    said, fails, judged = [], [], []
    for s in controls:
        if s.mean is None:
            said.append(f"{s.arm.name} has no finished run: this control says nothing.")
            continue
        judged.append(s)
        times = s.mean / baseline.mean if baseline.mean else math.inf if s.mean else 1.0
        ratio = f"{times:.2f} times the baseline's error"
        if s.verdict == "better" or times <= factor:
            fails.append(s.arm.name)
            near = f"within a factor {factor:g} of" if s.verdict != "better" else "better than"
            said.append(f"{s.arm.name} is {near} the baseline ({ratio}; {s.verdict}).")
        elif s.verdict in ("not separated", NO_SPREAD):
            said.append(f"{s.arm.name} is not separated from the baseline by these seeds ({ratio}).")
        else:
            kind = " is worse than the baseline" if s.verdict == "worse" else f": {s.verdict}"
            said.append(f"{s.arm.name}{kind} ({ratio}).")
    if fails:
        said.append(
            f"By rule, because of {' and '.join(fails)}: THIS DATA SET AT THIS LENGTH HARDLY SEPARATES"
            " ARCHITECTURES. A control with fewer steps and fewer parameters does about as well, so"
            " differences between the arms above are no evidence about schemes."
        )
    elif judged and all(s.verdict == "worse" for s in judged):
        said.append(
            "The controls lose clearly, so the flows and their steps matter here and differences between"
            " schemes could show; that is a condition for reading the table, not a finding about any"
            " scheme."
        )
    elif judged:
        said.append(
            "The controls are not separated by enough seeds: it is open whether this data set separates schemes."
        )
    return said
