"""The tables of a report, as Markdown."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning_modules.comparing.recipe import Setting
from lightning_modules.comparing.records import Run
from lightning_modules.comparing.report import markdown
from lightning_modules.comparing.report.facts import Facts
from lightning_modules.comparing.report.formatting import (
    ABSENT,
    LABELS,
    cost,
    difference,
    error,
    evaluations,
    improvement,
    interval,
    mean_and_sd,
    probability,
    ratio,
    seconds,
    verdict,
)
from lightning_modules.comparing.statistics.summary import RATIOS, Summary, improvements
from lightning_modules.metrics import Measure

SIZES = ("steps", "h", "widths", "inner", "stem", "norm", "norm_groups")

Columns = Mapping[str, Callable[[Any], Any]]
"""Heads, and what a cell under each shows of its row."""


def _table(columns: Columns, rows: Sequence[Any]) -> str:
    """A table; what is not known is "-". Columns without any content are left out, but for the first one."""
    cells = [[_text(cell(row)) for row in rows] for cell in columns.values()]
    shown = [i for i, column in enumerate(cells) if i == 0 or set(column) - {ABSENT}]
    heads = list(columns)
    return markdown.table([heads[i] for i in shown], list(zip(*(cells[i] for i in shown), strict=True)))


def _text(value: Any) -> str:
    if value is None or value == "":
        return ABSENT
    return value if isinstance(value, str) else str(value)


def facts(f: Facts, budget: str) -> str:
    """The conditions that all runs share, ``budget`` among them in words."""
    comparison = f.comparison
    rows = {
        "data": f.data,
        "epochs": comparison.epochs,
        "seeds": ", ".join(map(str, comparison.seeds)),
        "budget": budget or "none",
        "baseline": comparison.baseline,
        "recipe hash": comparison.recipe_hash,
        "versions": _pairs(comparison.versions),
        "machine": comparison.machine,
    }
    return markdown.table(
        ["", ""], [[key, str(value)] for key, value in rows.items() if value not in (None, "", ABSENT)]
    )


def _pairs(mapping: Mapping[str, Any] | Any, prefix: str = "") -> str:
    """A nested mapping on one line: "optimizer.name = sgd, optimizer.lr = 0.1"."""
    if not isinstance(mapping, Mapping):
        return str(mapping)
    return ", ".join(
        _pairs(value, f"{prefix}{key}.") if isinstance(value, Mapping) and value else f"{prefix}{key} = {value}"
        for key, value in mapping.items()
    )


def recipe(settings: Sequence[Setting]) -> str:
    columns: Columns = {
        "key": lambda s: f"**{s.key}**" if s.differs else s.key,
        "value": lambda s: s.value,
        "default": lambda s: s.default,
    }
    return _table(columns, settings)


def errors(f: Facts, summaries: Sequence[Summary]) -> str:
    """Errors, differences to the baseline and verdicts of some arms."""
    measure, level = f.measure, f"[{f.rule.level:.0%}]"

    def name(s: Summary) -> str:
        return f"**{s.arm.name}**" if s.arm.name == f.comparison.baseline else s.arm.name

    columns: Columns = {
        "arm": name,
        "scheme": lambda s: s.arm.scheme,
        f"test {measure.head} (n)": error,
        f"difference{f', {measure.points}' if measure.points else ''} {level}": difference,
        "bootstrap": lambda s: interval(s.measure, *s.bootstrap) if s.bootstrap else None,
        "verdict": verdict,
        "p": lambda s: probability(s.p),
        f"p ({f.rule.correction})": lambda s: None if s.arm.control else probability(s.adjusted_p),
        "P(better)": improvement,
        "correlation": lambda s: None if s.correlation is None else f"{s.correlation:+.2f}",
        "pairs": lambda s: None if s.arm.name == f.comparison.baseline else len(s.differences),
        "not done": lambda s: ", ".join(s.left_out),
    }
    return _table(columns, summaries)


def other_measures(f: Facts) -> str:
    """The measurements that are not judged; "" where there are none."""
    names = dict.fromkeys(name for s in f.summaries for name in s.other_measures)

    def column(name: str) -> Callable[[Summary], str]:
        return lambda s: mean_and_sd(*s.other_measures.get(name, (None, None)))

    columns: Columns = {"arm": lambda s: s.arm.name, **{name.replace("_", " "): column(name) for name in names}}
    return _table(columns, [*f.arms, *f.controls]) if names else ""


def all_pairs(f: Facts) -> str:
    """How often each arm is better than each other one."""
    names = [s.arm.name for s in f.arms]
    counts = improvements(f.comparison, names)

    def share(first: str, second: str) -> str:
        won, n = counts.get((first, second), (0, 0))
        return f"{won / n:.2f}" if n else ABSENT

    return markdown.table(["A \\ B", *names], [[a, *(share(a, b) for b in names)] for a in names])


def tuning(tuning: Mapping[str, Any], measure: Measure) -> str:
    """The validation errors of each arm with each learning rate; the chosen one is strong.

    Args:
        tuning: the section of comparison.json.
        measure: of the errors.
    """
    candidates, chosen = list(tuning.get("lr") or ()), tuning.get("chosen") or {}

    def cell(arm: str, results: Mapping[str, Sequence[float | None]], lr: float) -> str:
        values = results.get(str(lr)) or ()
        if not values:
            return ABSENT
        diverged = sum(value is None for value in values)
        mean = sum(measure.worst if value is None else value for value in values) / len(values)
        text = f"{measure.number(mean)} ({len(values)}{f', {diverged} diverged' if diverged else ''})"
        return f"**{text}**" if chosen.get(arm) == lr else text

    return markdown.table(
        ["arm", *(f"lr {lr}: validation {measure.head} (n)" for lr in candidates), "chosen"],
        [
            [str(arm), *(cell(arm, results, lr) for lr in candidates), str(chosen.get(arm, ABSENT))]
            for arm, results in (tuning.get("errors") or {}).items()
        ],
    )


def costs(f: Facts) -> str:
    columns: Columns = {
        "arm": lambda s: s.arm.name,
        "parameters": lambda s: cost(s, "parameters"),
        "in flows": lambda s: cost(s, "flow_parameters"),
        "MACs": lambda s: cost(s, "macs"),
        "training FLOPs": lambda s: cost(s, "train_flops"),
        "NFE forward": lambda s: evaluations(s, "nfe_forward", spread=True),
        "NFE backward": lambda s: evaluations(s, "nfe_backward", spread=True),
        "kept": lambda s: cost(s, "bytes_kept", "B"),
        "peak": lambda s: cost(s, "peak_bytes", "B"),
        "step time [quartiles]": _step_time,
    }
    return _table(columns, [*f.arms, *f.controls])


def _step_time(s: Summary) -> str | None:
    time = s.arm.step_time
    if time is None:
        return None
    if time.quartile_1_s is None or time.quartile_3_s is None:
        return seconds(time.median_s)
    return f"{seconds(time.median_s)} [{seconds(time.quartile_1_s)}, {seconds(time.quartile_3_s)}]"


def ratios(f: Facts) -> str:
    """Costs as multiples of the baseline's."""

    def column(name: str) -> Callable[[Summary], str]:
        return lambda s: ratio(s.ratios.get(name))

    columns: dict[str, Callable[[Summary], str | None]] = {
        "arm": lambda s: s.arm.name,
        **{LABELS[name]: column(name) for name in RATIOS},
    }
    columns[LABELS["step_time"]] = lambda s: (
        f"{ratio(s.ratios.get('step_time'))}{' (quartiles overlap)' * f.quartiles_overlap(s)}"
    )
    return _table(columns, [*f.arms, *f.controls])


def sizes(f: Facts) -> str:
    def column(name: str) -> Callable[[Summary], str]:
        return lambda s: _size(s.arm.sizes.get(name))

    def matched(s: Summary) -> str:
        return "control" if s.arm.control else "yes" if s.arm.matched else "no"

    worded = any(s.arm.word for s in f.summaries)
    columns: Columns = {
        "arm": lambda s: s.arm.name,
        **({"word": lambda s: s.arm.word} if worded else {}),
        "architecture": lambda s: s.arm.architecture,
        "scheme": lambda s: s.arm.scheme,
        **{{"inner": "inner widths"}.get(name, name.replace("_", " ")): column(name) for name in SIZES},
        "matched": matched,
    }
    return _table(columns, [*f.arms, *f.controls])


def _size(value: Any) -> str:
    if value is None or value == []:
        return ABSENT
    return "-".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def runs(f: Facts) -> str:
    """Every run, those of an arm together."""
    comparison = f.comparison
    names = dict.fromkeys(name for run in comparison.runs for name in run.other_measures)

    def column(name: str) -> Callable[[Run], str | None]:
        return lambda run: _number(run.other_measures.get(name))

    def folder(run: Run) -> str | None:
        if run.folder == Path():
            return None
        path = Path(os.path.relpath(run.folder, comparison.folder)).as_posix()
        return markdown.Link.to(f"{path}/", path) if run.folder.is_dir() else path

    columns: Columns = {
        "arm": lambda run: run.arm,
        "seed": lambda run: run.seed,
        "run": lambda run: run.status,
        f"test {f.measure.head}": lambda run: None if run.value is None else f.measure.number(run.value),
        **{name.replace("_", " "): column(name) for name in names},
        "train loss": lambda run: _number(run.train_loss),
        "epochs": lambda run: run.epochs,
        "folder": folder,
    }
    rows = [run for s in [*f.arms, *f.controls] for run in comparison.of(s.arm.name)]
    return _table(columns, rows)


def _number(value: float | None) -> str | None:
    return None if value is None else f"{value:.4g}"
