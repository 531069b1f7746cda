"""Time and memory of the gradient modes against depth, and those of MemCNN and RevLib on the same network.

    python benchmarks/gradient_modes.py [repetitions] [depth ...]

RevNet units: flows of 8, 32 and 128 symplectic Euler steps, or of other depths, F and G twice norm-relu-conv on 32
channels each. Then, for the first two depths, Heun steps on 32 channels, and the same made reversible by
``reversible_wrap``, which takes two base steps a step.

For each mode: the time of forward + backward on one thread's CPU, the median over rounds in which all take turns of the
ratio to backprop; bytes kept, which are those alive between forward and backward with the flow's input and output among
them; and the most bytes alive at any time, without the parameters' gradients. Bytes are counted in states, one state
being the input of a flow. The row "floor" is backprop and one more forward pass without a graph: no mode that evaluates
each f again can take less. All modes are first checked to give backprop's gradient. MemCNN and RevLib have rows where
they are installed: ``pip install -e ".[bench]"``.
"""

from __future__ import annotations

import contextlib
import gc
import importlib.util
import sys
import time
import warnings
from collections.abc import Iterator
from typing import Any
from unittest import mock

import torch
from _interleave import conditions, interleaved
from torch import Tensor, nn

from architectures.costs.ledger import LiveBytes
from schemes import Flow

BATCH, CHANNELS, SIDE = 16, 32, 32  # channels of a field, and pixels of a side
MODES = ("backprop", "checkpoint", "reversible")


class Branch(nn.Sequential):
    """F or G of a RevNet unit: called by a flow as ``f(node, y)``, by MemCNN as ``f(y)``."""

    def __init__(self, channels: int) -> None:
        layers = [
            (nn.BatchNorm2d(channels), nn.ReLU(), nn.Conv2d(channels, channels, 3, padding=1, bias=False))
            for _ in range(2)
        ]
        super().__init__(*(layer for group in layers for layer in group))

    def forward(self, *arguments: Any) -> Tensor:
        return super().forward(arguments[-1])


def flow(depth: int, gradient: str, scheme: str = "symplectic_euler") -> Flow:
    torch.manual_seed(0)
    return Flow(lambda node: Branch(CHANNELS), depth, scheme=scheme, gradient=gradient)


class MemCNN(nn.Module):
    """The same network with the same weights, each unit undone by MemCNN."""

    def __init__(self, depth: int) -> None:
        from memcnn import AdditiveCoupling, InvertibleModuleWrapper

        super().__init__()
        same = flow(depth, "backprop")
        self.bank = same.bank  # first, so that parameters stand in the flow's order
        fields = [same.bank.at(node) for node in same.visits]
        units = zip(fields[::2], fields[1::2], strict=True)
        self.units = nn.Sequential(*(InvertibleModuleWrapper(AdditiveCoupling(f, g)) for f, g in units))

    def forward(self, x: Tensor) -> Tensor:
        return self.units(x)


class RevLib(nn.Module):
    """The same network with the same weights, undone by RevLib, whose branches are in the same order."""

    def __init__(self, depth: int) -> None:
        from revlib import ReversibleSequential

        super().__init__()
        same = flow(depth, "backprop")
        self.bank = same.bank  # first, so that parameters stand in the flow's order
        self.units = ReversibleSequential(*(self.bank.at(node) for node in same.visits))

    def forward(self, x: Tensor) -> Tensor:
        return self.units(x)


LIBRARIES: dict[str, type[nn.Module]] = {"MemCNN": MemCNN, "RevLib": RevLib}


class ShrinkingBytes(LiveBytes):
    """Also sees storages that are emptied while they live, which is how MemCNN frees its inputs."""

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        resize = torch.UntypedStorage.resize_

        def resized(storage: torch.UntypedStorage, size: int) -> torch.UntypedStorage:
            self._gone(storage._cdata, storage.nbytes())
            result = resize(storage, size)
            if size:
                self._known.add(storage._cdata)
                self.live += size
                self.peak = max(self.peak, self.live)
            return result

        with mock.patch.object(torch.UntypedStorage, "resize_", resized), self:
            yield

    def _gone(self, key: int, size: int) -> None:
        if key in self._known:
            super()._gone(key, size)


def batch(channels: int) -> Tensor:
    return torch.randn(BATCH, channels, SIDE, SIDE, generator=torch.Generator().manual_seed(1))


def train(network: nn.Module, x: Tensor) -> None:
    network.zero_grad(set_to_none=True)
    # A copy of the input, as a layer before would make it: MemCNN empties its input.
    network(x.clone().requires_grad_()).square().mean().backward()


def floor(network: nn.Module, x: Tensor) -> None:
    with torch.no_grad():
        network(x)
    train(network, x)


def memory(network: nn.Module, x: Tensor) -> tuple[float, float]:
    """Bytes kept after forward and peak bytes of forward and backward, in states."""
    network.zero_grad(set_to_none=True)
    gc.collect()
    measure = ShrinkingBytes([x, *network.parameters(), *network.buffers()])
    with measure.watching():
        loss = network(x.clone().requires_grad_()).square().mean()
        gc.collect()
        kept = measure.live - loss.untyped_storage().nbytes()
        loss.backward()
    of_parameters = sum(p.nbytes for p in network.parameters())
    return kept / x.nbytes, (measure.peak - of_parameters) / x.nbytes


def gap(network: nn.Module, reference: nn.Module, x: Tensor) -> float:
    """Relative distance of the parameters' gradients of two networks."""
    gradients = []
    for each in (network, reference):
        train(each, x)
        gradients.append(torch.cat([p.grad.flatten() for p in each.parameters() if p.grad is not None]))
    return float((gradients[0] - gradients[1]).norm() / gradients[1].norm())


def table(depth: int, networks: dict[str, nn.Module], x: Tensor, rounds: int) -> None:
    """One row for each network; the times are relative to the first one's."""
    first = next(iter(networks.values()))
    costs = {name: memory(network, x) for name, network in networks.items()}
    jobs = {name: lambda n=network: train(n, x) for name, network in networks.items()}
    ratios = interleaved({**jobs, "floor": lambda: floor(first, x)}, rounds, warm_up=1, clock=time.process_time)
    for name, (kept, peak) in costs.items():
        print(f"{depth:>5} {name:>28} {ratios[name]:>5.2f} {kept:>7.1f} {peak:>7.1f}", flush=True)
    print(f"{depth:>5} {'floor':>28} {ratios['floor']:>5.2f}", flush=True)


def main() -> None:
    repetitions, *depths = map(int, sys.argv[1:] or [24])
    depths = depths or [8, 32, 128]
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", category=FutureWarning, module="memcnn")
    libraries = {name: made for name, made in LIBRARIES.items() if importlib.util.find_spec(name.lower())}
    for name in LIBRARIES.keys() - libraries.keys():
        print(f'{name} is not installed, its rows are left out: pip install -e ".[bench]"')
    print(f"{conditions()}, batch {BATCH}, {SIDE}x{SIDE}, {CHANNELS} channels a field")
    print(f"{'depth':>5} {'':>28} {'time':>5} {'kept':>7} {'peak':>7}")
    for depth in depths:
        networks: dict[str, nn.Module] = {mode: flow(depth, mode) for mode in MODES}
        networks |= {name: made(depth) for name, made in libraries.items()}
        x = batch(2 * CHANNELS)
        for name, network in networks.items():
            assert gap(network, networks["backprop"], x) < 1e-3, f"{name} misses backprop's gradient"
        table(depth, networks, x, max(5, repetitions * 8 // depth))
    for depth in depths[:2]:
        networks = {
            "heun backprop": flow(depth, "backprop", "heun"),
            "heun checkpoint": flow(depth, "checkpoint", "heun"),
            "reversible_wrap backprop": flow(depth, "backprop", "reversible_wrap"),
            "reversible_wrap reversible": flow(depth, "reversible", "reversible_wrap"),
        }
        table(depth, networks, batch(CHANNELS), max(5, repetitions * 8 // depth))


if __name__ == "__main__":
    main()
