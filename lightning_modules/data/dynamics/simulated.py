"""Simulated trajectories of known dynamical systems from random initial states."""

from __future__ import annotations

import math
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor

from architectures.dynamics.systems import System
from architectures.registry import SYSTEMS
from lightning_modules.config.registries import DATA
from lightning_modules.data.datamodule import DATA_SEED, SplitData
from lightning_modules.data.loader import generator
from lightning_modules.data.series.series_set import Series, SeriesSet
from schemes.ivp.solve import solve

SLOTS = 8
"""Irregular times are drawn from SLOTS times as many equal ones, so that the union over a batch stays small."""

GRID = {"name": "adaptive", "rtol": 1e-10, "atol": 1e-12}


class TrajectoryData(SplitData):
    """Series of which the first state is observed and the later ones are targets.

    Times count from the first state of each. ``span`` is the length of the training series; those of the test set may
    be longer, and are evaluated within the span and beyond it.
    """

    span: float
    channels: tuple[str, ...]

    @property
    def context(self) -> dict[str, Any]:
        return {"num_classes": 0, "in_chans": len(self.channels), "image_size": None}

    @property
    def system(self) -> System | None:
        """The equation behind the data, where it is known."""
        return None


class Generated(TrajectoryData):
    """``times`` equal steps of time over ``span``, or as many times drawn at random (``irregular``).

    The test set has other initial states of the same kind, and is ``beyond`` spans longer. ``noise``, in standard
    deviations of each channel, is added to the training set alone: the dynamics are evaluated, not the noise. The same
    for every run. Solved by dopri8 to 1e-10 in double precision.
    """

    kind: ClassVar[str]
    least: ClassVar = {
        **SplitData.least, "train_size": 1, "test_size": 1, "times": 1, "span": 1e-6, "beyond": 0, "noise": 0
    }  # fmt: skip

    def __init__(
        self,
        *,
        train_size: int = 256,
        test_size: int = 64,
        times: int = 16,
        span: float = 0.5,
        beyond: float = 3.0,
        irregular: bool = False,
        noise: float = 0.0,
        **options: Any,
    ) -> None:
        self.train_size, self.test_size = train_size, test_size
        self.times, self.span, self.beyond = times, span, beyond
        self.irregular, self.noise = irregular, noise
        self.channels = self.system.channels
        self.shape = (times, len(self.channels))
        super().__init__(**options)

    @property
    def system(self) -> System:
        return self._system

    @cached_property
    def _system(self) -> System:
        return SYSTEMS.build(self.equation()).double().requires_grad_(False)

    def equation(self) -> str | dict[str, Any]:
        """Name of the system, with its options where there are any."""
        return self.kind

    def starts(self, u: Tensor) -> Tensor:
        """Initial states from uniform numbers in [0, 1), (series, channels) both."""
        raise NotImplementedError

    def load(self, train: bool) -> SeriesSet:
        count, length = (self.train_size, 1.0) if train else (self.test_size, 1.0 + self.beyond)
        stream = generator(DATA_SEED, int(train))
        y0 = self.starts(torch.rand(count, len(self.channels), generator=stream, dtype=torch.float64))
        times, indices = self._moments(count, length, stream)
        states = trajectories(self.system, y0, times)
        if train and self.noise:
            spread = states.flatten(0, 1).std(0)
            states = states + self.noise * spread * torch.randn(states.shape, generator=stream, dtype=states.dtype)
        seen = torch.ones_like(states[0], dtype=torch.bool)
        series = [Series(times, path.float(), seen).at(chosen) for path, chosen in zip(states, indices, strict=True)]
        first, later = slice(0, 1), slice(1, None)
        return SeriesSet([one.at(first) for one in series], [one.at(later) for one in series])

    def _moments(self, count: int, length: float, stream: torch.Generator) -> tuple[Tensor, Tensor]:
        """All times at which anything is observed, and which of them each series has, (series, its times)."""
        total = math.ceil(length * self.times)
        if not self.irregular:
            return self.span / self.times * torch.arange(total + 1, dtype=torch.float64), torch.arange(
                total + 1
            ).expand(count, -1)
        slots = SLOTS * total
        drawn = torch.rand(count, slots, generator=stream).argsort(1)[:, :total].sort(1).values + 1
        indices = torch.cat((torch.zeros(count, 1, dtype=torch.long), drawn), 1)
        return self.span / self.times / SLOTS * torch.arange(slots + 1, dtype=torch.float64), indices


@torch.no_grad()
def trajectories(system: System, y0: Tensor, times: Tensor) -> Tensor:
    """The solutions from states (series, channels) at times; (series, times, channels)."""
    return solve(system, y0, times, scheme="dopri8", grid=GRID).values.transpose(0, 1)


@DATA.register("lorenz", task="trajectory")
class LorenzData(Generated):
    """On the attractor of Lorenz's system; the error of any model grows like exp(0.9 t) beyond what it was shown."""

    kind = "lorenz"

    def starts(self, u: Tensor) -> Tensor:
        near = 10 * (2 * u - 1) + torch.tensor([0.0, 0.0, 25.0], dtype=u.dtype)
        return trajectories(self.system, near, torch.tensor([0.0, 5.0], dtype=u.dtype))[:, -1]


@DATA.register("lotka_volterra", task="trajectory")
class LotkaVolterraData(Generated):
    """Orbits of prey and predators around their equilibrium (3, 1.5), whose periods are about 3."""

    kind = "lotka_volterra"

    def __init__(self, *, span: float = 2.0, **options: Any) -> None:
        super().__init__(span=span, **options)

    def starts(self, u: Tensor) -> Tensor:
        return torch.tensor([1.0, 0.5], dtype=u.dtype) + u * torch.tensor([4.0, 2.5], dtype=u.dtype)


@DATA.register("pendulum", task="trajectory")
class PendulumData(Generated):
    """Swings without turning over; with ``damping`` the speed is slowed in proportion."""

    kind = "pendulum"
    least: ClassVar = {**Generated.least, "damping": 0}

    def __init__(self, *, span: float = 4.0, damping: float = 0.0, **options: Any) -> None:
        self.damping = damping
        super().__init__(span=span, **options)

    def equation(self) -> dict[str, Any]:
        return {"name": self.kind, "damping": self.damping}

    def starts(self, u: Tensor) -> Tensor:
        return (2 * u - 1) * torch.tensor([2.0, 1.0], dtype=u.dtype)


@DATA.register("spiral", task="trajectory")
class SpiralData(Generated):
    """The slowly inward spirals of the cubic system in the plane, from radius 1 to 2."""

    kind = "spiral"

    def __init__(self, *, span: float = 1.0, **options: Any) -> None:
        super().__init__(span=span, **options)

    def starts(self, u: Tensor) -> Tensor:
        angle, radius = 2 * math.pi * u[:, 0], 1 + u[:, 1]
        return torch.stack((radius * angle.cos(), radius * angle.sin()), 1)
