"""Fields, flows and measures that several test files share."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from schemes.core.node import Node
from schemes.flow import Flow
from schemes.registry import SCHEMES


def spec_id(spec: Any) -> str:
    """The id of a test of a scheme with its parameters."""
    return "-".join(str(value) for value in spec.values()) if isinstance(spec, dict) else str(spec)


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


@dataclass
class Run:
    """What one forward and backward leave behind."""

    output: Tensor
    random: tuple[Tensor, Tensor]
    """The random state after forward and after backward."""
    gradients: dict[str, Tensor | None]
    buffers: dict[str, Tensor]


def train(
    network: nn.Module,
    *inputs: Tensor,
    seed: int = 5,
    backward: Callable[[Tensor], Any] = lambda output: weighted(output).backward(),
) -> Run:
    """One forward and backward, which must leave the inputs alone. The inputs after the first one are past states."""
    torch.manual_seed(seed)
    before = [(x, x.clone(), x._version) for x in inputs]
    output = network(inputs[0], inputs[1:]) if len(inputs) > 1 else network(*inputs)
    end, after_forward = output.detach().clone(), torch.get_rng_state()
    backward(output)
    assert torch.equal(output, end)
    assert all(torch.equal(x, copied) and x._version == version for x, copied, version in before)
    random = after_forward, torch.get_rng_state()
    return Run(end, random, gradients(network, *inputs), {name: b.clone() for name, b in network.named_buffers()})


def gradients(network: nn.Module, *inputs: Tensor) -> dict[str, Tensor | None]:
    """Of inputs, by their position, and of parameters, by their name."""
    return {name: t.grad for name, t in [*((str(i), x) for i, x in enumerate(inputs)), *network.named_parameters()]}


def assert_same(actual: Run, expected: Run, tolerance: float = 1e-10) -> None:
    """Output, random state and buffers to the bit, gradients to ``tolerance``."""
    assert torch.equal(actual.output, expected.output)
    assert all(map(torch.equal, actual.random, expected.random))
    assert actual.buffers.keys() == expected.buffers.keys()
    for name, buffer in expected.buffers.items():
        assert torch.equal(actual.buffers[name], buffer), name
    assert actual.gradients.keys() == expected.gradients.keys()
    # A gradient that is zero but for rounding (a bias before batch norm) is held against the largest one.
    scale = max((float(g.norm()) for g in expected.gradients.values() if g is not None), default=0.0)
    for name, reference in expected.gradients.items():
        gradient = actual.gradients[name]
        assert (gradient is None) == (reference is None), name
        if gradient is not None and reference is not None:
            assert gradient.dtype == reference.dtype, name
            assert float((gradient - reference).norm()) <= tolerance * max(float(reference.norm()), 1e-3 * scale), name


def distance(actual: Tensor, expected: Tensor) -> float:
    """Relative distance of two tensors."""
    with torch.no_grad():
        return float((actual - expected).norm() / expected.norm().clamp_min(1e-300))


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
