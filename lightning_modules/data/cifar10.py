"""CIFAR-10, as torchvision keeps it."""

from __future__ import annotations

import os
from typing import Any

import torch

from lightning_modules.data.in_memory import FileData, Samples
from lightning_modules.registries import DATA


@DATA.register("cifar10")
class CIFAR10(FileData):
    """50,000 + 10,000 colour images 32x32, ten classes; augmented by shifts of up to 4 pixels and mirroring.

    Files: ``root/cifar-10-batches-py/*``.
    Reference: Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009.
    """

    shape, num_classes = (3, 32, 32), 10
    mean, std = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
    pad, flip = 4, True

    def __init__(self, *, augment: bool = True, **options: Any) -> None:
        super().__init__(augment=augment, **options)

    def load(self, train: bool) -> Samples:
        from torchvision import datasets

        stored = datasets.CIFAR10(self.root, train=train)
        return torch.from_numpy(stored.data).permute(0, 3, 1, 2).contiguous(), torch.tensor(stored.targets)

    def fetch(self) -> None:
        from torchvision import datasets

        datasets.CIFAR10(self.root, download=True)

    def missing(self) -> str | None:
        folder = self.root / "cifar-10-batches-py"
        for name in [*(f"data_batch_{part}" for part in range(1, 6)), "test_batch", "batches.meta"]:
            if not os.access(folder / name, os.R_OK):
                return f"{folder / name} cannot be read"
        return None
