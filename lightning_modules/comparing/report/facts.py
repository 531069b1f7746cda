"""The facts of a report: a comparison, its summaries and the rule that judged them. A template has the sentences."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from lightning_modules.comparing.records import Comparison, Run
from lightning_modules.comparing.report.formatting import LABELS, ratio
from lightning_modules.comparing.statistics.controls import ControlFindings, judge_controls
from lightning_modules.comparing.statistics.paired import all_equal
from lightning_modules.comparing.statistics.rule import BASELINE, RULE, SignFlipRule
from lightning_modules.comparing.statistics.summary import RATIOS, Summary, summarise
from lightning_modules.config.static_registry import describe_data, static_registry
from lightning_modules.metrics import BY_RUNNING, Measure

ALL_PAIRS_FROM = 3  # arms without the baseline, from which on all pairs are shown
PACKAGES = ("schemenet", "torch")  # that the runs of one comparison share


@dataclass(frozen=True)
class Facts:
    """The data of the tables and sentences of a report.

    Args:
        comparison: as read from its folders.
        summaries: one for each arm, the baseline first.
        rule: that judged them.
    """

    comparison: Comparison
    summaries: Sequence[Summary]
    rule: SignFlipRule = RULE

    @classmethod
    def of(cls, comparison: Comparison, rule: SignFlipRule = RULE) -> Facts:
        """The facts of a comparison, judged by a rule."""
        return cls(comparison, summarise(comparison, rule), rule)

    @property
    def measure(self) -> Measure:
        return self.comparison.measure

    @property
    def arms(self) -> list[Summary]:
        return [s for s in self.summaries if not s.arm.control]

    @property
    def controls(self) -> list[Summary]:
        return [s for s in self.summaries if s.arm.control]

    @property
    def baseline(self) -> Summary | None:
        return next((s for s in self.summaries if s.verdict == BASELINE), None)

    @property
    def family(self) -> list[Summary]:
        """The arms that are judged together: all but the baseline and the controls."""
        return [s for s in self.arms if s.verdict != BASELINE]

    @property
    def pairs(self) -> list[int]:
        """The tested pairs of each arm of the family."""
        return [len(s.differences) for s in self.family]

    @property
    def needed(self) -> int:
        return self.rule.seeds_for_claims(len(self.family))

    @property
    def shows_all_pairs(self) -> bool:
        return len(self.arms) > ALL_PAIRS_FROM

    @property
    def data(self) -> str:
        """The data set of all runs, with the one of its sets that was chosen."""
        section = self.comparison.recipe.get("data")
        if self.comparison.data not in static_registry("data") or not isinstance(section, Mapping):
            return self.comparison.data
        return describe_data({**section, "name": self.comparison.data})

    @cached_property
    def control_findings(self) -> ControlFindings:
        return judge_controls(self.summaries)

    @property
    def correlations(self) -> list[float]:
        return [s.correlation for s in self.family if s.correlation is not None]

    @property
    def batch_sizes(self) -> list[float]:
        """The batch sizes at which bytes were measured."""
        sizes = {run.ledger.get("batch_size") for run in self.comparison.runs}
        return sorted(size for size in sizes if isinstance(size, int | float))

    @property
    def step_times_taken(self) -> list[str]:
        """The conditions of the measured step times."""
        times = [arm.step_time for arm in self.comparison.arms if arm.step_time is not None]
        return sorted(
            {
                f"{'threads not stated' if t.threads is None else f'{t.threads} thread' + 's' * (t.threads != 1)} on"
                f" {t.device or 'a device not stated'}, batch size {t.batch_size or 'not stated'},"
                f" {t.steps or 'an unstated number of'} steps"
                for t in times
            }
        )

    # Runs of one arm ----------------------------------------------------------------------------------------

    def over_fewer_pairs(self, s: Summary) -> bool:
        base = self.baseline
        return bool(s.pairs) and base is not None and not set(s.pairs) == set(s.errors) == set(base.errors)

    def is_noisy(self, s: Summary) -> bool:
        return any(name.endswith(BY_RUNNING) for name in s.other_measures)

    def differences_are_equal(self, s: Summary) -> bool:
        return all_equal(list(s.differences.values()))

    def of_other_length(self, s: Summary) -> list[Run]:
        """Finished runs that were not trained for the planned number of epochs."""
        planned = self.comparison.epochs
        runs = self.comparison.of(s.arm.name) if planned is not None else ()
        return [run for run in runs if run.status == "done" and run.epochs not in (None, planned)]

    # Costs of one arm ---------------------------------------------------------------------------------------

    def timed_elsewhere(self, s: Summary) -> bool:
        return bool(s.arm.step_time and self.baseline and self.baseline.arm.step_time and s.step_ratio is None)

    def off_budget(self, s: Summary) -> float | None:
        """The deviation from the budget as a share of it, where it is beyond the tolerance."""
        budget = self.comparison.budget
        if budget is None:
            return None
        spent = s.costs[budget.kind].mean if budget.kind in s.costs else None
        if budget.kind == "step_time" and s.arm.step_time:
            spent = s.arm.step_time.median_s
        off = None if spent is None else spent / budget.target - 1
        return None if off is None or abs(off) <= budget.tolerance else off

    def unequal_costs(self, s: Summary) -> list[str]:
        """The costs other than the budget's that are not the baseline's, as multiples of it."""
        budget = self.comparison.budget
        return [
            f"{LABELS[name]} {ratio(s.ratios[name])}"
            + " (quartiles overlap)" * (name == "step_time" and self.quartiles_overlap(s))
            for name in RATIOS
            if budget and name in s.ratios and name != budget.kind and abs(s.ratios[name] - 1) > budget.tolerance
        ]

    def quartiles_overlap(self, s: Summary) -> bool:
        """Whether the middle halves of two measurements of step time have times in common."""
        times = (s.arm.step_time, self.baseline.arm.step_time if self.baseline and s is not self.baseline else None)
        ends = [end for t in times if t for end in (t.quartile_1_s, t.quartile_3_s) if end is not None]
        return len(ends) == 4 and max(ends[0], ends[2]) <= min(ends[1], ends[3])

    # All arms -----------------------------------------------------------------------------------------------

    def different(self, size: str) -> list[str]:
        """The values of a size that all arms should share, where they do not; where it is not known it is "-"."""
        values = {str(s.arm.sizes[size]) for s in self.arms if s.arm.sizes.get(size, "-") != "-"}
        return sorted(values) if len(values) > 1 else []

    @property
    def mixed_versions(self) -> dict[str, list[str]]:
        """The versions of each package that the runs do not share."""
        runs = self.comparison.runs
        versions = {p: sorted({str(run.versions[p]) for run in runs if p in run.versions}) for p in PACKAGES}
        return {package: names for package, names in versions.items() if len(names) > 1}

    @property
    def lost(self) -> list[Run]:
        return [run for run in self.comparison.runs if run.status in ("failed", "diverged")]

    @property
    def missing(self) -> dict[str, int]:
        """How many runs of which arm are missing."""
        return Counter(run.arm for run in self.comparison.runs if run.status == "missing")
