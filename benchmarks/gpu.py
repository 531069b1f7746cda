"""Throughput, solves and memory on an NVIDIA GPU, in less than ten minutes.

    python benchmarks/gpu.py [--smallest]

Prints, each as a table with its csv (``--csv FOLDER``):
images a second of a training step for each architecture (eager, channels_last, compiled, bf16, and all three), and of
timm's network beside ours;
solves with adaptive steps: the time of each, eager, by compiled steps, and by compiled steps as CUDA graphs, and how
often the host reads from the device;
the peak of a training step's bytes against depth for the four gradient modes, by the allocator.

``--smallest`` takes next to nothing of all, on any device: to see that it works before a GPU is there. On a CPU bytes
are those that the ledger counts. Without it a machine that has no GPU is refused.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import timm
import torch
from _rows import show
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from architectures import create_model
from architectures.costs.ledger import LiveBytes
from lightning_modules.callbacks.compile import compile_network
from schemes import GRADIENTS, solve

VARIANTS = ("eager", "channels_last", "compiled", "bf16", "bf16 channels_last compiled")
TIMM = {"timm resnet50": "resnet50", "timm resnetv2_50": "resnetv2_50"}
CLASSES = 10


@dataclass(frozen=True)
class Sizes:
    """How much is measured; images are square, with three channels."""

    small: tuple[str, ...]
    """Networks for small images."""
    large: tuple[str, ...]
    """Networks for large ones, timm's among them."""
    variants: tuple[str, ...]
    small_images: tuple[int, int]
    """Their number in a batch, and their height and width."""
    large_images: tuple[int, int]
    oscillators: tuple[int, ...]
    depths: tuple[int, ...]
    steps: int
    warm_up: int


FULL = Sizes(
    small=("resnet20", "lm_resnet20", "polynet20", "rk_resnet", "revnet38", "ode_resnet"),
    large=("resnet50", "timm resnet50", "resnet50_v2", "timm resnetv2_50"),
    variants=VARIANTS, small_images=(512, 32), large_images=(128, 224), oscillators=(256, 65536),
    depths=(2, 4, 8, 16), steps=30, warm_up=10,
)  # fmt: skip
SMALLEST = Sizes(
    small=("resnet20",), large=("resnet50", "timm resnet50"), variants=("eager", "bf16 channels_last"),
    small_images=(4, 32), large_images=(2, 32), oscillators=(4,), depths=(2, 4), steps=2, warm_up=1,
)  # fmt: skip


class Reads(TorchDispatchMode):
    """Counts the numbers that the host asks a tensor for, which on a GPU waits for all work before them."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


def network_named(name: str) -> nn.Module:
    return (
        timm.create_model(TIMM[name], num_classes=CLASSES) if name in TIMM else create_model(name, num_classes=CLASSES)
    )


def training_step(
    network: nn.Module, variant: str, images: tuple[int, int], device: torch.device
) -> Callable[[], None]:
    """One forward and backward pass, as a function of nothing."""
    batch, side = images
    network.to(device).train()
    x = torch.randn(batch, 3, side, side, device=device)
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


def seconds(job: Callable[[], object], sizes: Sizes, device: torch.device) -> float:
    """The median time of a job: by the GPU's own clock, or by the host's."""
    for _ in range(sizes.warm_up):
        job()
    if device.type == "cuda":
        events = [
            (torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(sizes.steps)
        ]
        for begin, end in events:
            begin.record()
            job()
            end.record()
        torch.cuda.synchronize()
        return statistics.median(begin.elapsed_time(end) for begin, end in events) / 1000
    taken = []
    for _ in range(sizes.steps):
        begin = time.perf_counter()
        job()
        taken.append(time.perf_counter() - begin)
    return statistics.median(taken)


def throughput(name: str, sizes: Sizes, device: torch.device) -> dict[str, str]:
    images = sizes.large_images if name in sizes.large else sizes.small_images
    rates = {}
    for variant in sizes.variants:
        step = training_step(network_named(name), variant, images, device)
        rates[variant] = f"{images[0] / seconds(step, sizes, device):,.0f}"
    return {"architecture": name, "batch": f"{images[0]} of {images[1]}x{images[1]}", **rates}


def van_der_pol(t: Tensor, y: Tensor) -> Tensor:
    x, v = y.unbind(-1)
    return torch.stack((v, 2 * (1 - x * x) * v - x), -1)


def solves(oscillators: int, sizes: Sizes, device: torch.device) -> dict[str, str]:
    """A row of the solves: milliseconds and reads of each, without gradients."""
    y0 = torch.tensor([[2.0, 0.0]], device=device).repeat(oscillators, 1)
    cells = {"oscillators": str(oscillators)}
    backends: dict[str, bool | str] = {"eager": False}
    if sizes is FULL:
        backends |= {"compiled": True, "CUDA graphs": "cudagraphs"}
    for name, backend in backends.items():

        def job(backend: bool | str = backend) -> None:
            with torch.no_grad():
                solve(
                    van_der_pol, y0, [0.0, 5.0], grid={"name": "adaptive", "rtol": 1e-5, "atol": 1e-5}, compile=backend
                )

        milliseconds = 1000 * seconds(job, sizes, device)
        with Reads() as reads:
            job()
        cells |= {f"{name}, ms": f"{milliseconds:.2f}", f"{name}, reads": str(reads.count)}
    return cells


def peak_bytes(gradient: str, steps: int, sizes: Sizes, device: torch.device) -> int:
    """Peak bytes of a training step of one network that all four gradient modes take, above those before it."""
    network = create_model("ode_resnet", scheme="verlet", steps=steps, gradient=gradient)
    step = training_step(network, "eager", sizes.small_images, device)
    step()  # gradients and the workspaces of kernels are there before it counts
    if device.type == "cpu":
        with LiveBytes([*network.parameters(), *network.buffers()]) as counted:
            step()
        return counted.peak
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    step()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def main(words: list[str]) -> int:
    parser = argparse.ArgumentParser(description="Throughput, solves and memory on an NVIDIA GPU.")
    parser.add_argument("--smallest", action="store_true", help="next to nothing of all, on any device")
    parser.add_argument("--csv", type=Path, help="folder for the tables as csv")
    options = parser.parse_args(words)
    if not torch.cuda.is_available() and not options.smallest:
        print("benchmarks/gpu.py: no CUDA device here, nothing is measured; --smallest tries the script on a CPU")
        return 2
    sizes = SMALLEST if options.smallest else FULL
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.backends.cudnn.benchmark = True
    machine = f"{torch.cuda.get_device_name()}, CUDA {torch.version.cuda}" if device.type == "cuda" else "CPU"
    print(f"{date.today()}, {machine}, torch {torch.__version__}, timm {timm.__version__}")

    def table(name: str, title: str, rows: list[dict[str, str]]) -> None:
        print(f"\n{title}")
        show(rows, options.csv / f"{name}.csv" if options.csv else None)

    if options.csv:
        options.csv.mkdir(parents=True, exist_ok=True)
    table(
        "throughput", f"Images a second, forward and backward, median of {sizes.steps} steps",
        [throughput(name, sizes, device) for name in (*sizes.small, *sizes.large)],
    )  # fmt: skip
    table(
        "solves", f"van der Pol oscillators by dopri5 at 1e-5 to t = 5, median of {sizes.steps} solves",
        [solves(oscillators, sizes, device) for oscillators in sizes.oscillators],
    )  # fmt: skip
    peaks = [
        {"gradient": mode, **{f"{d} steps": f"{peak_bytes(mode, d, sizes, device) / 1e6:,.1f}" for d in sizes.depths}}
        for mode in GRADIENTS
    ]
    table(
        "memory",
        f"Peak MB of a training step above parameters and inputs, ode_resnet by verlet, batch {sizes.small_images[0]}",
        peaks,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
