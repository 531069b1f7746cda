"""Builds Lightning's trainer from the trainer section of a config."""

from __future__ import annotations

import logging
import math
import os
import re
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning.accelerators import AcceleratorRegistry
from pytorch_lightning.callbacks import Callback, EMAWeightAveraging
from pytorch_lightning.strategies.launchers import _SubprocessScriptLauncher

from lightning_modules.callbacks.compile import ChannelsLast, Compiled, TestedLast
from lightning_modules.callbacks.progress_bar import TrainingBar
from lightning_modules.config.registries import TRAINERS
from lightning_modules.machine import cores, has_glibc, keep_freed_pages
from lightning_modules.tasks.lightning_attributes import callbacks_of
from lightning_modules.training.checkpointing import WholeCheckpoints
from schemes.errors import SchemenetError

MOST = 1024
"""The most devices of one machine, machines and threads: a larger number is a mistake that would exhaust it."""


@TRAINERS.register("default")
def trainer(
    folder: Path,
    callbacks: list[Any],
    logger: Any,
    *,
    max_epochs: int = 2,
    accelerator: str = "auto",
    devices: int | str = 1,
    num_nodes: int = 1,
    strategy: str = "auto",
    sync_batchnorm: bool = False,
    precision: str = "32-true",
    gradient_clip_val: float | None = None,
    accumulate_grad_batches: int = 1,
    deterministic: bool = False,
    limit_train_batches: int | float | None = None,
    limit_test_batches: int | float | None = None,
    overfit_batches: int | float = 0,
    log_every_n_steps: int = 10,
    check_test_every_n_epoch: int = 1,
    checkpoint_every_n_steps: int | None = 500,
    progress_bar: bool | None = None,
    threads: int | None = None,
    oversubscribe: bool = False,
    compile: bool | str = False,
    channels_last: bool = False,
    keep_pages: bool = False,
    ema: float | None = None,
) -> pl.Trainer:
    """A ``pl.Trainer``; parameters without a description have the meaning of its arguments.

    Args:
        folder: the run folder.
        callbacks: of the run; those of the options are added.
        logger: of ``pl.Trainer``.
        max_epochs: of the training.
        accelerator: of ``pl.Trainer``.
        devices: those of each machine; each trains on different batches, and gradients are those of the joined batch.
        num_nodes: machines.
        strategy: of ``pl.Trainer``; not one that spawns or forks processes.
        sync_batchnorm: whether the statistics of batch norm are those of the joined batch; on GPUs only.
        precision: of ``pl.Trainer``.
        gradient_clip_val: the largest norm of a gradient.
        accumulate_grad_batches: batches of an optimiser step; the last step of an epoch takes the mean of those that
            are left.
        deterministic: of ``pl.Trainer``.
        limit_train_batches: batches of an epoch, or a share of them.
        limit_test_batches: batches of an evaluation, or a share of them.
        overfit_batches: train on the same few batches in every epoch; the whole test set is evaluated.
        log_every_n_steps: optimiser steps between two rows of metrics.
        check_test_every_n_epoch: epochs between two evaluations for the learning curve; the last is always evaluated.
        checkpoint_every_n_steps: optimiser steps between two checkpoints within an epoch; null: at its end alone.
        progress_bar: null draws one only on a terminal.
        threads: CPU threads of torch; null leaves their number.
        oversubscribe: whether there may be more processes on CPUs than cores.
        compile: true: torch.compile with its default backend; a word: with that backend.
        channels_last: whether convolutions use the memory format channels_last.
        keep_pages: whether freed memory stays with the process, under Linux's glibc: faster steps of large batches on
            a CPU.
        ema: the decay of an exponential moving average of the weights and of batch norm's statistics, one update for
            each optimiser step; the average is evaluated and kept.

    Raises:
        SchemenetError: with all mistakes.
    """
    wrong = [
        f"trainer.{key}: expected at least 1, got {value}"
        for key, value in {
            "max_epochs": max_epochs,
            "num_nodes": num_nodes,
            "accumulate_grad_batches": accumulate_grad_batches,
            "log_every_n_steps": log_every_n_steps,
            "check_test_every_n_epoch": check_test_every_n_epoch,
            "checkpoint_every_n_steps": 1 if checkpoint_every_n_steps is None else checkpoint_every_n_steps,
            "threads": 1 if threads is None else threads,
        }.items()
        if value < 1
    ]
    large = {"devices": devices, "num_nodes": num_nodes, "threads": threads}
    wrong += [
        f"trainer.{key}: expected at most {MOST:,}, got {int(value):,}"
        for key, value in large.items()
        if re.fullmatch("[0-9]{1,20}", str(value)) and int(value) > MOST
    ]
    wrong += [
        f"trainer.{key}: expected to be above 0, got {value}"
        for key, value in {"limit_train_batches": limit_train_batches, "limit_test_batches": limit_test_batches}.items()
        if value is not None and value <= 0
    ]  # fmt: skip
    if gradient_clip_val is not None and not 0 < gradient_clip_val < math.inf:
        wrong.append(f"trainer.gradient_clip_val: expected to be above 0, got {gradient_clip_val}")
    if ema is not None and not 0 < ema < 1:
        wrong.append(f"trainer.ema: expected a decay between 0 and 1, e.g. 0.999, got {ema}")
    if strategy.endswith(("spawn", "fork", "notebook")):
        wrong.append(f"trainer.strategy: {strategy} is not supported: it begins processes within the training; use ddp")
    if accelerator not in (usable := _accelerators()):
        wrong.append(
            f"trainer.accelerator: this machine has no {accelerator!r}; expected one of {', '.join(map(repr, usable))}"
        )
    if keep_pages and not has_glibc():
        wrong.append("trainer.keep_pages: expected false on this machine: it is an option of glibc, Linux's C library")
    if wrong:
        raise SchemenetError("\n".join(wrong))
    if keep_pages:
        keep_freed_pages()
    if threads is not None:
        torch.set_num_threads(threads)
    _quiet()
    bar = sys.stdout.isatty() if progress_bar is None else progress_bar
    # Named, because Lightning's default depends on which packages are installed.
    callbacks = [*_of_options(compile, channels_last), *([TrainingBar()] if bar else []), TestedLast(), *callbacks]
    try:
        made = pl.Trainer(
            default_root_dir=folder, callbacks=callbacks, logger=logger, max_epochs=max_epochs, accelerator=accelerator,
            devices=devices, num_nodes=num_nodes, strategy=strategy, sync_batchnorm=sync_batchnorm,
            precision=precision,  # pyright: ignore[reportArgumentType]  # a user's word, which Lightning checks
            gradient_clip_val=gradient_clip_val,
            accumulate_grad_batches=accumulate_grad_batches, deterministic=deterministic,
            limit_train_batches=limit_train_batches, limit_val_batches=limit_test_batches,
            overfit_batches=overfit_batches, log_every_n_steps=log_every_n_steps,
            check_val_every_n_epoch=check_test_every_n_epoch,
            enable_progress_bar=bar,
            enable_model_summary=False, num_sanity_val_steps=0, plugins=[WholeCheckpoints(), *_cluster()],
        )  # fmt: skip
    except (ValueError, TypeError, RuntimeError, MisconfigurationException) as error:
        raise SchemenetError(f"trainer: {error}") from error
    if overfit_batches:  # for which Lightning would also measure so many batches only
        made.limit_val_batches = 1.0 if limit_test_batches is None else limit_test_batches
    if sync_batchnorm and made.world_size > 1 and made.strategy.root_device.type == "cpu":
        raise SchemenetError("trainer.sync_batchnorm: torch has it on GPUs only; norm=group needs none")
    if ema is not None:
        # Without a device the average would stay on the CPU, where the module is built.
        # The last callback, so that at the end the checkpoint is written before the average replaces the weights.
        callbacks_of(made).append(EMAWeightAveraging(decay=ema, device=made.strategy.root_device))
    return made


def processes_to_begin(options: Mapping[str, Any]) -> int:
    """The number of processes that this one has to begin for a run; 1 where it trains itself.

    Args:
        options: the trainer's section of the config.

    Raises:
        SchemenetError: they are too many for this machine, or the other machines need a launcher.
    """
    strategy = TRAINERS.build(options, folder=Path(), callbacks=[], logger=False).strategy
    launcher = strategy.launcher
    if not isinstance(launcher, _SubprocessScriptLauncher) or launcher.cluster_environment.creates_processes_externally:
        return 1
    if (machines := options.get("num_nodes", 1)) > 1 and not {"NODE_RANK", "GROUP_RANK"} & set(os.environ):
        raise SchemenetError(
            f"trainer.num_nodes: {machines} machines would wait for each other: torchrun, srun or "
            "launcher=slurm begin the processes on each of them; expected 1 without"
        )
    most = launcher.num_processes if options.get("oversubscribe") else max(2, cores())
    if strategy.root_device.type == "cpu" and launcher.num_processes > most:
        raise SchemenetError(
            f"trainer.devices: {launcher.num_processes} processes for {cores()} CPU cores; expected at most {most}, "
            "or trainer.oversubscribe=true as well"
        )
    return launcher.num_processes


def _accelerators() -> list[str]:
    """The values of ``trainer.accelerator`` that this machine has a device for."""
    classes = {name: AcceleratorRegistry[name]["accelerator"] for name in sorted(AcceleratorRegistry)}
    available = [name for name, accelerator in classes.items() if accelerator.is_available()]
    return ["auto", *available, *(["gpu"] if {"cuda", "mps"} & set(available) else [])]


def _cluster() -> list[ClusterEnvironment]:
    """Under Slurm, the environment that replaces Lightning's default.

    Its requeueing would be a second one with different checkpoints; and a job of one task with several devices begins
    its processes itself.
    """
    if TorchElasticEnvironment.detect() or not SLURMEnvironment.detect():
        return []
    if os.environ["SLURM_NTASKS"] == "1":
        return [LightningEnvironment()]
    return [SLURMEnvironment(auto_requeue=False)]


def _of_options(compile: bool | str, channels_last: bool) -> list[Callback]:
    callbacks: list[Callback] = []
    if channels_last:
        callbacks.append(ChannelsLast())
    if compile:
        callbacks.append(Compiled(compile if isinstance(compile, str) else "inductor"))
    return callbacks


def _quiet() -> None:
    """Turn off Lightning's advertisements and the advice that does not apply here."""
    for package in ("pytorch_lightning", "lightning_fabric"):
        logging.getLogger(package).setLevel(logging.WARNING)
    for text in (
        ".*requested to overfit but enabled.*",  # the data module shuffles nothing then
        ".*does not have many workers.*",  # small sets live in memory, there are no workers to add
        ".*`srun` command is available.*",  # on the login node of a cluster; runs are submitted by launcher=slurm
        ".*GPU available but not used.*",
        ".*LeafSpec.*",  # Lightning's own use of a deprecated torch name
        ".*The number of training batches.*",
        ".*use `self.log.*sync_dist=True.*",  # what is logged is that of all processes already
        ".*Grad strides do not match bucket view strides.*",  # of kernels 1x1, whose strides mean nothing
        ".*Experiment logs directory.*",
        ".*Checkpoint directory.*exists and is not empty.*",
    ):
        warnings.filterwarnings("ignore", text)
