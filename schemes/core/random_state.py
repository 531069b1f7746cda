"""A context that leaves the global random state unchanged."""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch
from torch import Tensor


def unmoved_random_state(y: Tensor) -> AbstractContextManager[None]:
    """A context in which random numbers for y's device are drawn, and after which they are still to be drawn."""
    return torch.random.fork_rng(devices=[y.device] if y.device.type == "cuda" else [])
