"""Memory and time of the gradient modes against depth, on RevNets.

    python benchmarks/gradient_modes.py [repetitions]

Prints bytes kept for backward at n and 8n steps a flow (live storages), and step times relative to backprop.
"""

from __future__ import annotations

import sys

import torch
from _interleave import conditions, interleaved
from torch import nn
from torch.nn import functional

from architectures import create_model
from architectures.ledger import memory

SHAPE, BATCH, MODES = (3, 32, 32), 32, ("backprop", "checkpoint", "reversible")


def network(steps: int, gradient: str) -> nn.Module:
    return create_model("revnet", grid={"name": "uniform", "steps": steps}, gradient=gradient)


def main() -> None:
    repetitions = int(sys.argv[1]) if len(sys.argv) > 1 else 15
    torch.set_num_threads(1)
    for mode in MODES:
        few, many = (memory(network(steps, mode), SHAPE, BATCH) for steps in (2, 16))
        kept, peak = (many[key] / few[key] for key in ("bytes_kept", "peak_bytes"))
        print(
            f"{mode:>10}: bytes kept {few['bytes_kept'] / 1e6:.1f} MB at 2 steps a flow, "
            f"{many['bytes_kept'] / 1e6:.1f} MB at 16: x {kept:.2f}; peak x {peak:.2f}"
        )
    x, y = torch.randn(BATCH, *SHAPE), torch.randint(10, (BATCH,))

    def step(model: nn.Module) -> None:
        model.zero_grad(set_to_none=True)
        functional.cross_entropy(model(x), y).backward()

    models = {mode: network(6, mode) for mode in MODES}
    for threads in (1, 2):
        torch.set_num_threads(threads)
        ratios = interleaved({mode: lambda m=m: step(m) for mode, m in models.items()}, repetitions)
        told = ", ".join(f"{mode} {ratio:.2f}" for mode, ratio in ratios.items())
        print(f"step time relative to backprop, 6 steps a flow, batch {BATCH}: {told} ({conditions()})")


if __name__ == "__main__":
    main()
