"""From stored pixels to what a network sees, for a whole batch on its device."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad as zero_pad


def normalise(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Bytes (batch, channel, height, width) to floats of mean 0 and deviation 1 in each channel.

    ``mean`` and ``std`` are those of pixels between 0 and 1.
    """
    centre, spread = torch.tensor([mean, std], device=images.device).mul(255).view(2, -1, 1, 1)
    return (images - centre) / spread


def move(images: Tensor, moves: Tensor, pad: int) -> Tensor:
    """Pad by zeros (the mean of normalised images), crop each at its (dy, dx), mirror where flip is 1.

    ``moves`` (batch, 3) holds dy and dx between 0 and 2 pad (``pad`` leaves an image where it is), and flip.
    """
    height, width = images.shape[2:]
    crops = zero_pad(images, [pad] * 4).unfold(2, height, 1).unfold(3, width, 1)  # a view: (b, c, dy, dx, h, w)
    dy, dx, flip = moves.long().unbind(1)
    images = crops[torch.arange(len(moves), device=moves.device), :, dy, dx]
    return torch.where(flip.bool().view(-1, 1, 1, 1), images.flip(3), images)
