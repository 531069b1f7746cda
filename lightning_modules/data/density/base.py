"""Base class of data sets for density estimation."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_modules.data.datamodule import SplitData


@dataclass(frozen=True)
class Rows:
    """Vectors in memory, float32 (samples, dims)."""

    values: Tensor

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, chosen: Tensor) -> Tensor:
        return self.values[chosen]

    def part(self, chosen: Tensor) -> Rows:
        return Rows(self.values[chosen])


class DensityData(SplitData):
    """Samples x of a density, which may be an invertible map of the original data v.

    Densities are reported for v: log p(v) = log p(x) + ``log_jacobian(x)``.
    """

    picture: tuple[int, int] | None = None
    """Height and width, where a sample is an image."""

    unit: str = ""
    """Unit of the columns of x, where it is not that of v."""

    def log_jacobian(self, x: Tensor) -> Tensor:
        """log |det dx/dv| at each row of x, (batch,)."""
        return x.new_zeros(len(x))

    def original(self, x: Tensor) -> Tensor:
        """v of each row of x."""
        return x

    @property
    def columns(self) -> list[str]:
        """Names of the entries of v."""
        return [f"x{i}" for i in range(1, self.shape[0] + 1)]


def uniform(n: int, stream: torch.Generator, *more: int) -> Tensor:
    return torch.rand(n, *more, generator=stream)


def normal(n: int, stream: torch.Generator, *more: int) -> Tensor:
    return torch.randn(n, *more, generator=stream)
