"""Throughput and memory on an NVIDIA GPU; refuses where there is none.

    python benchmarks/gpu.py [steps]

Prints images a second of a training step for each architecture (eager, channels_last, compiled, bf16, and all three),
and the allocator's peak of a training step against depth for the four gradient modes.
"""

from __future__ import annotations

import contextlib
import statistics
import sys
from collections.abc import Callable, Iterator
from datetime import date

import torch
from torch import nn
from torch.nn import functional

from architectures import create_model
from lightning_modules.callbacks.compile import compile_network
from schemes import GRADIENTS

ARCHITECTURES = ("resnet20", "lm_resnet20", "polynet20", "rk_resnet", "revnet38", "ode_resnet")
VARIANTS = ("eager", "channels_last", "compiled", "bf16", "bf16 channels_last compiled")
BATCH, SHAPE, CLASSES = 512, (3, 32, 32), 10
DEPTHS = (2, 4, 8, 16)


def training_step(network: nn.Module, variant: str, device: torch.device, batch: int = BATCH) -> Callable[[], None]:
    """One forward and backward pass, as a function of nothing."""
    network.to(device).train()
    x = torch.randn(batch, *SHAPE, device=device)
    y = torch.randint(CLASSES, (batch,), device=device)
    if "channels_last" in variant:
        network, x = network.to(memory_format=torch.channels_last), x.to(memory_format=torch.channels_last)
    if "compiled" in variant:
        torch.compiler.reset()
        compile_network(network)

    def step() -> None:
        network.zero_grad(set_to_none=True)
        with torch.autocast(device.type, torch.bfloat16, enabled="bf16" in variant):
            loss = functional.cross_entropy(network(x), y)
        loss.backward()

    return step


def throughput(step: Callable[[], None], steps: int, batch: int = BATCH, warm_up: int = 10) -> float:
    """Images a second, by the median of the GPU's own times."""
    for _ in range(warm_up):
        step()
    events = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(steps)]
    for begin, end in events:
        begin.record()
        step()
        end.record()
    torch.cuda.synchronize()
    return 1000 * batch / statistics.median(begin.elapsed_time(end) for begin, end in events)


@contextlib.contextmanager
def peak() -> Iterator[list[int]]:
    """The peak of the allocated bytes inside the context, above those before it."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before, peak_bytes = torch.cuda.memory_allocated(), [0]
    yield peak_bytes
    torch.cuda.synchronize()
    peak_bytes[0] = torch.cuda.max_memory_allocated() - before


def peak_of(gradient: str, steps: int, device: torch.device, batch: int = BATCH) -> int:
    """Peak bytes of a training step of one network that all four gradient modes take."""
    network = create_model("ode_resnet", scheme="verlet", steps=steps, gradient=gradient)
    step = training_step(network, "eager", device, batch)
    step()  # gradients and the workspaces of kernels are there before it counts
    with peak() as peak_bytes:
        step()
    return peak_bytes[0]


def row(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def main() -> int:
    if not torch.cuda.is_available():
        print("benchmarks/gpu.py: no CUDA device here, nothing is measured (docs/gpu.md says what would be)")
        return 0
    steps = int(sys.argv[1]) if len(sys.argv) > 1 else 50
    device = torch.device("cuda")
    torch.backends.cudnn.benchmark = True
    print(f"{date.today()}, {torch.cuda.get_device_name()}, torch {torch.__version__}, CUDA {torch.version.cuda}")
    print(f"\nImages a second, forward and backward, batch {BATCH}, median of {steps} steps\n")
    print(row(["architecture", *VARIANTS]))
    print(row(["---"] * (1 + len(VARIANTS))))
    for name in ARCHITECTURES:
        rates = [throughput(training_step(create_model(name), variant, device), steps) for variant in VARIANTS]
        print(row([name, *(f"{rate:,.0f}" for rate in rates)]), flush=True)
    print(f"\nPeak MB of a training step above parameters and inputs, ode_resnet by verlet, batch {BATCH}\n")
    print(row(["gradient", *(f"{depth} steps" for depth in DEPTHS)]))
    print(row(["---"] * (1 + len(DEPTHS))))
    for gradient in GRADIENTS:
        print(row([gradient, *(f"{peak_of(gradient, depth, device) / 1e6:,.1f}" for depth in DEPTHS)]), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
