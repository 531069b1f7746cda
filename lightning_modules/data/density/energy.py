"""Unnormalised densities exp(-U) in the plane, with noise as samples."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cached_property
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from lightning_modules.config.registries import DATA
from lightning_modules.data.datamodule import DATA_SEED
from lightning_modules.data.density.base import DensityData, Rows
from lightning_modules.data.loader import generator

EDGE, SOFTNESS = 4.0, 0.4
"""Position and width of the wall of the energies 2 to 4."""
BOX, POINTS = 8.0, 1601
"""Half the side of the square over which the normaliser is summed, and the points along a side."""


def _w1(x: Tensor) -> Tensor:
    return torch.sin(math.pi / 2 * x)


def _well(distance: Tensor, width: float) -> Tensor:
    return -0.5 * (distance / width).square()


def _wall(x: Tensor) -> Tensor:
    return 0.5 * ((x.abs() - EDGE).clamp_min(0) / SOFTNESS).square()


def ring(x: Tensor, y: Tensor) -> Tensor:
    two = torch.logaddexp(_well(x - 2, 0.6), _well(x + 2, 0.6))
    return -_well((x.square() + y.square()).sqrt() - 2, 0.4) - two


def wave(x: Tensor, y: Tensor) -> Tensor:
    return -_well(y - _w1(x), 0.4) + _wall(x)


def parting_wave(x: Tensor, y: Tensor) -> Tensor:
    w2 = 3 * _well(x - 1, 0.6).exp()
    return -torch.logaddexp(_well(y - _w1(x), 0.35), _well(y - _w1(x) + w2, 0.35)) + _wall(x)


def forked_wave(x: Tensor, y: Tensor) -> Tensor:
    w3 = 3 * torch.sigmoid((x - 1) / 0.3)
    return -torch.logaddexp(_well(y - _w1(x), 0.4), _well(y - _w1(x) + w3, 0.35)) + _wall(x)


ENERGIES: dict[int, Callable[[Tensor, Tensor], Tensor]] = {1: ring, 2: wave, 3: parting_wave, 4: forked_wave}


@DATA.register("energy", task="energy", described_by=("number",))
class Energy(DensityData):
    r"""p(x) = exp(-U(x)) / Z in the plane; its samples are noise, which a network pushes towards p.

        U_1 = ((|x| - 2) / 0.4)^2 / 2 - log(e^{-((x_1 - 2) / 0.6)^2 / 2} + e^{-((x_1 + 2) / 0.6)^2 / 2})
        U_2 = ((x_2 - w_1) / 0.4)^2 / 2
        U_3 = -log(e^{-((x_2 - w_1) / 0.35)^2 / 2} + e^{-((x_2 - w_1 + w_2) / 0.35)^2 / 2})
        U_4 = -log(e^{-((x_2 - w_1) / 0.4)^2 / 2} + e^{-((x_2 - w_1 + w_3) / 0.35)^2 / 2})

    with w_1 = sin(pi x_1 / 2), w_2 = 3 e^{-((x_1 - 1) / 0.6)^2 / 2}, w_3 = 3 sigmoid((x_1 - 1) / 0.3). ``number`` says
    which. As they stand in the paper 2 to 4 belong to no density: they never rise along x_1. Here a wall
    ((|x_1| - 4) / 0.4)^2 / 2 beyond |x_1| = 4, the edge of the paper's pictures, is added to them. Z is the sum over a
    lattice of spacing 0.01 on [-8, 8]^2.

    An epoch is as long as ``train_size`` says, of noise that is drawn anew; the ``test_size`` points that divergences
    are measured with are always the same.

    Reference: Rezende, Mohamed, "Variational Inference with Normalizing Flows", ICML 2015, arXiv:1505.05770, table 1.
    """

    shape = (2,)
    least: ClassVar = {**DensityData.least, "train_size": 1, "test_size": 1}

    def __init__(
        self,
        *,
        number: Literal[1, 2, 3, 4] = 1,
        train_size: int = 10_000,
        test_size: int = 10_000,
        **options: Any,
    ) -> None:
        self.number, self.train_size, self.test_size = number, train_size, test_size
        super().__init__(**options)

    def energy(self, x: Tensor) -> Tensor:
        """U of each row of (batch, 2)."""
        return ENERGIES[self.number](*x.unbind(1))

    @cached_property
    def log_normaliser(self) -> float:
        """log Z."""
        axis = torch.linspace(-BOX, BOX, POINTS, dtype=torch.float64)
        total = torch.logsumexp(-ENERGIES[self.number](axis[:, None], axis[None, :]).flatten(), 0)
        return float(total) + 2 * math.log(2 * BOX / (POINTS - 1))

    def load(self, train: bool) -> Rows:
        stream = generator(DATA_SEED, int(train))
        return Rows(torch.randn(self.train_size if train else self.test_size, 2, generator=stream))
