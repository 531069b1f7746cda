"""Differential equations, fields and measures that several test files share."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from schemes.base import Scheme
from schemes.flow import Flow
from schemes.integrate import integrate
from schemes.node import Node
from schemes.registry import SCHEMES
from schemes.state import State

TIME = 4.0
START = (-0.46, 0.2)
"""Where the error of every method is asymptotic: tsit5's leading term is small along many other orbits."""


def called(spec: Any) -> str:
    """How a scheme with its parameters is called in a test's id."""
    return "-".join(str(value) for value in spec.values()) if isinstance(spec, dict) else str(spec)


def pendulum(node: Node, y: Tensor) -> Tensor:
    """u'' = -sin u + cos(2t)/2 as a first-order system."""
    angle, speed = y
    return torch.stack((speed, -torch.sin(angle) + math.cos(2 * node.t) / 2))


def separable_pendulum(node: Node, y: Tensor) -> Tensor:
    """The same equation, each component driven by the other one."""
    return y if node.component == 0 else -torch.sin(y) + math.cos(2 * node.t) / 2


def linear_system(node: Node, y: Tensor) -> Tensor:
    """u' = A(t) u, homogeneous and non-autonomous; A(t) and A(s) do not commute."""
    first, second = y
    return torch.stack((-0.3 * first + (1 + math.sin(2 * node.t) / 2) * second, -first - 0.2 * second))


def problem_of(scheme: Scheme) -> tuple[Callable[[Node, State], State], State]:
    """The equation and initial value on which a scheme's declared order holds."""
    start = torch.tensor(START, dtype=torch.float64)
    if scheme.components > 1:
        return separable_pendulum, (start[0], start[1])
    return (linear_system if scheme.problem == "linear" else pendulum), start


def vector(state: State) -> Tensor:
    return torch.stack(state) if isinstance(state, tuple) else state


@cache
def exact(linear: bool) -> Tensor:
    start = torch.tensor(START, dtype=torch.float64)
    return integrate(SCHEMES.build("dopri5"), linear_system if linear else pendulum, start, TIME, 1024)


def error(scheme: Scheme, steps: int) -> float:
    """Distance from the solution at the end, on the scheme's own problem."""
    f, start = problem_of(scheme)
    with torch.no_grad():
        found = vector(integrate(scheme, f, start, TIME, steps))
    return float((found - exact(f is linear_system)).norm())


class Tanh(nn.Module):
    """A smooth small field without buffers, time added to the argument."""

    def __init__(self, channels: int, scale: float = 0.6) -> None:
        super().__init__()
        self.linear = nn.Linear(channels, channels)
        nn.init.normal_(self.linear.weight, std=scale)

    def forward(self, node: Node, y: Tensor) -> Tensor:
        return torch.tanh(self.linear(y) + math.sin(node.t))


class Noisy(nn.Module):
    """A field with all that a second evaluation can get wrong: batch norm, dropout and time."""

    def __init__(self, channels: int, dropout: float = 0.5) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(channels)
        self.first = nn.Linear(channels, 2 * channels)
        self.dropout = nn.Dropout(dropout)
        self.second = nn.Linear(2 * channels, channels)

    def forward(self, node: Node, y: Tensor) -> Tensor:
        return self.second(self.dropout(torch.tanh(self.first(self.norm(y)) + math.sin(node.t))))


CHANNELS = 6


def make_flow(
    field: Callable[..., nn.Module] = Tanh,
    scheme: Any = "heun",
    gradient: Any = "backprop",
    steps: int = 4,
    time: float | None = 1.0,
    channels: int = CHANNELS,
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
    field_options: dict[str, Any] | None = None,
    **options: Any,
) -> Flow:
    """A flow on (batch, channels) tensors, the same for the same seed."""
    parts = SCHEMES.build(scheme).components
    torch.manual_seed(seed)
    flow = Flow(
        lambda node: field(channels // parts, **(field_options or {})),
        steps,
        scheme=scheme,
        gradient=gradient,
        grid={"name": "uniform", "time": time},
        **options,
    )
    return flow.to(dtype)


def batch(size: int = 8, channels: int = CHANNELS, seed: int = 1, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(size, channels, generator=generator, dtype=dtype)


def weighted(output: Tensor) -> Tensor:
    """A loss whose gradient is different for each entry."""
    return (output * torch.linspace(-1, 1, output.numel(), dtype=output.dtype).view_as(output).cos()).sum()


def distance(found: Tensor, expected: Tensor) -> float:
    """Relative distance of two tensors."""
    with torch.no_grad():
        return float((found - expected).norm() / expected.norm().clamp_min(1e-300))


class Storages(TorchDispatchMode):
    """Watches the storages that operations make: the bytes of those that still exist, and their peak."""

    def __init__(self, *known: Tensor) -> None:
        super().__init__()
        self.known = {t.untyped_storage()._cdata for t in known}
        self.seen: dict[int, tuple[StorageWeakRef, int]] = {}
        self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for t in result if isinstance(result, tuple | list) else (result,):
            if isinstance(t, Tensor) and (key := t.untyped_storage()._cdata) not in self.known:
                storage = t.untyped_storage()
                if key not in self.seen or self.seen[key][0].expired():
                    self.seen[key] = StorageWeakRef(storage), storage.nbytes()
                    self.peak = max(self.peak, self.alive())
        return result

    def alive(self, *without: Tensor) -> int:
        self.seen = {key: (ref, size) for key, (ref, size) in self.seen.items() if not ref.expired()}
        skip = {t.untyped_storage()._cdata for t in without}
        return sum(size for key, (_, size) in self.seen.items() if key not in skip)


def bytes_kept(flow: Flow, x: Tensor) -> int:
    """Bytes alive after a forward for backward's sake: no parameters, buffers, inputs, outputs."""
    with Storages(x, *flow.parameters(), *flow.buffers()) as storages:
        output = flow(x)
    return storages.alive(output)
