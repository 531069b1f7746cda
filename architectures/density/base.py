"""Base classes of densities: invertible maps between data and noise."""

from __future__ import annotations

import abc
import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from architectures.model import Model
from schemes.errors import SchemenetError


def standard_normal(z: Tensor) -> Tensor:
    """log N(z; 0, I) of each row of (batch, dims), in nats."""
    return -0.5 * (z.square().sum(1) + z.shape[1] * math.log(2 * math.pi))


class DensityModel(Model):
    r"""A density on R^d, of data x that an invertible map makes of standard normal noise z.

        log p(x) = log N(z; 0, I) + log |det dz/dx|

    Shapes: x and z (batch, dims); densities and log-determinants (batch,), in nats.
    """

    estimated: bool = False
    """Whether likelihoods are estimates in evaluation too."""

    def __init__(self, dims: int) -> None:
        super().__init__()
        self.dims = dims

    @abc.abstractmethod
    def to_noise(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """z and log |det dz/dx|."""

    @abc.abstractmethod
    def from_noise(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """x and log |det dx/dz|."""

    @abc.abstractmethod
    def along(self, z: Tensor, stops: int) -> list[tuple[str, Tensor]]:
        """States from noise to data, both ends included.

        Args:
            z: noise, (batch, dims).
            stops: how many states.

        Returns:
            Pairs of a label, such as "t = 0.50" or "layer 2 of 8", and a state.
        """

    def forward(self, x: Tensor) -> Tensor:
        return self.log_density(x)

    def log_density(self, x: Tensor) -> Tensor:
        """log p(x) in nats."""
        return self.likelihood(x)[0]

    def likelihood(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """log p(x) in nats, and its standard error; None where it is exact."""
        z, log_det = self.to_noise(x)
        return standard_normal(z) + log_det, None

    def loss(self, batch: Tensor) -> Tensor:
        """The mean negative log density of data."""
        return -self.log_density(batch).mean()

    def matching_loss(self, energy: Callable[[Tensor], Tensor], z: Tensor) -> Tensor:
        """E[log q(x) + U(x)] over samples x of this density q: KL(q || p) - log Z for p = exp(-U) / Z.

        Args:
            energy: U, (batch, dims) -> (batch,).
            z: noise, (batch, dims).
        """
        x, log_det = self.from_noise(z)
        return (standard_normal(z) - log_det + energy(x)).mean()

    @torch.no_grad()
    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """n samples, (n, dims). The generator must be on the device of the weights."""
        return self.from_noise(torch.randn(n, self.dims, generator=generator, **self.like()))[0]

    def random_batch(self, shape: tuple[int, ...], batch_size: int) -> Any:
        return torch.randn(batch_size, *shape, **self.like())


def two_parts(dims: int) -> tuple[int, int]:
    """The dimensions of the two parts of a coupled state."""
    if dims < 2:
        raise SchemenetError(f"couples two parts of a vector, and this data has {dims} column; use ffjord or cnf")
    return dims - dims // 2, dims // 2


def part(x: Tensor) -> tuple[Tensor, Tensor]:
    """Columns 0, 2, 4, ... and columns 1, 3, 5, ... of (batch, dims)."""
    return x[:, ::2], x[:, 1::2]


def join(a: Tensor, b: Tensor) -> Tensor:
    """The inverse of :func:`part`."""
    columns = [column for pair in zip(a.unbind(1), b.unbind(1), strict=False) for column in pair]
    return torch.stack([*columns, *a.unbind(1)[b.shape[1] :]], 1)


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
