"""Ratios of running times that survive a noisy machine: many short repetitions, taken in turn."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping

import torch


def interleaved(
    jobs: Mapping[str, Callable[[], object]],
    repetitions: int,
    warm_up: int = 3,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, float]:
    """For each job the median over repetitions of its time divided by the first job's in the same round.

    With one thread ``clock=time.process_time`` leaves out the time in which other processes had the core.
    """
    names = list(jobs)
    ratios: dict[str, list[float]] = {name: [] for name in names}
    for repetition in range(warm_up + repetitions):
        seconds = {}
        # The order turns round by round, so that none always follows the same one.
        turn = repetition % len(names)
        for name in names[turn:] + names[:turn]:
            begin = clock()
            jobs[name]()
            seconds[name] = clock() - begin
        if repetition >= warm_up:
            for name in names:
                ratios[name].append(seconds[name] / seconds[names[0]])
    return {name: statistics.median(values) for name, values in ratios.items()}


def conditions() -> str:
    return f"torch {torch.__version__}, {torch.get_num_threads()} thread(s), {torch.get_num_interop_threads()} interop"
