"""Ratios of running times that survive a noisy machine: many short repetitions, taken in turn."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping

import torch


def interleaved(jobs: Mapping[str, Callable[[], object]], repetitions: int, warm_up: int = 3) -> dict[str, float]:
    """For each job the median over repetitions of its time divided by the first job's in the same round."""
    names = list(jobs)
    ratios: dict[str, list[float]] = {name: [] for name in names}
    for repetition in range(warm_up + repetitions):
        seconds = {}
        # The order turns round by round, so that none always follows the same one.
        turn = repetition % len(names)
        for name in names[turn:] + names[:turn]:
            begin = time.perf_counter()
            jobs[name]()
            seconds[name] = time.perf_counter() - begin
        if repetition >= warm_up:
            for name in names:
                ratios[name].append(seconds[name] / seconds[names[0]])
    return {name: statistics.median(values) for name, values in ratios.items()}


def conditions() -> str:
    return f"torch {torch.__version__}, {torch.get_num_threads()} thread(s), {torch.get_num_interop_threads()} interop"
