"""CIFAR-10 and CIFAR-100, from torchvision's files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from lightning_modules.config.registries import DATA
from lightning_modules.data.supervised.base import Labelled
from lightning_modules.data.supervised.torchvision_files import PublishedData


@DATA.register("cifar10")
class CIFAR10(PublishedData):
    """50,000 + 10,000 colour images 32x32, ten classes; augmented by shifts of up to 4 pixels and mirroring.

    Files: ``root/cifar-10-batches-py/*``.
    Reference: Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009.
    """

    shape, num_classes = (3, 32, 32), 10
    mean, std = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
    pad, flip = 4, True

    def __init__(self, *, augment: bool = True, **options: Any) -> None:
        super().__init__(augment=augment, **options)

    def load(self, train: bool) -> Labelled:
        stored = self.reader(self.root, train=train)
        images = torch.from_numpy(stored.data).permute(0, 3, 1, 2).contiguous()
        return Labelled(images, torch.tensor(stored.targets))

    def checksums(self) -> Mapping[str, str]:
        reader = self.reader
        listed = dict([*reader.train_list, *reader.test_list, (reader.meta["filename"], reader.meta["md5"])])
        return {f"{reader.base_folder}/{name}": sum for name, sum in listed.items()}


@DATA.register("cifar100")
class CIFAR100(CIFAR10):
    """50,000 + 10,000 colour images 32x32, a hundred (fine) classes; augmented like CIFAR-10.

    Files: ``root/cifar-100-python/*``.
    Reference: Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009.
    """

    num_classes = 100
    mean, std = (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)
