"""The report of a comparison: Markdown, csv and plots in its folder.

A number that was not measured is "-". Runs that failed, diverged or are missing are counted and listed.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning_modules.comparing.numbers import (
    ABSENT,
    cost,
    difference,
    error,
    evaluations,
    human,
    plural,
    ratio,
    seconds,
    verdict,
)
from lightning_modules.comparing.runs import Comparison, read_comparison
from lightning_modules.comparing.sentences import at_batch, conclusions, headline, notes, unfinished
from lightning_modules.comparing.statistics import COSTS, LEVEL, Summary, summarise, what_controls_show


def write(folder: str | Path) -> Path:
    """Write results.csv, summary.csv, plots and report.md into a comparison's folder; report.md's path."""
    from lightning_modules.comparing import (
        plots,  # matplotlib takes a second to import, and the screen needs none of it
    )

    comparison = read_comparison(folder)
    summaries = summarise(comparison)
    _write_csv(comparison.folder / "results.csv", _result_rows(comparison))
    _write_csv(comparison.folder / "summary.csv", [_summary_row(comparison, s) for s in summaries])
    pictures = plots.write(comparison, summaries)
    path = comparison.folder / "report.md"
    path.write_text(markdown(comparison, summaries, pictures), encoding="utf-8")
    return path


def markdown(comparison: Comparison, summaries: Sequence[Summary], pictures: Iterable[Path] = ()) -> str:
    """The whole report as Markdown; pictures are embedded by file name."""
    arms = [s for s in summaries if not s.arm.control]
    controls = [s for s in summaries if s.arm.control]
    parts = [f"# {headline(comparison)}", f"```\n{comparison.command or ABSENT}\n```", _facts(comparison)]
    parts += ["## Test error", _error_table(arms, comparison)]
    if controls:
        parts += ["Controls (not matched to the budget):", _error_table(controls, comparison)]
    parts += [
        "Test error of the last epoch, mean ± standard deviation over n finished seeds; nothing was"
        f" selected on the test set. Difference: to `{comparison.baseline}` in percentage points over the"
        f" seeds that both finished, with the paired {LEVEL:.0%} t interval; below zero is better. p:"
        " exact two-sided sign-flip test. Correlation: of the arm's and the baseline's errors over the"
        " paired seeds; with few seeds it is itself uncertain, and pairing helps only where it is high.",
        "### What can and cannot be concluded",
        _bullets(conclusions(comparison, summaries)),
        "### What the controls say",
        "`stem_only` is the baseline without its flows, `one_block` the baseline with one step in each"
        " flow. They have fewer steps and fewer parameters than the arms: they ask whether this task needs either.",
        _bullets(what_controls_show(summaries)),
        "## Costs",
        _cost_table(arms + controls),
        _cost_caption(comparison),
        "## Sizes",
        _size_table(arms + controls),
    ]
    told = notes(comparison, summaries)
    if told:
        parts += ["## Notes", _bullets(told)]
    parts += [
        "## Runs that are not done",
        _bullets(unfinished(comparison)) or "None: every planned run finished.",
    ]
    pictures = list(pictures)
    if pictures:
        parts += ["## Plots", *(f"![{path.stem.replace('_', ' ')}]({path.name})" for path in pictures)]
    else:
        parts += ["## Plots", "No finished run to plot."]
    parts += ["Every run is a row of `results.csv`, every arm a row of `summary.csv`."]
    return "\n\n".join(parts) + "\n"


def _facts(comparison: Comparison) -> str:
    rows = [
        ("data", comparison.data),
        ("epochs", comparison.epochs),
        ("seeds", ", ".join(map(str, comparison.seeds))),
        (
            "budget",
            None if comparison.budget is None else f"{human(comparison.budget)} parameters ({comparison.budget})",
        ),
        ("baseline", comparison.baseline),
        ("recipe", _pairs(comparison.recipe)),
        ("versions", _pairs(comparison.versions)),
        ("machine", comparison.machine),
    ]
    return _table(["", ""], [[name, ABSENT if value in (None, "") else value] for name, value in rows])


def _pairs(mapping: Mapping[str, Any] | Any, prefix: str = "") -> str:
    """A nested mapping on one line: "optimizer.name = sgd, optimizer.lr = 0.1"."""
    if not isinstance(mapping, Mapping):
        return str(mapping)
    told = [
        _pairs(value, f"{prefix}{key}.") if isinstance(value, Mapping) and value else f"{prefix}{key} = {value}"
        for key, value in mapping.items()
    ]
    return ", ".join(told)


def _error_table(summaries: Sequence[Summary], comparison: Comparison) -> str:
    head = ["arm", "scheme", "test error % (n)", f"difference, points [{LEVEL:.0%}]", "verdict", "pairs", "p"]
    head += ["correlation"]
    rows = [
        [
            f"**{s.arm.name}**" if s.arm.name == comparison.baseline else s.arm.name,
            s.arm.scheme or ABSENT,
            error(s),
            difference(s),
            verdict(s),
            len(s.pairs) if s.verdict != "baseline" else ABSENT,
            ABSENT if s.p is None else f"{s.p:.2g}",
            ABSENT if s.correlation is None else f"{s.correlation:+.2f}",
        ]
        for s in summaries
    ]
    return _table(head, rows)


def _cost_table(summaries: Sequence[Summary]) -> str:
    head = ["arm", "parameters", "in flows", "MACs", "NFE forward", "NFE backward", "kept", "peak"]
    head += ["step time [quartiles]", "step ratio"]
    rows = []
    for s in summaries:
        time = s.arm.step_time
        told = ABSENT if time is None else seconds(time.median_s)
        if time is not None and time.quartile_1_s is not None and time.quartile_3_s is not None:
            told += f" [{seconds(time.quartile_1_s)}, {seconds(time.quartile_3_s)}]"
        rows.append(
            [
                s.arm.name,
                cost(s, "parameters"),
                cost(s, "flow_parameters"),
                cost(s, "macs"),
                evaluations(s, "nfe_forward", spread=True),
                evaluations(s, "nfe_backward", spread=True),
                cost(s, "bytes_kept", "B"),
                cost(s, "peak_bytes", "B"),
                told,
                ratio(s.step_ratio),
            ]
        )
    return _table(head, rows)


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
    return (
        "MACs per sample in a forward pass, with one step alone on an adaptive grid. NFE: calls of f in a training"
        " step, rejected steps included; on an adaptive grid for random inputs after training (each batch's are in"
        " metrics.csv). Kept: bytes alive after the forward pass for the backward's sake, peak: the most alive in"
        f" forward and backward{at_batch(comparison)}; 1 MB is 1e6 bytes. {timed}; ratio to `{comparison.baseline}`."
    )


def _size_table(summaries: Sequence[Summary]) -> str:
    columns = ["steps", "h", "widths", "inner", "stem", "norm"]
    head = [
        "arm",
        "word",
        "architecture",
        "scheme",
        "steps",
        "h",
        "widths",
        "inner widths",
        "stem",
        "norm",
        "matched",
    ]
    rows = [
        [
            s.arm.name,
            s.arm.word or ABSENT,
            s.arm.architecture or ABSENT,
            s.arm.scheme or ABSENT,
            *(_size(s.arm.sizes.get(column)) for column in columns),
            "control" if s.arm.control else "yes" if s.arm.matched else "no",
        ]
        for s in summaries
    ]
    return _table(head, rows)


def _size(value: Any) -> str:
    if value is None or value == []:
        return ABSENT
    return "-".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines)


def _cell(value: Any) -> str:
    return str(value).replace("|", "\\|").replace("\n", " ")


def _bullets(said: Iterable[str]) -> str:
    # An asterisk that marks a verdict must not open emphasis.
    return "\n".join("- " + text.replace("*", "\\*").replace("<", "&lt;") for text in said)


def _result_rows(comparison: Comparison) -> list[dict[str, Any]]:
    """One row per planned run, finished or not; ledger entries beyond the usual ones follow at the end."""
    usual = [*COSTS, "batch_size"]
    further = sorted({key for run in comparison.runs for key in run.ledger} - set(usual))
    arms = {arm.name: arm for arm in comparison.arms}
    rows = []
    for run in comparison.runs:
        arm = arms[run.arm]
        row = {"arm": arm.name, "word": arm.word, "architecture": arm.architecture, "scheme": arm.scheme}
        row |= {"control": arm.control, "matched": arm.matched, "seed": run.seed, "status": run.status}
        row |= {"reason": run.reason, "epochs": run.epochs, "test_error": run.test_error}
        row |= {"test_loss": run.test_loss, "train_loss": run.train_loss}
        row |= {key: run.ledger.get(key) for key in usual}
        row |= {"step_time_s": arm.step_time.median_s if arm.step_time else None}
        rows.append(row | {key: run.ledger.get(key) for key in further})
    return rows


def _summary_row(comparison: Comparison, s: Summary) -> dict[str, Any]:
    arm, time = s.arm, s.arm.step_time
    row = {"arm": arm.name, "word": arm.word, "architecture": arm.architecture, "scheme": arm.scheme}
    row |= {"control": arm.control, "matched": arm.matched, "baseline": comparison.baseline}
    row |= {"planned": s.planned, **s.counts}
    row |= {"test_error_mean": s.mean, "test_error_sd": s.sd, "paired_seeds": " ".join(map(str, s.pairs))}
    row |= {"difference": s.difference, "difference_low": s.low, "difference_high": s.high, "level": LEVEL}
    row |= {"verdict": s.verdict, "sign_flip_p": s.p, "correlation": s.correlation}
    row |= {name: s.costs[name].mean if name in s.costs else None for name in COSTS}
    row |= {f"step_time_{key}": getattr(time, key, None) for key in ("median_s", "quartile_1_s", "quartile_3_s")}
    row |= {f"step_time_{key}": getattr(time, key, None) for key in ("threads", "device", "batch_size")}
    row |= {"step_time_ratio": s.step_ratio}
    return row | {key: _csv_size(arm.sizes.get(key)) for key in ("steps", "h", "widths", "inner", "stem", "norm")}


def _csv_size(value: Any) -> Any:
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else value


def _write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]) if rows else [])
        writer.writeheader()
        writer.writerows(rows)
