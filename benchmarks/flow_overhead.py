"""What flows cost: resnet20 built from flows against the same network as a plain nn.Sequential.

    python benchmarks/flow_overhead.py [repetitions]

Prints dispatched operations of a training step, and the ratio of the times of forward + backward at batch 128 on
32x32 images (median of interleaved repetitions) with one thread and with two.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from _interleave import conditions, interleaved
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from architectures import create_model


class Residual(nn.Module):
    """x + F(x), with a projection in the shortcut of the first block of a stage."""

    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            nn.BatchNorm2d(channels), nn.ReLU(), nn.Conv2d(channels, out, 3, stride, 1, bias=False),
            nn.BatchNorm2d(out), nn.ReLU(), nn.Conv2d(out, out, 3, 1, 1, bias=False),
        )  # fmt: skip
        self.path: nn.Module | None = None
        if stride > 1:
            self.path = nn.Sequential(
                nn.BatchNorm2d(channels), nn.ReLU(), nn.Conv2d(channels, out, 1, stride, bias=False)
            )

    def forward(self, x: Tensor) -> Tensor:
        return (x if self.path is None else self.path(x)) + self.branch(x)


class Mean(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean(dim=(2, 3))


def plain_resnet20() -> nn.Sequential:
    blocks = [Residual(16, 16, 1) for _ in range(3)]
    for channels, out in ((16, 32), (32, 64)):
        blocks += [Residual(channels, out, 2), Residual(out, out, 1), Residual(out, out, 1)]
    stem = nn.Conv2d(3, 16, 3, padding=1, bias=False)
    return nn.Sequential(stem, *blocks, nn.BatchNorm2d(64), nn.ReLU(), Mean(), nn.Linear(64, 10))


class Operations(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        return func(*args, **(kwargs or {}))


def main() -> None:
    repetitions = int(sys.argv[1]) if len(sys.argv) > 1 else 40
    networks = {"plain": plain_resnet20(), "flows": create_model("resnet20")}
    x, y = torch.randn(128, 3, 32, 32), torch.randint(10, (128,))

    def step(network: nn.Module) -> None:
        network.zero_grad(set_to_none=True)
        functional.cross_entropy(network(x), y).backward()

    sizes = {name: sum(p.numel() for p in network.parameters()) for name, network in networks.items()}
    print(f"parameters: {sizes}")
    for name, network in networks.items():
        with Operations() as counter:
            step(network)
        print(f"dispatched operations of a training step, {name}: {counter.count}")
    for threads in (1, 2):
        torch.set_num_threads(threads)
        ratios = interleaved({n: lambda m=m: step(m) for n, m in networks.items()}, repetitions)
        print(f"flows / plain, forward + backward, batch 128: {ratios['flows']:.3f} ({conditions()})")
    for name in ("resnet20", "polynet", "rk_resnet", "lm_resnet", "revnet"):
        gradient = {"gradient": "backprop"}
        compiled = torch.compile(create_model(name, width=0.25, **gradient), fullgraph=True, backend="aot_eager")
        compiled(x[:4]).sum().backward()
        print(f"torch.compile(fullgraph=True) of {name} with backprop: one graph")


if __name__ == "__main__":
    main()
