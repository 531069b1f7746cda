"""Tables of a comparison: for the terminal, as Markdown and as csv.

A number that was not measured is "-". Runs that failed, diverged or are missing are counted and listed.
"""

from __future__ import annotations

import csv
import textwrap
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from .runs import Comparison, read_comparison
from .statistics import (
    COSTS,
    LEVEL,
    NO_PAIR,
    NO_SPREAD,
    ONE_SEED,
    Summary,
    summarise,
    t_factor,
    what_controls_show,
    what_seeds_show,
)

WIDTH = 120
ABSENT = "-"
TOLERANCE = 0.01  # of the budget; the same as match_budget's default


def screen_table(comparison: Comparison) -> str:
    """The comparison for a terminal: arms, then controls, then what can and cannot be concluded."""
    summaries = summarise(comparison)
    head = ["arm", "scheme", "test error %", f"difference [{LEVEL:.0%}]", "verdict"]
    head += ["params", "MACs", "NFE", "kept MB", "step"]
    arms = [_screen_row(s) for s in summaries if not s.arm.control]
    controls = [_screen_row(s) for s in summaries if s.arm.control]
    widths, gap = _fit(head, arms + controls)
    lines = [_headline(comparison), ""]
    lines += [_aligned(head, widths, gap), _rule(widths, gap)]
    lines += [_aligned(row, widths, gap) for row in arms]
    if controls:
        title = "-- controls: not matched to the budget "
        lines += [title + "-" * (len(_rule(widths, gap)) - len(title))]
        lines += [_aligned(row, widths, gap) for row in controls]
    lines += [
        "",
        *_wrapped(
            "Test error of the last epoch: mean ± sd (n finished seeds). Difference to"
            f" {comparison.baseline} in points, paired by seed. MACs per sample, forward; NFE: evaluations"
            " of f in a forward pass; kept: bytes kept for backward"
            + _at_batch(comparison)
            + "; step: training step time"
            f" relative to {comparison.baseline}."
        ),
    ]
    for title, said in (
        ("What can be concluded", _conclusions(comparison, summaries)),
        ("What the controls say", what_controls_show(summaries)),
        ("Notes", _notes(comparison, summaries)),
        ("Runs that are not done", _unfinished(comparison)),
    ):
        if said:
            lines += ["", title]
            lines += [line for text in said for line in _wrapped(text, "  - ")]
    return "\n".join(lines)


def write(folder: str | Path) -> Path:
    """Write results.csv, summary.csv, plots and report.md into a comparison's folder; report.md's path."""
    from . import plots  # matplotlib takes a second to import, and the screen needs none of it

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
    parts = [f"# {_headline(comparison)}", f"```\n{comparison.command or ABSENT}\n```", _facts(comparison)]
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
        _bullets(_conclusions(comparison, summaries)),
        "### What the controls say",
        "`stem_only` is the baseline without its flows, `one_block` the baseline with one step in each"
        " flow. They are smaller than the budget: they ask whether this task needs depth at all.",
        _bullets(what_controls_show(summaries)),
        "## Costs",
        _cost_table(arms + controls),
        _cost_caption(comparison),
        "## Sizes",
        _size_table(arms + controls),
    ]
    notes = _notes(comparison, summaries)
    if notes:
        parts += ["## Notes", _bullets(notes)]
    parts += [
        "## Runs that are not done",
        _bullets(_unfinished(comparison)) or "None: every planned run finished.",
    ]
    pictures = list(pictures)
    if pictures:
        parts += ["## Plots", *(f"![{path.stem.replace('_', ' ')}]({path.name})" for path in pictures)]
    else:
        parts += ["## Plots", "No finished run to plot."]
    parts += ["Every run is a row of `results.csv`, every arm a row of `summary.csv`."]
    return "\n\n".join(parts) + "\n"


# -------------------------------------------------------------------------------- numbers for people


def human(number: float | None, unit: str = "") -> str:
    """219873 -> "219.9 k", 12.3e6 bytes -> "12.3 MB"; powers of ten, absent is "-"."""
    if number is None:
        return ABSENT
    for power, prefix in ((1, ""), (1e3, "k"), (1e6, "M"), (1e9, "G"), (1e12, "T")):
        scaled = number / power
        if abs(scaled) < 999.95 or prefix == "T":
            break
    digits = f"{scaled:.0f}" if not prefix and float(scaled).is_integer() else f"{scaled:.1f}"
    return f"{digits} {prefix}{unit}".rstrip()


def seconds(time: float | None) -> str:
    """0.0123 -> "12.3 ms"."""
    if time is None:
        return ABSENT
    return f"{time:.2f} s" if time >= 1 else f"{1e3 * time:.3g} ms"


def _error(s: Summary) -> str:
    if s.mean is None:
        return f"{ABSENT} (0/{s.planned})"
    n = len(s.errors)
    spread = "" if s.sd is None else f" ± {100 * s.sd:.2f}"
    return f"{100 * s.mean:.2f}{spread} ({n if n == s.planned else f'{n}/{s.planned}'})"


def _difference(s: Summary) -> str:
    if s.difference is None:
        return ABSENT
    interval = "" if s.low is None else f" [{100 * s.low:+.2f}, {100 * s.high:+.2f}]"
    return f"{100 * s.difference:+.2f}{interval}"


def _verdict(s: Summary) -> str:
    """The verdict, starred where diverged runs had to be left out of the mean."""
    return s.verdict + ("*" if s.counts["diverged"] else "")


def _cost(s: Summary, name: str, unit: str = "") -> str:
    cost = s.costs.get(name)
    return human(None if cost is None else cost.mean, unit)


def _nfe(s: Summary, name: str, spread: bool = False) -> str:
    cost = s.costs.get(name)
    if cost is None:
        return ABSENT
    mean = f"{cost.mean:.0f}" if cost.mean == round(cost.mean) else f"{cost.mean:.1f}"
    return f"{mean} ({cost.low:g} to {cost.high:g})" if spread and cost.low < cost.high else mean


def _ratio(ratio: float | None) -> str:
    return ABSENT if ratio is None else f"{ratio:.2f}×"


def _plural(n: int, word: str) -> str:
    return f"{n} {word}{'' if n == 1 else 's'}"


def _seeds(seeds: Sequence[int]) -> str:
    return f"seed{'' if len(seeds) == 1 else 's'} {', '.join(map(str, seeds))}"


# -------------------------------------------------------------------------------- what is said in words


def _headline(comparison: Comparison) -> str:
    arms = sum(not arm.control for arm in comparison.arms)
    controls = len(comparison.arms) - arms
    parts = [_plural(arms, "arm") + (f" and {_plural(controls, 'control')}" if controls else "")]
    parts += [f"on {comparison.data or 'unnamed data'}"]
    told = "an unknown number of epochs" if comparison.epochs is None else _plural(comparison.epochs, "epoch")
    told += f", {_plural(len(comparison.seeds), 'seed')}"
    if comparison.budget is not None:
        told += f", {human(comparison.budget)} parameters"
    return f"Comparison of {' '.join(parts)}: {told}"


def _conclusions(comparison: Comparison, summaries: Sequence[Summary]) -> list[str]:
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


def _notes(comparison: Comparison, summaries: Sequence[Summary]) -> list[str]:
    """What a reader must know before comparing two rows: fewer seeds, left-out runs, unequal conditions."""
    said = []
    base = next((s for s in summaries if s.verdict == "baseline"), None)
    for s in summaries:
        left_out = [f"{s.counts[status]} {status}" for status in ("diverged", "failed", "missing") if s.counts[status]]
        if left_out:
            star = "* " if s.counts["diverged"] else ""
            over = f"its mean is over {_seeds(sorted(s.errors)) if s.errors else 'no seed'}"
            flattered = "; leaving out diverged runs flatters the arm" if s.counts["diverged"] else ""
            said.append(f"{star}{s.arm.name}: {', '.join(left_out)} of {s.planned}; {over}{flattered}.")
        if s.pairs and base and not set(s.pairs) == set(s.errors) == set(base.errors):
            wide = ""
            if len(s.pairs) > 1:
                wide = f": {t_factor(len(s.pairs)):.2f} standard errors on each side"
            said.append(f"{s.arm.name}: paired over {_seeds(s.pairs)}, all that both have finished{wide}.")
        if s.verdict == NO_SPREAD:
            said.append(f"{s.arm.name}: all paired differences are equal; check that the seeds change anything.")
        short = [
            r for r in comparison.of(s.arm.name) if r.status == "done" and r.epochs not in (None, comparison.epochs)
        ]
        if short and comparison.epochs is not None:
            told = ", ".join(f"seed {r.seed}: {r.epochs}" for r in short)
            said.append(f"{s.arm.name}: not trained for the planned {_plural(comparison.epochs, 'epoch')} ({told}).")
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
    if len(_batch_sizes(comparison)) > 1:
        told = ", ".join(map(str, _batch_sizes(comparison)))
        said.append(f"Bytes were measured at different batch sizes ({told}) and cannot be compared as they stand.")
    return said


def _unfinished(comparison: Comparison) -> list[str]:
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


def _batch_sizes(comparison: Comparison) -> list[int]:
    return sorted({run.ledger["batch_size"] for run in comparison.runs if run.ledger.get("batch_size") is not None})


def _at_batch(comparison: Comparison) -> str:
    sizes = _batch_sizes(comparison)
    return f" at batch size {sizes[0]}" if len(sizes) == 1 else ""


# -------------------------------------------------------------------------------- the screen


def _screen_row(s: Summary) -> list[str]:
    kept = s.costs.get("bytes_kept")
    megabytes = ABSENT if kept is None else f"{kept.mean / 1e6:.1f}" if kept.mean >= 1e5 else f"{kept.mean / 1e6:.2g}"
    return [
        s.arm.name,
        s.arm.scheme or ABSENT,
        _error(s),
        _difference(s),
        _screen_verdict(s),
        _cost(s, "parameters"),
        _cost(s, "macs"),
        _nfe(s, "nfe_forward"),
        megabytes,
        _ratio(s.step_ratio),
    ]


def _screen_verdict(s: Summary) -> str:
    """The verdict in at most fourteen columns; the full words stand below the table."""
    full = _verdict(s)
    short = "no pair" if s.verdict == NO_PAIR else s.verdict.split(":")[0]
    return full.replace(s.verdict, short)


def _fit(head: Sequence[str], rows: Sequence[Sequence[str]]) -> tuple[list[int], str]:
    """Column widths and gap within WIDTH: a narrower gap first, then shorter scheme and arm names."""
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    gap = "  " if sum(widths) + 2 * (len(widths) - 1) <= WIDTH else " "
    for column in (1, 0, 4, 2, 3):
        over = sum(widths) + len(gap) * (len(widths) - 1) - WIDTH
        if over > 0:
            widths[column] = max(widths[column] - over, min(10, widths[column]))
    return widths, gap


def _aligned(cells: Sequence[str], widths: Sequence[int], gap: str) -> str:
    """Text to the left, measures to the right; what does not fit ends in an ellipsis."""
    cut = [cell if len(cell) <= width else cell[: width - 1] + "…" for cell, width in zip(cells, widths, strict=True)]
    placed = [c.ljust(w) if i < 5 else c.rjust(w) for i, (c, w) in enumerate(zip(cut, widths, strict=True))]
    return gap.join(placed).rstrip()


def _rule(widths: Sequence[int], gap: str) -> str:
    return "-" * (sum(widths) + len(gap) * (len(widths) - 1))


def _wrapped(text: str, bullet: str = "") -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent=bullet, subsequent_indent=" " * len(bullet))


# -------------------------------------------------------------------------------- Markdown


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
            _error(s),
            _difference(s),
            _verdict(s),
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
                _cost(s, "parameters"),
                _cost(s, "flow_parameters"),
                _cost(s, "macs"),
                _nfe(s, "nfe_forward", spread=True),
                _nfe(s, "nfe_backward", spread=True),
                _cost(s, "bytes_kept", "B"),
                _cost(s, "peak_bytes", "B"),
                told,
                _ratio(s.step_ratio),
            ]
        )
    return _table(head, rows)


def _cost_caption(comparison: Comparison) -> str:
    taken = {
        f"{_plural(time.threads, 'thread') if time.threads is not None else 'threads not stated'} on"
        f" {time.device or 'a device not stated'}, batch size"
        f" {time.batch_size if time.batch_size else 'not stated'},"
        f" {time.steps if time.steps else 'an unstated number of'} steps"
        for time in (arm.step_time for arm in comparison.arms)
        if time is not None
    }
    timed = f"Step time: median of a training step ({'; '.join(sorted(taken))})" if taken else "Step time: not measured"
    return (
        "MACs per sample in a forward pass. NFE: calls of f, rejected steps included. Kept: bytes alive"
        " after the forward pass for the backward's sake, peak: the most alive in forward and"
        f" backward{_at_batch(comparison)}; 1 MB is 1e6 bytes. {timed}; ratio to `{comparison.baseline}`."
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


# -------------------------------------------------------------------------------- csv


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
