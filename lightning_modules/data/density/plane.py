"""Eight toy densities in the plane."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, ClassVar, Literal

import torch
from torch import Generator, Tensor

from lightning_modules.config.registries import DATA
from lightning_modules.data.datamodule import DATA_SEED
from lightning_modules.data.density.base import DensityData, Rows, normal, uniform
from lightning_modules.data.loader import generator
from lightning_modules.data.supervised.toy_points import polar


def swissroll(n: int, stream: Generator) -> Tensor:
    t = 1.5 * math.pi * (1 + 2 * uniform(n, stream))
    return (polar(t, t) + normal(n, stream, 2)) / 5


def circles(n: int, stream: Generator) -> Tensor:
    radius = 0.5 + 0.5 * (torch.arange(n) % 2)
    return 3 * (polar(radius, 2 * math.pi * uniform(n, stream)) + 0.08 * normal(n, stream, 2))


def rings(n: int, stream: Generator) -> Tensor:
    radius = 0.25 * (1 + torch.arange(n) % 4)
    return 3 * polar(radius, 2 * math.pi * uniform(n, stream)) + 0.08 * normal(n, stream, 2)


def moons(n: int, stream: Generator) -> Tensor:
    upper = polar(torch.ones(n), math.pi * uniform(n, stream))
    points = torch.where(torch.arange(n)[:, None] % 2 == 0, upper, torch.tensor([1.0, 0.5]) - upper)
    return 2 * (points + 0.1 * normal(n, stream, 2)) + torch.tensor([-1.0, -0.2])


def eight_gaussians(n: int, stream: Generator) -> Tensor:
    centre = polar(torch.full((n,), 4.0), math.pi / 4 * (torch.arange(n) % 8))
    return (centre + 0.5 * normal(n, stream, 2)) / 1.414


def pinwheel(n: int, stream: Generator) -> Tensor:
    along, across = (normal(n, stream, 2) * torch.tensor([0.3, 0.1]) + torch.tensor([1.0, 0.0])).unbind(1)
    angle = 2 * math.pi / 5 * (torch.arange(n) % 5) + 0.25 * along.exp()
    return 2 * torch.stack([along * angle.cos() + across * angle.sin(), across * angle.cos() - along * angle.sin()], 1)


def two_spirals(n: int, stream: Generator) -> Tensor:
    angle = 3 * math.pi * uniform(n, stream).sqrt()
    arm = torch.stack([-angle.cos() * angle, angle.sin() * angle], 1) + 0.5 * uniform(n, stream, 2)
    sign = 1 - 2 * (torch.arange(n)[:, None] % 2)
    return sign * arm / 3 + 0.1 * normal(n, stream, 2)


def checkerboard(n: int, stream: Generator) -> Tensor:
    x = 4 * uniform(n, stream) - 2
    y = uniform(n, stream) - 2 * torch.randint(2, (n,), generator=stream) + x.floor() % 2
    return 2 * torch.stack([x, y], 1)


SETS: dict[str, Callable[[int, Generator], Tensor]] = {
    "swissroll": swissroll, "circles": circles, "rings": rings, "moons": moons, "8gaussians": eight_gaussians,
    "pinwheel": pinwheel, "2spirals": two_spirals, "checkerboard": checkerboard,
}  # fmt: skip


@DATA.register("plane", task="density", described_by=("set",))
class Plane(DensityData):
    """Samples of one of eight densities of the plane, as FFJORD's toy sets are made; fixed, the same for every run.

    A few have a floor that no network can pass, their entropy: checkerboard log 32 = 3.466 nats, 8gaussians 2.837.

    Reference: Grathwohl, Chen, Bettencourt, Sutskever, Duvenaud, "FFJORD", ICLR 2019, arXiv:1810.01367.
    """

    shape = (2,)
    least: ClassVar = {**DensityData.least, "train_size": 1, "test_size": 1}

    def __init__(
        self,
        *,
        set: Literal[
            "swissroll", "circles", "rings", "moons", "8gaussians", "pinwheel", "2spirals", "checkerboard"
        ] = "moons",
        train_size: int = 10_000,
        test_size: int = 5_000,
        **options: Any,
    ) -> None:
        self.set, self.train_size, self.test_size = set, train_size, test_size
        super().__init__(**options)

    def load(self, train: bool) -> Rows:
        stream = generator(DATA_SEED, int(train))
        return Rows(SETS[self.set](self.train_size if train else self.test_size, stream))
