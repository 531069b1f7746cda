"""What all tests share."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True)
def _quiet_and_paired(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same random numbers for every test, one thread, no account asked for."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    monkeypatch.setenv("WANDB_MODE", "offline")


@pytest.fixture
def no_collector() -> Iterator[None]:
    """Without Python's garbage collector a reference cycle keeps its tensors."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()
