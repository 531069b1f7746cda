"""Runs that are killed, at random moments or at single operations on their files, end like any other."""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from killing import KINDS, Campaign

HERE = Path(__file__).resolve().parent
ROUNDS = {"random": 6, "learned_k": 3, "workers": 1}
DEATHS, ALL = 5, 30


@pytest.fixture(scope="module", autouse=True)
def importable() -> Iterator[None]:
    """The process that others are forked from finds the packages and these modules."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(map(str, (HERE.parent, HERE))))
        yield


def test_runs_that_die_end_like_one_that_lives(tmp_path: Path) -> None:
    """Weights, optimiser, random state, metrics and result, to the bit; the seeds of a failure stand in its message."""
    deaths: Counter[str] = Counter()
    for variant, rounds in ROUNDS.items():
        campaign = Campaign(tmp_path / variant, variant)
        for number in range(rounds):
            campaign.round(random.Random(f"{variant} {number}"), DEATHS, KINDS)
        deaths += campaign.deaths
    assert deaths.keys() == set(KINDS)
    assert deaths.total() >= ALL, deaths
