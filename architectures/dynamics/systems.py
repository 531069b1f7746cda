"""Known differential equations: they simulate data, and are the known part of a model's right-hand side."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from architectures.registry import SYSTEMS


class System(nn.Module):
    """y' = f(t, y) on states (..., channels), with named constants, which are parameters."""

    channels: ClassVar[tuple[str, ...]]

    def __init__(self, **constants: float) -> None:
        super().__init__()
        for name, value in constants.items():
            self.register_parameter(name, nn.Parameter(torch.tensor(float(value))))

    def forward(self, t: float | Tensor, y: Tensor) -> Tensor:
        return torch.stack(self.rates(*y.unbind(-1)), -1)

    def rates(self, *channels: Tensor) -> tuple[Tensor, ...]:
        """The rate of each channel; none of these equations reads the time."""
        raise NotImplementedError


@SYSTEMS.register("lorenz")
class Lorenz(System):
    """x' = sigma (y - x), y' = x (rho - z) - y, z' = x y - beta z; chaotic at these constants.

    Args:
        sigma: the Prandtl number.
        rho: the Rayleigh number over the critical one.
        beta: the aspect of the convection cells.

    Reference: Lorenz, "Deterministic Nonperiodic Flow", Journal of the Atmospheric Sciences 20, 1963.
    """

    channels = ("x", "y", "z")
    sigma: Tensor
    rho: Tensor
    beta: Tensor

    def __init__(self, sigma: float = 10.0, rho: float = 28.0, beta: float = 2.6666666666666665) -> None:
        super().__init__(sigma=sigma, rho=rho, beta=beta)

    def rates(self, *channels: Tensor) -> tuple[Tensor, ...]:
        x, y, z = channels
        return self.sigma * (y - x), x * (self.rho - z) - y, x * y - self.beta * z


@SYSTEMS.register("lotka_volterra", sizes={"lotka_volterra_growth": {"beta": 0.0, "delta": 0.0}})
class LotkaVolterra(System):
    """u' = alpha u - beta u v, v' = delta u v - gamma v: prey u and their predators v.

    ``lotka_volterra_growth`` is the part in which each species is alone.

    Args:
        alpha: growth of the prey.
        beta: loss of prey by encounters.
        gamma: decline of the predators.
        delta: growth of predators by encounters.

    Reference: Lotka, "Elements of Physical Biology", 1925; Volterra, "Fluctuations in the Abundance of a Species
    considered Mathematically", Nature 118, 1926.
    """

    channels = ("prey", "predators")
    alpha: Tensor
    beta: Tensor
    gamma: Tensor
    delta: Tensor

    def __init__(self, alpha: float = 1.5, beta: float = 1.0, gamma: float = 3.0, delta: float = 1.0) -> None:
        super().__init__(alpha=alpha, beta=beta, gamma=gamma, delta=delta)

    def rates(self, *channels: Tensor) -> tuple[Tensor, ...]:
        prey, predators = channels
        met = prey * predators
        return self.alpha * prey - self.beta * met, self.delta * met - self.gamma * predators


@SYSTEMS.register("pendulum")
class Pendulum(System):
    """theta' = omega, omega' = -gravity sin theta - damping omega.

    Args:
        gravity: g / length.
        damping: friction.

    Reference: Hairer, Lubich, Wanner, "Geometric Numerical Integration", Springer 2006, section I.1.
    """

    channels = ("theta", "omega")
    gravity: Tensor
    damping: Tensor

    def __init__(self, gravity: float = 1.0, damping: float = 0.0) -> None:
        super().__init__(gravity=gravity, damping=damping)

    def rates(self, *channels: Tensor) -> tuple[Tensor, ...]:
        theta, omega = channels
        return omega, -self.gravity * theta.sin() - self.damping * omega


@SYSTEMS.register("spiral")
class Spiral(System):
    """u' = -inward u^3 - turn v^3, v' = turn u^3 - inward v^3.

    Args:
        inward: rate of the decay towards 0.
        turn: rate of the rotation.

    Reference: Chen, Rubanova, Bettencourt, Duvenaud, NeurIPS 2018, arXiv:1806.07366 (the spiral of the authors'
    ``ode_demo.py``, at these constants).
    """

    channels = ("u", "v")
    inward: Tensor
    turn: Tensor

    def __init__(self, inward: float = 0.1, turn: float = 2.0) -> None:
        super().__init__(inward=inward, turn=turn)

    def rates(self, *channels: Tensor) -> tuple[Tensor, ...]:
        u, v = (channel**3 for channel in channels)
        return -self.inward * u - self.turn * v, self.turn * u - self.inward * v
