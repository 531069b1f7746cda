"""Re-estimates the running statistics of batch norm on training batches."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from architectures.model import Model
from lightning_modules.data.datamodule import SplitData
from lightning_modules.tasks.base import TaskModule


def estimate_statistics(
    module: TaskModule[Model], trainer: pl.Trainer, data: SplitData, batches: int
) -> dict[str, int] | None:
    """Give every batch norm the statistics of training batches at the nodes of evaluation.

    Training batches as the network saw them (shuffled, augmented if they were), but without noise on the steps.

    Args:
        module: whose batch norms are changed.
        trainer: gives device and precision.
        data: the training set.
        batches: how many to use, or all where they are fewer.

    Returns:
        The numbers of ``layers`` and ``batches``, and the ``batch_size``; None where there is no batch norm.
    """
    device, precision = trainer.strategy.root_device, trainer.precision_plugin
    loader = data.train_dataloader()
    count = min(batches, len(loader))

    def inputs() -> Iterable[Tensor]:
        for batch in itertools.islice(loader, count):
            moved = data.transfer_batch_to_device(batch, device, 0)
            yield precision.convert_input(data.on_after_batch_transfer(moved, 0)[0])

    network = precision.convert_module(module.network).to(device)
    with precision.forward_context():
        layers = reestimate(network, inputs())
    return {"layers": layers, "batches": count, "batch_size": data.batch_size} if layers else None


@torch.no_grad()
def reestimate(network: nn.Module, batches: Iterable[Tensor]) -> int:
    """Replace every running mean and variance by the plain average over batches.

    Unlike ``torch.optim.swa_utils.update_bn``, the rest of the network is in evaluation mode: dropout would inflate the
    variances.

    Args:
        network: left in evaluation mode.
        batches: its inputs.

    Returns:
        The number of batch norms.
    """
    norms = list(norms_with_statistics(network).values())
    network.eval()
    if not norms:
        return 0
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # torch's word for a cumulative average
        norm.train()
    for inputs in batches:
        network(inputs)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    network.eval()
    return len(norms)


def norms_with_statistics(module: nn.Module) -> dict[str, _BatchNorm]:
    """The batch norms that keep running statistics, by name."""
    modules = module.named_modules()
    return {name: norm for name, norm in modules if isinstance(norm, _BatchNorm) and norm.track_running_stats}


def statistics_of(module: nn.Module) -> dict[str, Any]:
    """The entries of a module's state dict that are statistics of batch norms."""
    buffers = tuple(f"{name}." for name in norms_with_statistics(module))
    parameters = dict(module.named_parameters())
    return {k: v for k, v in module.state_dict().items() if k.startswith(buffers) and k not in parameters}
