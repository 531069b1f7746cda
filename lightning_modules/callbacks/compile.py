"""Callbacks of the trainer options that Lightning lacks: compilation, memory format, a last evaluation."""

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

    Under backprop the whole network is one graph. A gradient mode that evaluates f again in backward would be split
    into many small graphs; there the fields are compiled, and its loop calls them. On an adaptive grid each step is a
    graph.

    Args:
        backend: the name of a backend of torch.compile.

    Raises:
        SchemenetError: there is no such backend.
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
    """Compile a network in place: all of it, or its fields where a gradient mode runs the loop over the steps.

    Args:
        network: a network whose flows are known at construction.
        backend: the name of a backend of torch.compile.

    Raises:
        SchemenetError: the network solves along the times of its data by steps that are not captured, or a scheme is
            implicit.
    """
    if paths := [module for module in network.modules() if isinstance(module, TrajectoryFlow)]:
        for path in paths:
            try:
                path.compile_steps(backend)
            except SchemenetError as error:
                raise SchemenetError(f"trainer.compile: {error}; use trainer.compile=false") from error
        return
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
    """Forces an evaluation after the last epoch, whatever ``check_val_every_n_epoch``: a result is of the last weights.

    Checked after each batch, because a run that resumes within an epoch begins none; and at the start of training,
    because one that was stopped during the evaluation has no batch left.
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
