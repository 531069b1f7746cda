"""Checkpoints from which a killed run resumes exactly: on a CPU it ends with the same weights, bit for bit."""

from __future__ import annotations

import random
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from lightning_fabric.plugins import TorchCheckpointIO
from pytorch_lightning.callbacks import Checkpoint, WeightAveraging
from pytorch_lightning.loops.progress import _StartedTracker
from torch import Tensor, distributed

from lightning_modules import stopping
from lightning_modules.data.loader import BatchLoader
from lightning_modules.loggers.csv import MetricsFile
from lightning_modules.machine import process_rank
from lightning_modules.storage.checkpoint_files import write_checkpoint
from lightning_modules.storage.run_files import CHECKPOINT, PREVIOUS_CHECKPOINT
from lightning_modules.tasks.lightning_attributes import callbacks_of
from schemes.errors import SchemenetError, StepLimitError, TimeLimitError


class WholeCheckpoints(TorchCheckpointIO):
    """Writes checkpoints atomically, and keeps the one before.

    Lightning's implementation writes by a temporary folder, which may be on another file system, and does not wait for
    the disk.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        path = Path(path)
        write_checkpoint(checkpoint, path, path.with_name(PREVIOUS_CHECKPOINT))


def load_plain(path: Path) -> Any:
    """The content of a file of torch, on the CPU; only plain data and tensors are ever unpickled.

    Raises:
        SchemenetError: it cannot be read, or contains something else.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # bytes that are no pickle fail in any way there is; what torch then advises is unsafe
        reason = error.strerror if isinstance(error, OSError) else type(error).__name__
        raise SchemenetError(
            f"{path} cannot be read as a checkpoint ({reason}): it is damaged, or something else"
        ) from error


def newest_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint of a folder that can be read, named ``last.ckpt``; a damaged one is reported and renamed.

    Raises SchemenetError where there are checkpoints and none can be read.
    """
    damaged: list[str] = []
    for path in (folder / CHECKPOINT, folder / PREVIOUS_CHECKPOINT):
        if not path.exists():
            continue
        try:
            checkpoint = load_plain(path)
        except SchemenetError as error:
            damaged.append(str(error))
            continue
        if not isinstance(checkpoint, dict) or "resuming" not in checkpoint:
            damaged.append(f"{path} holds no run that could resume")
            continue
        if damaged and process_rank() == 0:
            (folder / CHECKPOINT).replace(folder / f"{CHECKPOINT}.damaged")
            print(f"{damaged[0]}; the checkpoint before it is taken")
        return path.replace(folder / CHECKPOINT)  # by that name it is looked for if nothing is left to train
    if damaged:
        raise SchemenetError("\n".join([*damaged, "overwrite=true begins the run anew"]))
    return None


class Resumable(Checkpoint):
    """Writes ``last.ckpt`` at the end of each epoch and every so many steps, and resumes from it exactly.

    A checkpoint is taken between two optimiser steps, after the next batch was fetched and before it is used: the steps
    before are done and logged, and the batch depends on seed and epoch alone. In addition to Lightning's content
    (weights, optimiser, schedule, counters) it contains the random state of each process, the place in the epoch, the
    number of rows of ``metrics.csv`` and the latest metrics: plain data and tensors only, so that ``weights_only=True``
    loads it.

    Ctrl-C, SIGTERM and SIGHUP end the run after its step with a checkpoint, a second signal at once with the one
    before; with several processes, which would have to agree on a step, always at once. During an evaluation
    (Lightning's "validation") they leave a checkpoint from before it, and the run resumes by repeating it. A solve that
    reaches a limit leaves the checkpoint before its batch, or before the evaluation.

    Args:
        folder: the run folder.
        every_n_steps: optimiser steps between two checkpoints within an epoch; None: none.
    """

    def __init__(self, folder: Path, every_n_steps: int | None) -> None:
        self.path, self.every_n_steps = folder / CHECKPOINT, every_n_steps
        self.metrics: dict[str, Tensor] = {}
        self.has_resumed = False  # whether a step has begun after the checkpoint was loaded
        self._place: dict[str, int] | None = None  # in the training data, where the written checkpoint resumes
        self._before_evaluation: dict[str, Any] | None = None  # during an evaluation: the state from before it
        self._loaded: Mapping[str, Any] | None = None
        self._saved_step = 0
        self._has_ended = False  # whether the loaded checkpoint is of the end of the training
        self._stop_requested = False

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        files = [logger for logger in trainer.loggers if isinstance(logger, MetricsFile)]
        for file in files:
            file.sync()
        now = self._random_state_and_metrics(trainer) if self._before_evaluation is None else self._before_evaluation
        checkpoint["resuming"] = {
            "place": self._place,
            "random": _of_all_processes(now["random"]),
            "rows": [file.rows for file in files],
            "metrics": now["metrics"],
        }
        if self._before_evaluation is not None:
            _count_evaluation_as_begun(checkpoint["loops"]["fit_loop"])
        elif self._place is not None:
            _count_whole_steps(checkpoint["loops"]["fit_loop"], at_epoch_start=self._place["batch"] == 0)

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self._loaded = loaded = checkpoint["resuming"]
        self._saved_step, self._has_ended = checkpoint["global_step"], loaded["place"] is None
        self.metrics = {name: torch.as_tensor(value) for name, value in loaded["metrics"].items()}
        if (processes := len(loaded["random"])) != trainer.world_size:
            raise SchemenetError(
                f"{self.path.parent} holds a run on {processes} devices, which cannot resume on "
                f"{trainer.world_size}; overwrite=true begins it anew"
            )
        if trainer.is_global_zero:
            files = [logger for logger in trainer.loggers if isinstance(logger, MetricsFile)]
            for file, rows in zip(files, loaded["rows"], strict=False):
                file.keep(rows)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._loaded is not None and (place := self._loaded["place"]) is not None:
            # Not by Lightning, which restores a loader before it has read a batch, when the schedule needs its length.
            assert isinstance(trainer.train_dataloader, BatchLoader)
            trainer.train_dataloader.load_state_dict(place)
            if trainer.is_global_zero:
                steps = int(trainer.estimated_stepping_batches)
                print(f"resumes from epoch {place['epoch']}, step {trainer.global_step} of {steps}", flush=True)
        if trainer.world_size == 1 and threading.current_thread() is threading.main_thread():
            stopping.handle(self._request_stop)  # Lightning puts the old handlers back

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self._restore_random_state(trainer)
        if batch_idx % trainer.accumulate_grad_batches:
            return
        step = trainer.global_step
        due = batch_idx == 0 or (self.every_n_steps is not None and step % self.every_n_steps == 0)
        if (due or self._stop_requested) and step > self._saved_step:
            self._save(trainer, {"epoch": trainer.current_epoch, "batch": batch_idx})
        if self._stop_requested:
            raise KeyboardInterrupt

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._loaded is not None:
            # One batch counts for the whole test set: Lightning resumes only an evaluation that has begun.
            counts = trainer.fit_loop.epoch_loop.val_loop.batch_progress.total
            assert isinstance(counts, _StartedTracker)
            counts.ready = counts.started = counts.completed
        self._restore_random_state(trainer)
        self._before_evaluation = self._random_state_and_metrics(trainer)

    def on_validation_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        if self._stop_requested:
            self._save_before_evaluation(trainer, pl_module)
            raise KeyboardInterrupt

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._before_evaluation = None

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        if not isinstance(exception, StepLimitError | TimeLimitError) or trainer.world_size > 1:
            return
        if self._before_evaluation is not None:
            self._save_before_evaluation(trainer, pl_module)
            return
        batch = trainer.fit_loop.epoch_loop.batch_idx
        at_step = trainer.training and batch % trainer.accumulate_grad_batches == 0
        if at_step and trainer.global_step > self._saved_step:
            self._save(trainer, {"epoch": trainer.current_epoch, "batch": batch})

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not self._has_ended:
            self._save(trainer, None)

    def _restore_random_state(self, trainer: pl.Trainer) -> None:
        """Set the random state of the checkpoint, immediately before it is used."""
        if self._loaded is not None:
            set_random_state(self._loaded["random"][trainer.global_rank])
            self._loaded = None
        self.has_resumed = True

    def _random_state_and_metrics(self, trainer: pl.Trainer) -> dict[str, Any]:
        """The part of a checkpoint that an evaluation changes."""
        return {"random": random_state(), "metrics": {**self.metrics, **trainer.callback_metrics}}

    def _save_before_evaluation(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        for callback in callbacks_of(trainer):
            if isinstance(callback, WeightAveraging):  # the average is evaluated; swap the weights back
                callback.on_validation_epoch_end(trainer, pl_module)
        self._save(trainer, {"epoch": trainer.current_epoch, "batch": trainer.fit_loop.epoch_loop.batch_idx + 1})

    def _save(self, trainer: pl.Trainer, place: dict[str, int] | None) -> None:
        self._place, self._saved_step = place, trainer.global_step
        trainer.save_checkpoint(self.path)

    def _request_stop(self, number: int, frame: FrameType | None) -> None:
        if self._stop_requested:
            raise KeyboardInterrupt
        self._stop_requested = True
        print("stopping after this step; once more stops at once", file=sys.stderr, flush=True)


def random_state() -> dict[str, Any]:
    """The state of every global random generator of this process, as tensors and plain values."""
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [],
        "numpy": _plain(np.random.get_state(legacy=False)),
        "python": random.getstate(),
    }


def set_random_state(state: Mapping[str, Any]) -> None:
    torch.set_rng_state(state["torch"])
    for device, of_device in zip(range(torch.cuda.device_count()), state["cuda"], strict=False):
        torch.cuda.set_rng_state(of_device, device)
    np.random.set_state(state["numpy"])
    random.setstate(state["python"])


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return value.tolist() if isinstance(value, np.ndarray) else value


def _of_all_processes(state: dict[str, Any]) -> list[dict[str, Any]]:
    """The states in the order of the ranks."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return [state]
    states: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(states, state)
    return states


def _count_whole_steps(fit_loop: dict[str, Any], at_epoch_start: bool) -> None:
    """Set Lightning's counters to before the next batch, its optimiser step, or the next epoch."""
    batches = fit_loop["epoch_loop.batch_progress"]
    batches["is_last_batch"] = False
    begun = [batches, *fit_loop["epoch_loop.automatic_optimization.optim_progress"]["optimizer"].values()]
    for progress in [*begun, fit_loop["epoch_progress"]] if at_epoch_start else begun:
        for counts in (progress["total"], progress["current"]):
            counts.update(dict.fromkeys(counts.keys() - {"processed"}, counts["completed"]))


def _count_evaluation_as_begun(fit_loop: dict[str, Any]) -> None:
    """Set Lightning's counters to an evaluation (its validation loop) that has begun and has read no batch."""
    progress = fit_loop["epoch_loop.val_loop.batch_progress"]
    total, current = progress["total"], progress["current"]
    before = total["completed"] - current["completed"]
    total |= {"ready": before + 1, "started": before + 1, "processed": before, "completed": before}
    current |= {"ready": 1, "started": 1, "processed": 0, "completed": 0}
    progress["is_last_batch"] = False
