"""Findings on the controls: whether differences between architectures can be interpreted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from lightning_modules.comparing.statistics.rule import BASELINE, BETTER, WORSE
from lightning_modules.comparing.statistics.summary import Summary

CONTROL_FACTOR = 1.25


@dataclass(frozen=True)
class ControlFinding:
    """One control: its error as a multiple of the baseline's, None without a finished run."""

    name: str
    verdict: str
    times: float | None
    is_near: bool


@dataclass(frozen=True)
class ControlFindings:
    """All controls. One whose error is within ``factor`` of the baseline's shows that the task separates nothing."""

    controls: Sequence[ControlFinding]
    factor: float

    @property
    def near(self) -> list[ControlFinding]:
        return [control for control in self.controls if control.is_near]

    @property
    def any_judged(self) -> bool:
        return any(control.times is not None for control in self.controls)

    @property
    def all_lose(self) -> bool:
        return self.any_judged and all(c.verdict == WORSE for c in self.controls if c.times is not None)


def judge_controls(summaries: Sequence[Summary], factor: float = CONTROL_FACTOR) -> ControlFindings:
    """The findings on the controls; empty where the baseline has no finished run.

    Args:
        summaries: of all arms.
        factor: of the baseline's error, within which a control is near.
    """
    baseline = next((s.mean for s in summaries if s.verdict == BASELINE), None)
    if baseline is None:
        return ControlFindings([], factor)
    findings = []
    for s in summaries:
        if s.arm.control:
            times = None if s.mean is None else s.mean / baseline if baseline else math.inf if s.mean else 1.0
            is_near = times is not None and (s.verdict == BETTER or times <= factor)
            findings.append(ControlFinding(s.arm.name, s.verdict, times, is_near))
    return ControlFindings(findings, factor)
