"""A field of one's own, for every network of residual blocks, and a model without any flow to compare them with."""

import torch
from torch import nn

from schemenet import ARCHITECTURES, FIELDS


@FIELDS.register("depthwise")
class Depthwise(nn.Module):
    """A depthwise convolution, norm, and two 1x1 convolutions with GELU between them: the branch of ConvNeXt.

    Reference: Liu, Mao, Wu, Feichtenhofer, Darrell, Xie, "A ConvNet for the 2020s", CVPR 2022, arXiv:2201.03545.
    """

    def __init__(self, channels: int, kernel: int = 5, ratio: int = 2):
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, kernel, padding=kernel // 2, groups=channels)
        self.norm = nn.GroupNorm(1, channels)
        self.enter = nn.Conv2d(channels, ratio * channels, 1)
        self.leave = nn.Conv2d(ratio * channels, channels, 1)

    def forward(self, y: torch.Tensor) -> torch.Tensor:
        return self.leave(nn.functional.gelu(self.enter(self.norm(self.depthwise(y)))))


@ARCHITECTURES.register("small_cnn")
def small_cnn(num_classes: int = 10, in_chans: int = 3, *, width: float = 1.0) -> nn.Module:
    """Three convolutions and a linear layer: any module is a network. A budget is met by the factor ``width``."""
    wide = max(1, round(32 * width))
    return nn.Sequential(
        nn.Conv2d(in_chans, wide, 3, padding=1), nn.ReLU(),
        nn.Conv2d(wide, wide, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(wide, 2 * wide, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(2 * wide, num_classes),
    )  # fmt: skip
