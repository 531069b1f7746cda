"""Normalisation layers by name."""

from __future__ import annotations

from torch import nn

from schemes.errors import SchemenetError, unknown

GROUPS = 32
NORMS = ("batch", "group", "none")


def norm_layer(name: str, channels: int) -> nn.Module:
    """``batch``; ``group`` with the largest number of groups up to 32 that divides the channels; ``none``."""
    if name == "batch":
        return nn.BatchNorm2d(channels)
    if name == "group":
        return nn.GroupNorm(next(g for g in range(min(GROUPS, channels), 0, -1) if channels % g == 0), channels)
    if name == "none":
        return nn.Identity()
    raise SchemenetError(unknown("norm", name, NORMS))
