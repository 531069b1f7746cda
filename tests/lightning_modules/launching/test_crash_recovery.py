"""Runs that are killed, at random moments or at single operations on their files, end like any other."""

from __future__ import annotations

import os
import random
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lightning_modules.launching.run_lock import is_locked, locked
from tests.support.crash_injection import KINDS, Campaign, ForkServer

ROOT = Path(__file__).resolve().parents[3]
ROUNDS = {"random": 6, "learned_k": 3, "workers": 1}
DEATHS, ALL = 5, 30


@pytest.fixture(scope="module", autouse=True)
def importable() -> Iterator[None]:
    """The process that others are forked from finds the packages and these modules."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        yield


def deaths_of(folder: Path, variant: str, rounds: int) -> Counter[str]:
    """Begin and kill runs, each again until it is done.

    Weights, optimiser, random state, metrics and result must be those of a run that was left alone, to the bit; the
    seeds of a failure stand in its message.
    """
    campaign = Campaign(folder / variant, variant)
    for number in range(rounds):
        campaign.round(random.Random(f"{variant} {number}"), DEATHS, KINDS)
    return campaign.deaths


def test_a_run_that_dies_ends_like_one_that_lives(tmp_path: Path) -> None:
    assert deaths_of(tmp_path, "random", 1)


@pytest.mark.slow
def test_runs_that_die_end_like_one_that_lives(tmp_path: Path) -> None:
    deaths = sum((deaths_of(tmp_path, variant, rounds) for variant, rounds in ROUNDS.items()), start=Counter())
    assert deaths.keys() == set(KINDS)
    assert deaths.total() >= ALL, deaths


def hold(folder: Path, pipe: Any) -> None:
    """Lock a folder, and have a child as a loader has its workers."""
    with locked(folder):
        if child := os.fork():
            pipe.send(child)
        signal.pause()


def test_the_lock_of_a_run_dies_with_it(tmp_path: Path) -> None:
    """Not with its data workers, which notice seconds later: the same command goes on at once."""
    context = ForkServer().context
    here, there = context.Pipe()
    process = context.Process(target=hold, args=(tmp_path, there))
    process.start()
    child = here.recv()
    try:
        assert is_locked(tmp_path)
        process.kill()
        process.join()
        os.kill(child, 0)
        assert not is_locked(tmp_path)
    finally:
        os.kill(child, signal.SIGKILL)
