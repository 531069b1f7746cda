"""Densities by a number of invertible layers."""

from __future__ import annotations

import abc
from collections.abc import Iterator

import torch
from torch import Tensor

from architectures.density import DensityModel


class LayeredDensity(DensityModel):
    """A density whose map is one invertible layer after another."""

    @abc.abstractmethod
    def generate(self, z: Tensor) -> Iterator[Tensor]:
        """The states from noise to data: after each layer, the last of them x."""

    @torch.no_grad()
    def along(self, z: Tensor, stops: int) -> list[tuple[str, Tensor]]:
        states = [z, *self.generate(z)]
        last = len(states) - 1
        chosen = sorted({round(i * last / (stops - 1)) for i in range(stops)})
        return [(f"layer {i} of {last}" if i else "noise", states[i]) for i in chosen]
