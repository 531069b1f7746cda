"""What a comparison shows and does not show, in sentences by rule."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from lightning_modules.comparing.numbers import human, plural, seeds_told
from lightning_modules.comparing.runs import Comparison
from lightning_modules.comparing.statistics import NO_PAIR, NO_SPREAD, ONE_SEED, Summary, t_factor, what_seeds_show

TOLERANCE = 0.01  # of the budget; the same as match_budget's default


def headline(comparison: Comparison) -> str:
    arms = sum(not arm.control for arm in comparison.arms)
    controls = len(comparison.arms) - arms
    parts = [plural(arms, "arm") + (f" and {plural(controls, 'control')}" if controls else "")]
    parts += [f"on {comparison.data or 'unnamed data'}"]
    told = "an unknown number of epochs" if comparison.epochs is None else plural(comparison.epochs, "epoch")
    told += f", {plural(len(comparison.seeds), 'seed')}"
    if comparison.budget is not None:
        told += f", {human(comparison.budget)} parameters"
    return f"Comparison of {' '.join(parts)}: {told}"


def conclusions(comparison: Comparison, summaries: Sequence[Summary]) -> list[str]:
    """The verdicts in a sentence, then what this many seeds can show."""
    base = comparison.baseline
    others = [s for s in summaries if s.verdict != "baseline"]
    if len(others) == len(summaries):
        return [f"The baseline {base!r} is no arm of this comparison: there are no differences to judge."]
    words = {"better": f"better than {base}", "worse": f"worse than {base}"}
    words |= {"not separated": f"not separated from {base}"}
    words |= {word: word.replace(":", ",") for word in (ONE_SEED, NO_SPREAD, NO_PAIR)}
    said = []
    for word, phrase in words.items():
        names = [
            s.arm.name + "*" * bool(s.counts["diverged"]) for s in others if s.verdict == word and not s.arm.control
        ]
        if names:
            said.append(f"{phrase}: {', '.join(names)}")
    pairs = Counter(len(s.pairs) for s in others if s.pairs)
    usual = max(pairs, key=lambda n: (pairs[n], n)) if pairs else 0
    said += what_seeds_show(usual, sum(n for pair, n in pairs.items() if pair > 1))
    return said


def notes(comparison: Comparison, summaries: Sequence[Summary]) -> list[str]:
    """What a reader must know before comparing two rows: fewer seeds, left-out runs, unequal conditions."""
    said = []
    base = next((s for s in summaries if s.verdict == "baseline"), None)
    for s in summaries:
        left_out = [f"{s.counts[status]} {status}" for status in ("diverged", "failed", "missing") if s.counts[status]]
        if left_out:
            star = "* " if s.counts["diverged"] else ""
            over = f"its mean is over {seeds_told(sorted(s.errors)) if s.errors else 'no seed'}"
            flattered = "; leaving out diverged runs flatters the arm" if s.counts["diverged"] else ""
            said.append(f"{star}{s.arm.name}: {', '.join(left_out)} of {s.planned}; {over}{flattered}.")
        if s.pairs and base and not set(s.pairs) == set(s.errors) == set(base.errors):
            wide = ""
            if len(s.pairs) > 1:
                wide = f": {t_factor(len(s.pairs)):.2f} standard errors on each side"
            said.append(f"{s.arm.name}: paired over {seeds_told(s.pairs)}, all that both have finished{wide}.")
        if s.verdict == NO_SPREAD:
            said.append(f"{s.arm.name}: all paired differences are equal; check that the seeds change anything.")
        short = [
            r for r in comparison.of(s.arm.name) if r.status == "done" and r.epochs not in (None, comparison.epochs)
        ]
        if short and comparison.epochs is not None:
            told = ", ".join(f"seed {r.seed}: {r.epochs}" for r in short)
            said.append(f"{s.arm.name}: not trained for the planned {plural(comparison.epochs, 'epoch')} ({told}).")
        parameters = s.costs.get("parameters")
        if comparison.budget and s.arm.matched and parameters is not None:
            off = parameters.mean / comparison.budget - 1
            if abs(off) > TOLERANCE:
                said.append(f"{s.arm.name}: counts as matched, but its parameters are {off:+.1%} off the budget.")
        if comparison.budget and not s.arm.matched and not s.arm.control:
            said.append(f"{s.arm.name}: is not matched to the budget.")
        if s.arm.step_time and base and base.arm.step_time and s.step_ratio is None:
            said.append(f"{s.arm.name}: timed on another device, thread count or batch size; no ratio of step times.")
    matched = [s.arm for s in summaries if not s.arm.control]
    for size in ("stem", "norm"):
        values = {str(arm.sizes[size]) for arm in matched if size in arm.sizes}
        if len(values) > 1:
            said.append(f"The arms do not share one {size}: {', '.join(sorted(values))}.")
    if len(batch_sizes(comparison)) > 1:
        told = ", ".join(map(str, batch_sizes(comparison)))
        said.append(f"Bytes were measured at different batch sizes ({told}) and cannot be compared as they stand.")
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


def batch_sizes(comparison: Comparison) -> list[int]:
    return sorted({run.ledger["batch_size"] for run in comparison.runs if run.ledger.get("batch_size") is not None})


def at_batch(comparison: Comparison) -> str:
    sizes = batch_sizes(comparison)
    return f" at batch size {sizes[0]}" if len(sizes) == 1 else ""
