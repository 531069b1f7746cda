"""Callbacks that log the learning rate, the norm of the gradient, and the seconds of an epoch."""

from __future__ import annotations

import time

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback

from lightning_modules.tasks.lightning_attributes import logs_this_step


class OptimizationLogger(Callback):
    """Logs ``train/lr`` and ``train/grad_norm`` of an optimiser step, as often as the loss.

    The norm is the Euclidean one over all weights, of the gradient of the loss before it is clipped.
    """

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        if not logs_this_step(trainer):
            return
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        pl_module.log_dict({"train/lr": float(optimizer.param_groups[0]["lr"]), "train/grad_norm": norm})


class EpochTimer(Callback):
    """Logs ``time/epoch``, the seconds of an epoch with its evaluation.

    Of an epoch in which the run has resumed, only those since then. No two runs have the same.
    """

    def __init__(self) -> None:
        self._begin = 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._begin = time.monotonic()

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._begin = time.monotonic()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        metrics = {"time/epoch": round(time.monotonic() - self._begin, 3), "epoch": trainer.current_epoch}
        for logger in trainer.loggers:
            logger.log_metrics(metrics, step=trainer.global_step)
