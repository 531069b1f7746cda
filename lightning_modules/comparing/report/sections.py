"""What stands in a report, in order, whatever it is written in.

A number that was not measured is "-". Runs that failed, diverged or are missing are counted and listed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lightning_modules.comparing.recipe import settings
from lightning_modules.comparing.records import Comparison, Run
from lightning_modules.comparing.report.conclusions import (
    at_batch,
    conclusions,
    notes,
    standing,
    told_data,
    unfinished,
)
from lightning_modules.comparing.report.document import Bullets, Cell, Code, Folded, Heading, Part, Picture, Table, Text
from lightning_modules.comparing.report.formatting import (
    ABSENT,
    LABELS,
    amount,
    cost,
    difference,
    error,
    evaluations,
    improvement,
    interval,
    probability,
    ratio,
    seconds,
    seeds_told,
    verdict,
)
from lightning_modules.comparing.statistics.controls import what_controls_show
from lightning_modules.comparing.statistics.rule import RULE
from lightning_modules.comparing.statistics.summary import RATIOS, Summary, improvements
from lightning_modules.metrics import Measure
from lightning_modules.text import plural

MANY = 3  # arms beside the baseline, from which on all pairs are shown

SIZES = ("steps", "h", "widths", "inner", "stem", "norm", "norm_groups")


def content(comparison: Comparison, summaries: Sequence[Summary], pictures: Sequence[Picture] = ()) -> list[Part]:
    """The report of a comparison below its title."""
    arms = [s for s in summaries if not s.arm.control]
    controls = [s for s in summaries if s.arm.control]
    parts: list[Part] = [Text(f"**{told}**")] if (told := standing(summaries)) else []
    parts += [Code(comparison.command or ABSENT), _facts(comparison), *_recipe(comparison)]
    parts += [Heading(f"Test {comparison.measure.words}"), _error_table(arms, comparison)]
    if controls:
        parts += [Text("Controls, each judged on its own and matched to no budget:")]
        parts += [_error_table(controls, comparison)]
    parts += [Text(_error_caption(comparison, arms))]
    parts += [Heading("What can and cannot be concluded", 3), Bullets(conclusions(comparison, summaries))]
    parts += _beside(arms + controls)
    parts += _all_pairs(comparison, arms)
    parts += _controls(summaries, controls)
    if comparison.tuning:
        parts += _tuning(comparison.tuning, comparison.measure)
    parts += [Heading("Costs"), _cost_table(arms + controls), Text(_cost_caption(comparison))]
    parts += [Heading(f"Costs as multiples of {comparison.baseline}'s", 3), _ratio_table(arms + controls)]
    parts += [Heading("Sizes"), _size_table(arms + controls)]
    if told := notes(comparison, summaries):
        parts += [Heading("Notes"), Bullets(told)]
    if lines := unfinished(comparison):
        parts += [Heading("Runs that are not done"), Bullets(lines)]
    parts += _runs(comparison, arms + controls)
    parts += [Heading("Plots"), *(pictures or [Text("No finished run to plot.")])]
    return [*parts, Text("Every run is a row of `results.csv`, every arm a row of `summary.csv`.")]


def _facts(comparison: Comparison) -> Table:
    budget = comparison.budget
    told = None
    if budget is not None:
        told = f"{amount(budget.kind, budget.target)}, met by {budget.by} within {100 * budget.tolerance:g}%"
    rows = {
        "data": told_data(comparison),
        "epochs": comparison.epochs,
        "seeds": ", ".join(map(str, comparison.seeds)),
        "budget": told,
        "baseline": comparison.baseline,
        "recipe hash": comparison.recipe_hash,
        "versions": _pairs(comparison.versions),
        "machine": comparison.machine,
    }
    return Table(
        ["", ""], [[_cell(key), _cell(ABSENT if value in (None, "") else value)] for key, value in rows.items()]
    )


def _pairs(mapping: Mapping[str, Any] | Any, prefix: str = "") -> str:
    """A nested mapping on one line: "optimizer.name = sgd, optimizer.lr = 0.1"."""
    if not isinstance(mapping, Mapping):
        return str(mapping)
    told = [
        _pairs(value, f"{prefix}{key}.") if isinstance(value, Mapping) and value else f"{prefix}{key} = {value}"
        for key, value in mapping.items()
    ]
    return ", ".join(told)


def _recipe(comparison: Comparison) -> list[Part]:
    found = settings(comparison.recipe)
    if not found:
        return []
    differing = [setting.key for setting in found if setting.differs]
    rows = [[Cell(s.key, strong=s.differs), _cell(s.value), _cell(s.default or ABSENT)] for s in found]
    summary = f"Recipe: {plural(len(found), 'key')}"
    if any(s.default is not None for s in found):
        summary += f", not the default: {', '.join(differing) or 'none'}"
    return [Folded(summary, [_filled(Table(["key", "value", "default"], rows))])]


def _filled(table: Table) -> Table:
    """Without the columns that hold nothing; the first one names the rows and stays."""
    stay = [i for i in range(len(table.head)) if i == 0 or any(row[i].text not in ("", ABSENT) for row in table.rows)]
    return Table([table.head[i] for i in stay], [[row[i] for i in stay] for row in table.rows])


def _runs(comparison: Comparison, summaries: Sequence[Summary]) -> list[Part]:
    """Every run in a row; the first one of an arm is where the arm's name in the main table leads to."""
    names = list(dict.fromkeys(name for run in comparison.runs for name in run.beside))
    head = ["arm", "seed", "run", f"test {comparison.measure.head}", *(name.replace("_", " ") for name in names)]
    rows = []
    for s in summaries:
        for i, run in enumerate(comparison.of(s.arm.name)):
            named = Cell(s.arm.name, name="" if i else _place_of(s, comparison))
            rows.append([named, *_run_cells(comparison, run, names)])
    table = _filled(Table([*head, "train loss", "epochs", "folder"], rows))
    return [Heading("Single runs"), Folded(f"{plural(len(rows), 'run')}", [table])]


def _place_of(s: Summary, comparison: Comparison) -> str:
    """The name of the place where an arm's runs begin."""
    return f"runs-of-arm-{1 + [arm.name for arm in comparison.arms].index(s.arm.name)}"


def _run_cells(comparison: Comparison, run: Run, names: Sequence[str]) -> list[Cell]:
    values = [run.beside.get(name) for name in names]
    folder = run.folder.relative_to(comparison.folder) if run.folder.is_relative_to(comparison.folder) else run.folder
    return [
        _cell(run.seed),
        _cell(run.status),
        Cell(ABSENT if run.value is None else comparison.measure.number(run.value), run.value),
        *(Cell(ABSENT if value is None else f"{value:.4g}", value) for value in values),
        Cell(ABSENT if run.train_loss is None else f"{run.train_loss:.4g}", run.train_loss),
        _cell(ABSENT if run.epochs is None else run.epochs),
        _cell(folder.as_posix() if folder.parts else ABSENT),
    ]


def _error_table(summaries: Sequence[Summary], comparison: Comparison) -> Table:
    measure = comparison.measure
    differs = f"difference, {measure.points}" if measure.points else "difference"
    head = ["arm", "scheme", f"test {measure.head} (n)", f"{differs} [{RULE.level:.0%}]", "bootstrap", "verdict"]
    head += ["p", f"p ({RULE.correction})", "P(better)", "correlation", "pairs", "not done"]
    return _filled(Table(head, [_error_row(s, comparison) for s in summaries]))


def _error_row(s: Summary, comparison: Comparison) -> list[Cell]:
    is_baseline = s.arm.name == comparison.baseline
    not_done = {status: s.counts[status] for status in ("diverged", "failed", "missing") if s.counts[status]}
    return [
        Cell(s.arm.name, strong=is_baseline, link=_place_of(s, comparison)),
        _cell(s.arm.scheme or ABSENT),
        Cell(error(s), s.mean),
        Cell(difference(s), s.difference),
        Cell(interval(s.measure, *s.bootstrap) if s.bootstrap else ABSENT, s.bootstrap[0] if s.bootstrap else None),
        _cell(verdict(s)),
        Cell(probability(s.p), s.p),
        Cell(ABSENT if s.arm.control else probability(s.adjusted_p), s.adjusted_p),
        Cell(improvement(s), s.improvement),
        Cell(ABSENT if s.correlation is None else f"{s.correlation:+.2f}", s.correlation),
        _cell(ABSENT if is_baseline else len(s.differences)),
        Cell(", ".join(f"{n} {status}" for status, n in not_done.items()) or ABSENT, sum(not_done.values()) or None),
    ]


def _error_caption(comparison: Comparison, arms: Sequence[Summary]) -> str:
    measure = comparison.measure
    points = "percentage points" if measure.unit == "%" else measure.points
    unit = f"in {points} " if points else ""
    resampled = (
        f"Bootstrap: a paired BCa interval at {RULE.level:.0%} from the same pairs, shown beside; with few seeds it is"
        " too narrow, and no word rests on it. "
        if any(s.bootstrap for s in arms)
        else ""
    )
    pairs = max((len(s.differences) for s in arms), default=0)
    return (
        f"Test {measure.words} of the last epoch, mean ± standard deviation over n finished seeds; nothing was selected"
        f" on the test set. Difference: to `{comparison.baseline}` {unit}over the seeds that both finished,"
        f" below zero is better, with {RULE.describe_interval()}. {resampled}"
        f"{RULE.describe(pairs, max(0, len(arms) - 1))} P(better): the share of pairs"
        " in which the arm has the lower error, ties half. Correlation: of the arm's and the"
        " baseline's errors over the pairs. A verdict with * is over an arm that has runs which are not done."
    )


def _beside(summaries: Sequence[Summary]) -> list[Part]:
    """What else was measured on the test set: shown, not judged."""
    names = list(dict.fromkeys(name for s in summaries for name in s.beside))
    if not names:
        return []

    def cell(found: tuple[float | None, float | None] | None) -> Cell:
        if found is None or found[0] is None:
            return Cell(ABSENT)
        return Cell(f"{found[0]:.4g}" + (f" ± {found[1]:.2g}" if found[1] is not None else ""), found[0])

    rows = [[Cell(s.arm.name), *(cell(s.beside.get(name)) for name in names)] for s in summaries]
    return [
        Heading("Measured beside it", 3),
        Table(["arm", *(name.replace("_", " ") for name in names)], rows),
        Text(
            "On the test set after the last epoch, mean ± standard deviation over finished seeds, - where one of these"
            " has no finite number; nothing is judged by it."
        ),
    ]


def _all_pairs(comparison: Comparison, arms: Sequence[Summary]) -> list[Part]:
    if len(arms) <= MANY:
        return []
    names = [s.arm.name for s in arms]
    found = improvements(comparison, names)

    def cell(first: str, second: str) -> Cell:
        if (first, second) not in found:
            return Cell(ABSENT)
        won, n = found[first, second]
        return Cell(f"{won / n:.2f}", won / n)

    return [
        Heading("P(A better than B)", 3),
        Table(["A \\ B", *names], [[Cell(first), *(cell(first, second) for second in names)] for first in names]),
        Text(
            "The share of the seeds in common in which A (row) has a lower test"
            f" {comparison.measure.words} than B (column), ties half and diverged runs as the worst. It describes these"
            " seeds; only the comparisons with the baseline are tested."
        ),
    ]


def _controls(summaries: Sequence[Summary], controls: Sequence[Summary]) -> list[Part]:
    told = what_controls_show(summaries)
    if not controls:
        return [Text(" ".join(told))]
    return [
        Heading("What the controls say", 3),
        Text(
            "`stem_only` is the baseline without its flows, `one_block` the baseline with one step in each flow. They"
            " have fewer steps and fewer parameters than the arms: they ask whether this task needs either."
        ),
        Bullets(told),
    ]


def _tuning(tuning: Mapping[str, Any], measure: Measure) -> list[Part]:
    """What was tried for each arm before the comparison, on data that the comparison does not test on."""
    candidates, chosen = list(tuning.get("lr") or ()), tuning.get("chosen") or {}
    rows = [
        [
            Cell(str(arm)),
            *(_tried(errors.get(str(lr)) or (), measure, strong=chosen.get(arm) == lr) for lr in candidates),
            _cell(chosen.get(arm, ABSENT)),
        ]
        for arm, errors in (tuning.get("errors") or {}).items()
    ]
    worst = f"an {measure.words} of 100%" if measure.worst == 1 else "worse than any number"
    parts: list[Part] = [
        Heading("Tuning"),
        Text(
            f"Every arm was trained with each of these learning rates, {seeds_told(tuning.get('seeds') or [])} that the"
            f" comparison does not use, without the share {tuning.get('validation', ABSENT)} of the training data that"
            f" validates. The rate with the lowest mean validation {measure.words} was taken, where a diverged run"
            f" counts as {worst}; the test set was not read."
        ),
        Table(["arm", *(f"lr {lr}: validation {measure.head} (n)" for lr in candidates), "chosen"], rows),
    ]
    return [*parts, Bullets(tuning["notes"])] if tuning.get("notes") else parts


def _tried(errors: Sequence[float | None], measure: Measure, strong: bool) -> Cell:
    """The mean on the validation split over the runs with one learning rate."""
    if not errors:
        return Cell(ABSENT)
    diverged = sum(error is None for error in errors)
    mean = sum(measure.worst if error is None else error for error in errors) / len(errors)
    return Cell(f"{measure.number(mean)} ({len(errors)}{f', {diverged} diverged' if diverged else ''})", mean, strong)


def _cost_table(summaries: Sequence[Summary]) -> Table:
    head = ["arm", "parameters", "in flows", "MACs", "training FLOPs", "NFE forward", "NFE backward", "kept", "peak"]
    return Table([*head, "step time [quartiles]"], [_cost_row(s) for s in summaries])


def _cost_row(s: Summary) -> list[Cell]:
    time = s.arm.step_time
    timed = ABSENT if time is None else seconds(time.median_s)
    if time is not None and time.quartile_1_s is not None and time.quartile_3_s is not None:
        timed += f" [{seconds(time.quartile_1_s)}, {seconds(time.quartile_3_s)}]"
    told = {
        **{name: cost(s, name) for name in ("parameters", "flow_parameters", "macs", "train_flops")},
        **{name: evaluations(s, name, spread=True) for name in ("nfe_forward", "nfe_backward")},
        **{name: cost(s, name, "B") for name in ("bytes_kept", "peak_bytes")},
    }
    cells = [Cell(text, s.costs[name].mean if name in s.costs else None) for name, text in told.items()]
    return [Cell(s.arm.name), *cells, Cell(timed, time.median_s if time else None)]


def _cost_caption(comparison: Comparison) -> str:
    taken = {
        f"{plural(time.threads, 'thread') if time.threads is not None else 'threads not stated'} on"
        f" {time.device or 'a device not stated'}, batch size"
        f" {time.batch_size if time.batch_size else 'not stated'},"
        f" {time.steps if time.steps else 'an unstated number of'} steps"
        for time in (arm.step_time for arm in comparison.arms)
        if time is not None
    }
    timed = f"Step time: median of a training step ({'; '.join(sorted(taken))})" if taken else "Step time: not measured"
    if comparison.kind == "runs":
        timed = "Step time: not compared, since it is measured for all networks of one comparison in turn"
    return (
        "MACs per sample in a forward pass, where it is the same for every batch (not on adaptive grids, nor with"
        " implicit schemes); training FLOPs: of one sample's forward and backward pass, two a multiply-add,"
        " recomputation included. NFE: calls of f in a training step,"
        " rejected steps included; on an adaptive grid for random inputs after training (each batch's are in"
        " metrics.csv). Kept: bytes alive after the forward pass for the backward's sake, peak: the most alive in"
        f" forward and backward{at_batch(comparison)}; 1 MB is 1e6 bytes. {timed}."
    )


def _ratio_table(summaries: Sequence[Summary]) -> Table:
    rows = [
        [Cell(s.arm.name), *(Cell(ratio(s.ratios.get(name)), s.ratios.get(name)) for name in RATIOS)] for s in summaries
    ]
    return Table(["arm", *(LABELS[name] for name in RATIOS)], rows)


def _size_table(summaries: Sequence[Summary]) -> Table:
    worded = any(s.arm.word for s in summaries)
    head = ["arm", *(["word"] if worded else []), "architecture", "scheme", "steps", "h", "widths", "inner widths"]
    rows = [
        [
            Cell(s.arm.name),
            *([_cell(s.arm.word or ABSENT)] if worded else []),
            _cell(s.arm.architecture or ABSENT),
            _cell(s.arm.scheme or ABSENT),
            *(_cell(_size(s.arm.sizes.get(column))) for column in SIZES),
            _cell("control" if s.arm.control else "yes" if s.arm.matched else "no"),
        ]
        for s in summaries
    ]
    return Table([*head, "stem", "norm", "norm groups", "matched"], rows)


def _size(value: Any) -> str:
    if value is None or value == []:
        return ABSENT
    return "-".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _cell(value: Any) -> Cell:
    return Cell(str(value), float(value) if isinstance(value, int | float) else None)
