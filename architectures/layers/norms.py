"""Normalisation layers by name."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn

from schemes.errors import SchemenetError, unknown

GROUP_SIZE = 2
NORMS = ("batch", "group", "none")


class GroupNorm(nn.GroupNorm):
    """Group norm in groups of two channels, whatever the width.

    A fixed number of groups would be instance norm in narrow networks, behind which a pooled head cannot see the mean
    of a channel, and layer norm at prime widths: networks of different widths would differ in more than their width.

    Reference: Wu, He, "Group Normalization", ECCV 2018, arXiv:1803.08494; two channels are those of Chen et al.,
    NeurIPS 2018, arXiv:1806.07366 (64 channels in 32 groups).
    """

    _version = 2

    def __init__(self, channels: int) -> None:
        if channels % GROUP_SIZE:
            near = " or ".join(str(n) for n in (channels - 1, channels + 1) if n)
            raise SchemenetError(
                f"norm=group has groups of {GROUP_SIZE} channels, and {channels} channels are no multiple of that; use"
                f" {near}, or norm=batch"
            )
        super().__init__(channels // GROUP_SIZE, channels)

    def _load_from_state_dict(
        self, state_dict: Any, prefix: str, local_metadata: dict[str, Any], *args: Any, **kwargs: Any
    ) -> None:
        """Reject weights of version 1 that are of another function: it had the most groups up to 32 that divide."""
        before = next(n for n in range(min(32, self.num_channels), 0, -1) if self.num_channels % n == 0)
        if local_metadata.get("version") == 1 and before != self.num_groups:
            raise SchemenetError(
                f"these weights were trained with {before} groups in a norm of {self.num_channels} channels; norm=group"
                f" now has groups of {GROUP_SIZE} channels, {self.num_groups} here: train the network again"
            )
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *args, **kwargs)


def norm_layer(name: str, channels: int) -> nn.Module:
    """``batch``; ``group``, in groups of two channels; ``none``."""
    if name == "batch":
        return nn.BatchNorm2d(channels)
    if name == "group":
        return GroupNorm(channels)
    if name == "none":
        return nn.Identity()
    raise SchemenetError(unknown("norm", name, NORMS))


def norm_multiple(name: str) -> int:
    """The number that must divide the channels of a norm."""
    return GROUP_SIZE if name == "group" else 1


def groups_in_words(name: str, widths: Iterable[int]) -> list[str]:
    """Number and size of the groups at each width: ``32x2``; nothing for a norm without groups."""
    return [f"{width // GROUP_SIZE}x{GROUP_SIZE}" for width in widths] if name == "group" else []
