"""A context manager that leaves the global random state unchanged."""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch
from torch import Tensor


def unmoved_random_state(y: Tensor) -> AbstractContextManager[None]:
    """Restores the random state of the CPU and of y's device on exit."""
    return torch.random.fork_rng(devices=[y.device] if y.device.type == "cuda" else [])
