"""The loader alone against the training step that it feeds: MNIST-size images, batch 128, resnet20.

    python benchmarks/loader.py [repetitions]

Prints how many times faster a batch is made (sliced, brought to float, normalised; and augmented as well) than it is
trained on.
"""

from __future__ import annotations

import itertools
import sys

import torch
from _interleave import conditions, interleaved
from torch.nn import functional

from architectures import create_model
from lightning_modules.data.supervised.mnist import MNIST

BATCH, SAMPLES = 128, 12_800


class RandomMNIST(MNIST):
    """Noise of MNIST's shape, so that no file is needed."""

    def missing(self) -> str | None:
        return None

    def load(self, train: bool) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.randint(256, (SAMPLES, 1, 28, 28), dtype=torch.uint8), torch.randint(10, (SAMPLES,))


def main() -> None:
    repetitions = int(sys.argv[1]) if len(sys.argv) > 1 else 30
    network = create_model("resnet20", in_chans=1)
    x, y = torch.randn(BATCH, 1, 28, 28), torch.randint(10, (BATCH,))

    def train() -> None:
        network.zero_grad(set_to_none=True)
        functional.cross_entropy(network(x), y).backward()

    def batches(augment: bool):
        data = RandomMNIST(batch_size=BATCH, augment=augment)
        data.setup()
        endless = itertools.chain.from_iterable(data.train_dataloader() for _ in itertools.count())
        return lambda: data.on_after_batch_transfer(next(endless), 0)

    jobs = {"training step": train, "plain": batches(False), "augmented": batches(True)}
    for threads in (1, 2):
        torch.set_num_threads(threads)
        ratios = interleaved(jobs, repetitions)
        for name in ("plain", "augmented"):
            print(f"a batch, {name}: {1 / ratios[name]:.0f} times faster than its training step ({conditions()})")


if __name__ == "__main__":
    main()
