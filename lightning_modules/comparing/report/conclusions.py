"""What a comparison shows and does not show, in sentences by rule."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from lightning_modules.comparing.records import Budget, Comparison
from lightning_modules.comparing.report.formatting import LABELS, amount, ratio, seeds_told
from lightning_modules.comparing.statistics.paired import all_equal
from lightning_modules.comparing.statistics.rule import (
    BASELINE,
    BETTER,
    NO_PAIR,
    NO_SPREAD,
    NOT_SEPARATED,
    RULE,
    TOO_FEW,
    WORSE,
)
from lightning_modules.comparing.statistics.summary import RATIOS, Summary
from lightning_modules.config.static_registry import catalogue, told_set
from lightning_modules.metrics import BY_RUNNING
from lightning_modules.text import plural

KINDS = {"comparison": "Comparison", "sweep": "Sweep", "runs": "Comparison of existing runs,"}
MIXED = ("schemenet", "torch")


def headline(comparison: Comparison) -> str:
    arms = sum(not arm.control for arm in comparison.arms)
    controls = len(comparison.arms) - arms
    kind = KINDS.get(comparison.kind, KINDS["comparison"])
    parts = [kind + (" of" if not kind.endswith(",") else "")]
    parts += [plural(arms, "arm") + (f" and {plural(controls, 'control')}" if controls else "")]
    parts += [f"on {told_data(comparison) or 'unnamed data'}"]
    told = "an unknown number of epochs" if comparison.epochs is None else plural(comparison.epochs, "epoch")
    told += f", {plural(len(comparison.seeds), 'seed')}"
    if comparison.budget is not None:
        told += f", {amount(comparison.budget.kind, comparison.budget.target)}"
    return f"{' '.join(parts)}: {told}"


def told_data(comparison: Comparison) -> str:
    """The data set of all runs, as :func:`told_set` has it."""
    section = comparison.recipe.get("data")
    if comparison.data not in catalogue("data").names or not isinstance(section, Mapping):
        return comparison.data
    return told_set({**section, "name": comparison.data})


def standing(summaries: Sequence[Summary]) -> str | None:
    """In one sentence, that this is no more than a development result; None where there are enough pairs to claim."""
    family = _family(summaries)
    pairs = {len(s.differences) for s in family}
    fewest = min(pairs, default=0)
    needed = RULE.seeds_for_claims(len(family))
    if not family or fewest >= needed:
        return None
    return (
        f"DEVELOPMENT RESULT, no claim: {'as few as ' * (len(pairs) > 1)}{plural(fewest, 'paired seed')}; a claim about"
        f" {plural(len(family), 'arm')} beside the baseline needs {needed} seeds."
    )


def conclusions(comparison: Comparison, summaries: Sequence[Summary]) -> list[str]:
    """The standing, the verdicts in a sentence each, then what this many seeds can and cannot show."""
    base, family = comparison.baseline, _family(summaries)
    if all(s.verdict != BASELINE for s in summaries):
        return [f"The baseline {base!r} is no arm of this comparison: there are no differences to judge."]
    if not family:
        return ["There is no arm beside the baseline: nothing is compared."]
    words = {BETTER: f"better than {base}", WORSE: f"worse than {base}"}
    words |= {NOT_SEPARATED: f"not separated from {base}", TOO_FEW: "too few seeds to judge"}
    words |= {NO_SPREAD: "no spread between the seeds, nothing to judge by", NO_PAIR: NO_PAIR}
    said = [told] if (told := standing(summaries)) else []
    for word, phrase in words.items():
        names = [s.arm.name + "*" * (not s.complete) for s in family if s.verdict == word]
        if names:
            said.append(f"{phrase}: {', '.join(names)}")
    said += RULE.describe_reach([len(s.differences) for s in family])
    said += _what_pairing_gave(family)
    if any(s.counts["diverged"] for s in summaries):
        said.append(
            "A diverged run counts as a failure: in the test and in P(better) as worse than any finite error, so an arm"
            " that diverges more often than the baseline cannot be called better. Means are over finished runs and"
            " flatter an arm that diverged."
        )
    said.append(
        "Seeds vary initialisation and the order of the data, and nothing else: the intervals do not cover another data"
        " set, another test set or another recipe."
    )
    return said


def _what_pairing_gave(family: Sequence[Summary]) -> list[str]:
    found = [s.correlation for s in family if s.correlation is not None]
    if not found:
        return []
    told = f"{found[0]:+.2f}" if len(found) == 1 else f"{min(found):+.2f} to {max(found):+.2f}"
    return [
        f"Measured correlation with the baseline over paired seeds: {told}; where it is not clearly above zero, pairing"
        " has not made the comparison sharper."
    ]


def notes(comparison: Comparison, summaries: Sequence[Summary]) -> list[str]:
    """What a reader must know before comparing two rows: fewer seeds, left-out runs, unequal costs and conditions."""
    base = next((s for s in summaries if s.verdict == BASELINE), None)
    said = list(comparison.remarks)
    for s in summaries:
        said += _on_runs(comparison, s, base) + _on_costs(comparison.budget, s, base)
    return said + _on_all(comparison, summaries)


def _on_runs(comparison: Comparison, s: Summary, base: Summary | None) -> list[str]:
    said = []
    left_out = [f"{s.counts[status]} {status}" for status in ("diverged", "failed", "missing") if s.counts[status]]
    if left_out:
        over = f"its mean is over {seeds_told(sorted(s.errors)) if s.errors else 'no seed'}"
        said.append(f"* {s.arm.name}: {', '.join(left_out)} of {s.planned}; {over}.")
    if s.pairs and base and not set(s.pairs) == set(s.errors) == set(base.errors):
        said.append(f"{s.arm.name}: its difference is over {seeds_told(s.pairs)}, all that both have finished.")
    if any(name.endswith(BY_RUNNING) for name in s.beside):
        said.append(
            f"{s.arm.name}: its steps are drawn at random in training; its batch norms' statistics were re-estimated"
            " after it on training batches without noise, and what was measured with the training's own statistics is"
            f' under "Measured beside it" ("{BY_RUNNING.replace("_", " ")}").'
        )
    if all_equal(list(s.differences.values())):
        said.append(f"{s.arm.name}: all paired differences are equal; check that the seeds change anything.")
    short = [r for r in comparison.of(s.arm.name) if r.status == "done" and r.epochs not in (None, comparison.epochs)]
    if short and comparison.epochs is not None:
        told = ", ".join(f"seed {r.seed}: {r.epochs}" for r in short)
        said.append(f"{s.arm.name}: not trained for the planned {plural(comparison.epochs, 'epoch')} ({told}).")
    return said


def _on_costs(budget: Budget | None, s: Summary, base: Summary | None) -> list[str]:
    said = []
    if s.arm.step_time and base and base.arm.step_time and s.step_ratio is None:
        said.append(f"{s.arm.name}: timed on another device, thread count or batch size; no ratio of step times.")
    if budget is None or s.arm.control:
        return said
    if not s.arm.matched:
        return [*said, f"{s.arm.name}: is not matched to the budget."]
    label = LABELS.get(budget.kind, budget.kind)
    spent = s.costs[budget.kind].mean if budget.kind in s.costs else None
    if budget.kind == "step_time" and s.arm.step_time:
        spent = s.arm.step_time.median_s
    if spent is not None and abs(spent / budget.target - 1) > budget.tolerance:
        said.append(
            f"{s.arm.name}: counts as matched, but its {label} are {spent / budget.target - 1:+.1%} off the budget."
        )
    others = [
        f"{LABELS[name]} {ratio(s.ratios[name])}" + " (quartiles overlap)" * (name == "step_time" and _overlap(s, base))
        for name in RATIOS
        if name in s.ratios and name != budget.kind and abs(s.ratios[name] - 1) > budget.tolerance
    ]
    if others:
        said.append(f"{s.arm.name}: matched in {label}; {', '.join(others)} of the baseline's.")
    return said


def _overlap(s: Summary, base: Summary | None) -> bool:
    """Whether the middle halves of two measurements of step time have times in common."""
    own, other = s.arm.step_time, base.arm.step_time if base else None
    ends = [t for time in (own, other) if time for t in (time.quartile_1_s, time.quartile_3_s) if t is not None]
    return len(ends) == 4 and max(ends[0], ends[2]) <= min(ends[1], ends[3])


def _on_all(comparison: Comparison, summaries: Sequence[Summary]) -> list[str]:
    said = []
    matched = [s.arm for s in summaries if not s.arm.control]
    for size in ("stem", "norm"):
        values = {str(arm.sizes[size]) for arm in matched if size in arm.sizes}
        if len(values) > 1:
            said.append(f"The arms do not share one {size}: {', '.join(sorted(values))}.")
    if len(batch_sizes(comparison)) > 1:
        told = ", ".join(map(str, batch_sizes(comparison)))
        said.append(f"Bytes were measured at different batch sizes ({told}) and cannot be compared as they stand.")
    for package in MIXED:
        versions = sorted({str(run.versions[package]) for run in comparison.runs if package in run.versions})
        if len(versions) > 1:
            said.append(f"MIXED VERSIONS: runs were trained with {package} {' and '.join(versions)}.")
    return said


def unfinished(comparison: Comparison) -> list[str]:
    said = [
        f"{run.arm} seed {run.seed} {run.status}: {run.reason}"
        for run in comparison.runs
        if run.status in ("failed", "diverged")
    ]
    missing = [run for run in comparison.runs if run.status == "missing"]
    if missing:
        by_arm = Counter(run.arm for run in missing)
        told = ", ".join(f"{arm} {n}" for arm, n in by_arm.items())
        said.append(f"{len(missing)} of {len(comparison.runs)} runs missing (not started or not finished): {told}")
    return said


def batch_sizes(comparison: Comparison) -> list[float]:
    return sorted({size for run in comparison.runs if isinstance(size := run.ledger.get("batch_size"), int | float)})


def at_batch(comparison: Comparison) -> str:
    sizes = batch_sizes(comparison)
    return f" at batch size {sizes[0]}" if len(sizes) == 1 else ""


def _family(summaries: Sequence[Summary]) -> list[Summary]:
    """The arms that the verdicts' correction is over: all but the baseline and the controls."""
    return [s for s in summaries if s.verdict != BASELINE and not s.arm.control]
