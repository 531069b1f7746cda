"""What the trainer's options do beside Lightning's own."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.utilities.types import STEP_OUTPUT
from torch import nn

from lightning_modules.tasks.lightning_attributes import network_of
from schemes.errors import SchemenetError, unknown
from schemes.flow import Flow
from schemes.ivp.trajectory_flow import TrajectoryFlow


class Compiled(Callback):
    """``torch.compile`` in place, which renames nothing in the checkpoint.

    Under backprop the whole network is one graph. A gradient mode that evaluates f again in backward would fall into
    many small ones; there the fields are compiled, and its loop calls them. On an adaptive grid each step is a graph.
    """

    def __init__(self, backend: str) -> None:
        if backend not in torch.compiler.list_backends(exclude_tags=()):
            known = torch.compiler.list_backends()  # without those for debugging
            raise SchemenetError(f"trainer.compile: {unknown('backend of torch.compile', backend, known)}")
        self.backend = backend

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if stage == "fit":
            compile_network(network_of(pl_module), self.backend)


def compile_network(network: nn.Module, backend: str = "inductor") -> None:
    """Compile the whole network, or its fields where the flows' gradient modes own their loops."""
    if any(isinstance(module, TrajectoryFlow) for module in network.modules()):
        raise SchemenetError(
            "trainer.compile: this network's flow is solved along the times of its data, in steps that no graph knows "
            "beforehand; use trainer.compile=false"
        )
    flows = [module for module in network.modules() if isinstance(module, Flow)]
    if implicit := [type(flow.scheme).__name__ for flow in flows if flow.scheme.implicit]:
        raise SchemenetError(
            f"trainer.compile: {implicit[0]} differentiates f twice to solve its steps, and torch.compile's graphs are "
            "differentiated once only; use trainer.compile=false or an explicit scheme"
        )
    if any(flow.adaptive for flow in flows):
        for flow in flows:
            flow.compile_steps(backend)
        return
    if not any(flow.gradient.recomputes for flow in flows):
        network.compile(backend=backend)
        return
    # A graph for each node of a field that reads the time, in training, in its recomputation and in evaluation.
    config: Any = torch._dynamo.config
    config.recompile_limit = max(config.recompile_limit, 3 * sum(len(flow.visits) for flow in flows))
    # Random numbers as in eager mode: forward and recomputation are different graphs, and must draw the same.
    options = {"fallback_random": True} if backend == "inductor" else None
    for flow in flows:
        for field in flow.bank.fields:
            field.compile(backend=backend, options=options)


class TestedLast(Callback):
    """Reads the test set after the last epoch, however seldom it is read before: a result is that of the last weights.

    Looked at after each batch: a run that goes on from the middle of an epoch begins none. And before all: one that was
    stopped while the test set was read has no batch left.
    """

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._evaluate_last(trainer)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: STEP_OUTPUT, batch: Any, batch_idx: int
    ) -> None:
        self._evaluate_last(trainer)

    def _evaluate_last(self, trainer: pl.Trainer) -> None:
        if trainer.current_epoch + 1 == trainer.max_epochs:
            trainer.check_val_every_n_epoch = 1


class ChannelsLast(Callback):
    """Convolutions in the memory format (batch, height, width, channels); their weights bring their inputs to it."""

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        pl_module.to(memory_format=torch.channels_last)
