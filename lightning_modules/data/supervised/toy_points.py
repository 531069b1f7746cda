"""Toy sets of two classes in the plane."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor

from lightning_modules.config.registries import DATA
from lightning_modules.data.datamodule import DATA_SEED
from lightning_modules.data.loader import generator
from lightning_modules.data.supervised.base import Labelled, LabelledData


class Points(LabelledData):
    """Equal numbers of points of two classes, with normal ``noise`` on their coordinates; the same for every run."""

    shape, num_classes = (2,), 2
    least: ClassVar = {**LabelledData.least, "train_size": 1, "test_size": 1, "noise": 0}

    def __init__(self, *, train_size: int = 1000, test_size: int = 1000, noise: float = 0.1, **options: Any) -> None:
        self.train_size, self.test_size, self.noise = train_size, test_size, noise
        super().__init__(**options)

    def draw(self, labels: Tensor, u: Tensor, v: Tensor) -> Tensor:
        """Points (points, 2) without noise, from labels and two uniform numbers in [0, 1) of each, (points,)."""
        raise NotImplementedError

    def load(self, train: bool) -> Labelled:
        stream = generator(DATA_SEED, int(train))
        labels = torch.arange(self.train_size if train else self.test_size) % 2
        points = self.draw(labels, *torch.rand(2, len(labels), generator=stream))
        return Labelled(points + self.noise * torch.randn(points.shape, generator=stream), labels)


def polar(radius: Tensor, angle: Tensor) -> Tensor:
    """Cartesian coordinates (points, 2) of polar ones, (points,) each."""
    return torch.stack([radius * angle.cos(), radius * angle.sin()], 1)


@DATA.register("moons")
class Moons(Points):
    """Two half circles of radius 1, each reaching into the other."""

    def draw(self, labels: Tensor, u: Tensor, v: Tensor) -> Tensor:
        upper = polar(torch.ones_like(u), math.pi * u)
        return torch.where(labels[:, None] == 0, upper, torch.tensor([1.0, 0.5]) - upper)


@DATA.register("circles")
class Circles(Points):
    """A circle of radius 1 around one of radius 1/2."""

    def __init__(self, *, noise: float = 0.05, **options: Any) -> None:
        super().__init__(noise=noise, **options)

    def draw(self, labels: Tensor, u: Tensor, v: Tensor) -> Tensor:
        return polar(1 - labels / 2, 2 * math.pi * u)


@DATA.register("spheres")
class Spheres(Points):
    """A disc r < 1/2 (class 0) inside an annulus 1 < r < 3/2 (class 1), each uniform in area.

    No flow of the plane makes them linearly separable.

    Reference: Dupont, Doucet, Teh, "Augmented Neural ODEs", NeurIPS 2019, arXiv:1904.01681.
    """

    def __init__(self, *, noise: float = 0.0, **options: Any) -> None:
        super().__init__(noise=noise, **options)

    def draw(self, labels: Tensor, u: Tensor, v: Tensor) -> Tensor:
        return polar((labels + v * (1 + labels * 4) / 4).sqrt(), 2 * math.pi * u)


@DATA.register("spirals")
class Spirals(Points):
    """Two arms of one and a half turns out to radius 1, one of them turned by half a circle.

    Reference: Lang and Witbrock, "Learning to Tell Two Spirals Apart", 1988.
    """

    def __init__(self, *, noise: float = 0.02, **options: Any) -> None:
        super().__init__(noise=noise, **options)

    def draw(self, labels: Tensor, u: Tensor, v: Tensor) -> Tensor:
        radius = u.sqrt()
        return polar(radius, math.pi * (3 * radius + labels))
