"""MNIST and Fashion-MNIST, from torchvision's files."""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from pathlib import Path

from lightning_modules.config.registries import DATA
from lightning_modules.data.supervised.base import Labelled
from lightning_modules.data.supervised.torchvision_files import PublishedData


@DATA.register("mnist")
class MNIST(PublishedData):
    """60,000 + 10,000 grey images 28x28, ten classes; augmented by shifts of up to 4 pixels.

    Files: ``root/MNIST/raw/*-ubyte``.
    Reference: LeCun, Bottou, Bengio, Haffner, "Gradient-Based Learning Applied to Document Recognition",
    Proceedings of the IEEE, 1998.
    """

    shape, num_classes = (1, 28, 28), 10
    mean, std = (0.1307,), (0.3081,)
    pad = 4

    def load(self, train: bool) -> Labelled:
        stored = self.reader(self.root, train=train)
        return Labelled(stored.data[:, None], stored.targets)

    def checksums(self) -> Mapping[str, str]:
        return {
            "MNIST/raw/train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
            "MNIST/raw/train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
            "MNIST/raw/t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
            "MNIST/raw/t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
        }

    def missing(self) -> str | None:
        folder = self.root / type(self).__name__ / "raw"
        kinds = ("images-idx3", "labels-idx1")
        paths = [folder / f"{part}-{kind}-ubyte" for part in ("train", "t10k") for kind in kinds]
        return next(filter(None, map(_objection, paths)), None) or super().missing()


def _objection(path: Path) -> str | None:
    """What is wrong with an IDX file, by its header and its size."""
    if path.exists() and not path.is_file():
        return f"{path} is no regular file"
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            zero, kind, dimensions = struct.unpack(">HBB", file.read(4))
            shape = struct.unpack(f">{dimensions}i", file.read(4 * dimensions))
    except OSError as error:
        return f"{path}: {error.strerror}"
    except struct.error:
        return f"{path} is damaged (delete it): it ends inside its header"
    expected = 4 + 4 * dimensions + math.prod(shape)
    if (zero, kind, size) == (0, 8, expected):
        return None
    return f"{path} is damaged (delete it): {size} bytes, where its header asks for {expected}"


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
