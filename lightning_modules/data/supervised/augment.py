"""Normalisation and augmentation of a batch of images on its device."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad as zero_pad


def normalise(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Normalise images to mean 0 and deviation 1 in each channel.

    Args:
        images: bytes, (batch, channel, height, width).
        mean: of each channel, of pixels between 0 and 1.
        std: of each channel, of pixels between 0 and 1.

    Returns:
        float32, (batch, channel, height, width).
    """
    centre, spread = torch.tensor([mean, std], device=images.device).mul(255).view(2, -1, 1, 1)
    return (images - centre) / spread


def move(images: Tensor, moves: Tensor, pad: int) -> Tensor:
    """Shift and mirror each image; zeros, the mean of normalised images, fill what a shift uncovers.

    Args:
        images: (batch, channel, height, width).
        moves: (batch, 3): dy and dx between 0 and 2 pad, where ``pad`` is no shift, and flip, 0 or 1.
        pad: the largest shift in pixels.

    Returns:
        (batch, channel, height, width).
    """
    height, width = images.shape[2:]
    crops = zero_pad(images, [pad] * 4).unfold(2, height, 1).unfold(3, width, 1)  # a view: (b, c, dy, dx, h, w)
    dy, dx, flip = moves.long().unbind(1)
    images = crops[torch.arange(len(moves), device=moves.device), :, dy, dx]
    return torch.where(flip.bool().view(-1, 1, 1, 1), images.flip(3), images)
