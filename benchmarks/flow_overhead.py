"""What flows cost: networks built from flows against the same ones as plain modules, and compiled against not.

    python benchmarks/flow_overhead.py [repetitions]
    python benchmarks/flow_overhead.py [repetitions] --compiled

Prints dispatched operations of a training step of resnet20, and ratios of times (medians of interleaved repetitions):
of its training and inference at batch 128 on 32x32 images with one thread and with two, and of resnet50's against
timm's pre-activation one at batch 4 on 224x224 images with one. With ``--compiled`` those of training by Inductor's
code against eager training instead, under three gradient modes.
"""

from __future__ import annotations

import sys
import time
from typing import Any

import timm
import torch
from _interleave import conditions, interleaved
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from architectures import create_model
from lightning_modules.callbacks.compile import compile_network


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


def train(network: nn.Module, x: Tensor, labels: Tensor) -> None:
    network.zero_grad(set_to_none=True)
    functional.cross_entropy(network(x), labels).backward()


@torch.no_grad()
def infer(network: nn.Module, x: Tensor, labels: Tensor) -> None:
    network(x)


def ratios(networks: dict[str, nn.Module], batch: tuple[Tensor, Tensor], repetitions: int) -> None:
    """Print the times of all in those of the first."""
    first, *others = networks
    for name, job in (("forward + backward", train), ("inference", infer)):
        jobs = {name: lambda network=network, job=job: job(network, *batch) for name, network in networks.items()}
        clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
        values = interleaved(jobs, repetitions, clock=clock)
        for other in others:
            print(f"{other} / {first}, {name}: {values[other]:.3f} ({conditions()})", flush=True)


def compiled(repetitions: int) -> None:
    batch = torch.randn(128, 3, 32, 32), torch.randint(10, (128,))
    torch.set_num_threads(1)
    for name, gradient in (("resnet20", "backprop"), ("resnet20", "checkpoint"), ("revnet", "reversible")):
        networks = {"eager": create_model(name, gradient=gradient), "compiled": create_model(name, gradient=gradient)}
        compile_network(networks["compiled"])
        print(f"{name}, {gradient}:", end=" ")
        jobs = {name: lambda network=network: train(network, *batch) for name, network in networks.items()}
        values = interleaved(jobs, repetitions, clock=time.process_time)
        print(f"compiled / eager, forward + backward, batch 128: {values['compiled']:.3f} ({conditions()})", flush=True)


def main() -> None:
    arguments = [argument for argument in sys.argv[1:] if not argument.startswith("--")]
    repetitions = int(arguments[0]) if arguments else 40
    if "--compiled" in sys.argv:
        compiled(repetitions)
        return
    networks = {"plain": plain_resnet20(), "flows": create_model("resnet20")}
    batch = torch.randn(128, 3, 32, 32), torch.randint(10, (128,))
    sizes = {name: sum(p.numel() for p in network.parameters()) for name, network in networks.items()}
    print(f"parameters: {sizes}")
    for name, network in networks.items():
        with Operations() as counter:
            train(network, *batch)
        print(f"dispatched operations of a training step, {name}: {counter.count}")
    for threads in (1, 2):
        torch.set_num_threads(threads)
        print("resnet20, batch 128:")
        ratios(networks, batch, repetitions)
    torch.set_num_threads(1)
    networks = {
        "timm": timm.create_model("resnetv2_50", num_classes=1000),
        "flows": create_model("resnet50_v2", num_classes=1000),
    }
    sizes = {name: sum(p.numel() for p in network.parameters()) for name, network in networks.items()}
    print(f"resnet50, batch 4, parameters: {sizes}")
    ratios(networks, (torch.randn(4, 3, 224, 224), torch.randint(1000, (4,))), max(3, repetitions // 8))
    for name in ("resnet20", "polynet", "rk_resnet", "lm_resnet", "revnet"):
        captured = torch.compile(
            create_model(name, width=0.25, gradient="backprop"), fullgraph=True, backend="aot_eager"
        )
        captured(batch[0][:4]).sum().backward()
        print(f"torch.compile(fullgraph=True) of {name} with backprop: one graph")


if __name__ == "__main__":
    main()
