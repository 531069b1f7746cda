"""The report of a comparison in its folder: a page, the same as Markdown, tables for other programs, pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning_modules.comparing.records import Comparison, read_comparison
from lightning_modules.comparing.report import html, templates
from lightning_modules.comparing.report.csv_files import write_csv
from lightning_modules.comparing.report.facts import Facts
from lightning_modules.comparing.report.tables import SIZES
from lightning_modules.comparing.statistics.rule import RULE, SignFlipRule
from lightning_modules.comparing.statistics.summary import COSTS, RATIOS, Summary
from lightning_modules.storage.atomic_files import write_text
from lightning_modules.text import Progress


def write(folder: str | Path) -> Path:
    """Write the report of a comparison's folder into it.

    Returns:
        The path of report.html.
    """
    return write_of(read_comparison(folder))


def write_of(comparison: Comparison, rule: SignFlipRule = RULE) -> Path:
    """Write tables, pictures, report.md and report.html into ``comparison.folder``.

    Args:
        comparison: as read from its folders.
        rule: by which arms are judged.

    Returns:
        The path of report.html.
    """
    # matplotlib takes a second to import, and the screen needs none of it
    from lightning_modules.comparing.report.figures import draw_all

    facts = Facts.of(comparison, rule)
    write_csv(comparison.folder / "results.csv", _result_rows(comparison))
    write_csv(comparison.folder / "summary.csv", [_summary_row(facts, s) for s in facts.summaries])
    Progress("writing the report and its pictures")
    pictures = draw_all.write(comparison, facts.summaries)
    text = templates.render(facts, pictures)
    write_text(comparison.folder / "report.md", text)
    path = comparison.folder / "report.html"
    specs = {name: picture.spec for name, picture in pictures.items() if picture.spec is not None}
    write_text(path, html.render(text, comparison.folder, specs))
    return path


def _result_rows(comparison: Comparison) -> list[dict[str, Any]]:
    """One row per planned run, finished or not; ledger entries beyond the usual ones follow at the end."""
    usual = [*COSTS, "batch_size"]
    further = sorted({key for run in comparison.runs for key in run.ledger} - set(usual))
    arms = {arm.name: arm for arm in comparison.arms}
    others = dict.fromkeys(name for run in comparison.runs for name in run.other_measures)
    rows = []
    for run in comparison.runs:
        arm = arms[run.arm]
        row = {"arm": arm.name, "word": arm.word, "architecture": arm.architecture, "scheme": arm.scheme}
        row |= {"control": arm.control, "matched": arm.matched, "seed": run.seed, "status": run.status}
        row |= {"reason": run.reason, "epochs": run.epochs, f"test_{comparison.measure.key}": run.value}
        row |= {f"test_{name}": run.other_measures.get(name) for name in others} | {"train_loss": run.train_loss}
        row |= {key: run.ledger.get(key) for key in usual}
        row |= {"step_time_s": arm.step_time.median_s if arm.step_time else None}
        rows.append(row | {key: run.ledger.get(key) for key in further})
    return rows


def _summary_row(facts: Facts, s: Summary) -> dict[str, Any]:
    comparison, rule = facts.comparison, facts.rule
    arm, time = s.arm, s.arm.step_time
    row = {"arm": arm.name, "word": arm.word, "architecture": arm.architecture, "scheme": arm.scheme}
    row |= {"control": arm.control, "matched": arm.matched, "baseline": comparison.baseline}
    row |= {"planned": s.planned, **s.counts}
    key = f"test_{comparison.measure.key}"
    row |= {f"{key}_mean": s.mean, f"{key}_sd": s.sd, "paired_seeds": " ".join(map(str, s.pairs))}
    row |= {"difference": s.difference, "difference_low": s.low, "difference_high": s.high, "level": rule.level}
    row |= dict(zip(("bootstrap_low", "bootstrap_high"), s.bootstrap or (None, None), strict=True))
    row |= {"verdict": s.verdict, "tested_pairs": len(s.differences)}
    row |= dict(zip(rule.columns, (s.p, s.adjusted_p), strict=True))
    row |= {"probability_better": s.improvement, "correlation": s.correlation}
    row |= {name: s.costs[name].mean if name in s.costs else None for name in COSTS}
    row |= {f"step_time_{key}": getattr(time, key, None) for key in ("median_s", "quartile_1_s", "quartile_3_s")}
    row |= {f"step_time_{key}": getattr(time, key, None) for key in ("threads", "device", "batch_size")}
    row |= {f"{name}_ratio": s.ratios.get(name) for name in RATIOS}
    return row | {key: _joined(arm.sizes.get(key)) for key in SIZES}


def _joined(value: Any) -> Any:
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else value
