"""Fashion-MNIST, as torchvision keeps it."""

from __future__ import annotations

from collections.abc import Mapping

from lightning_modules.data.mnist import MNIST
from lightning_modules.registries import DATA


@DATA.register("fashion_mnist")
class FashionMNIST(MNIST):
    """60,000 + 10,000 grey images 28x28 of clothes, ten classes; augmented by shifts of up to 4 pixels and mirroring.

    Files: ``root/FashionMNIST/raw/*-ubyte``.
    Reference: Xiao, Rasul, Vollgraf, "Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine Learning
    Algorithms", 2017, arXiv:1708.07747.
    """

    mean, std = (0.2860,), (0.3530,)
    flip = True

    def checksums(self) -> Mapping[str, str]:
        return {}  # published for the compressed files alone; of these, headers and sizes are checked
