"""CIFAR-100, as torchvision keeps it."""

from __future__ import annotations

from lightning_modules.data.cifar10 import CIFAR10
from lightning_modules.registries import DATA


@DATA.register("cifar100")
class CIFAR100(CIFAR10):
    """50,000 + 10,000 colour images 32x32, a hundred (fine) classes; augmented like CIFAR-10.

    Files: ``root/cifar-100-python/*``.
    Reference: Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009.
    """

    num_classes = 100
    mean, std = (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)
