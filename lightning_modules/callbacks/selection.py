"""Callbacks that choose an epoch by the validation split: early stopping and the best checkpoint."""

from __future__ import annotations

import abc
import math
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback, EarlyStopping, WeightAveraging
from pytorch_lightning.callbacks.early_stopping import EarlyStoppingReason
from pytorch_lightning.trainer.states import TrainerFn

from lightning_modules.config.registries import CALLBACKS
from lightning_modules.storage.checkpoint_files import write_checkpoint
from lightning_modules.storage.run_files import BEST_CHECKPOINT
from lightning_modules.tasks.lightning_attributes import callbacks_of
from schemes.errors import SchemenetError, unknown

RISING = ("auc",)
"""Measures of tasks of which more is better; nothing is selected by them."""


class ResultCallback(Callback, abc.ABC):
    """A callback that adds entries to the result of its run."""

    @abc.abstractmethod
    def result(self) -> Mapping[str, Any]:
        """Entries of ``result.json``: plain data, at the end of the training."""


@CALLBACKS.register("early_stopping", selects=True)
class StopEarly(EarlyStopping, ResultCallback):
    """Ends a training when the measure on the validation split has not improved for some evaluations.

    Lightning's ``EarlyStopping``. A measure that is NaN or infinite ends it at once.

    Args:
        measure: the one by which comparisons judge.
        measures: all of the task.
        by: another measure of the task, such as ``loss``; null: the one by which comparisons judge.
        patience: evaluations without an improvement, of which there is one after every
            ``trainer.check_test_every_n_epoch`` epochs.
        min_delta: the least difference that is an improvement.

    Raises:
        SchemenetError: with every mistake in the options.
    """

    def __init__(
        self,
        measure: str,
        measures: Sequence[str],
        *,
        by: str | None = None,
        patience: int = 5,
        min_delta: float = 0.0,
    ) -> None:
        if patience < 1 or not 0 <= min_delta < math.inf:
            raise SchemenetError(
                "callbacks: early_stopping: expected patience of at least 1 and min_delta of at least 0, got "
                f"{patience} and {min_delta:g}"
            )
        self.by = _selecting("early_stopping", by or measure, measures)
        super().__init__(
            f"validation/{self.by}", min_delta=min_delta, patience=patience, check_on_train_epoch_end=False
        )

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        trainer.should_stop |= self._has_stopped  # where the run was killed after its last step

    def result(self) -> Mapping[str, Any]:
        """``stopped``: why the training ended early; null where it did not."""
        if not self._has_stopped:
            return {"stopped": None}
        if self.stopping_reason is EarlyStoppingReason.NON_FINITE_METRIC:
            reason = f"{self.monitor} was NaN or infinite"
        else:
            reason = (
                f"{self.monitor} had not improved on {float(self.best_score):.6g} for {self.wait_count} evaluations"
            )
        return {"stopped": f"early_stopping in epoch {self.stopped_epoch}: {reason}"}

    @property
    def _has_stopped(self) -> bool:
        return self.stopping_reason is not EarlyStoppingReason.NOT_STOPPED


@CALLBACKS.register("best_checkpoint", selects=True)
class BestCheckpoint(ResultCallback):
    """Writes ``best.ckpt``: the weights with the least measure on the validation split, of several epochs the first.

    They are the averaged ones where the trainer averages them. ``last.ckpt`` stays what the run resumes from, and the
    measures of the result stay those of the last weights; ``schemenet eval RUN/best.ckpt`` tests the best ones.

    Args:
        folder: the run folder.
        measure: the one by which comparisons judge.
        measures: all of the task.
        by: another measure of the task, such as ``loss``; null: the one by which comparisons judge.
    """

    def __init__(self, folder: Path, measure: str, measures: Sequence[str], *, by: str | None = None) -> None:
        self.path, self.by = folder / BEST_CHECKPOINT, _selecting("best_checkpoint", by or measure, measures)
        self.epoch: int | None = None
        self.value = math.inf

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.state.fn != TrainerFn.FITTING:
            return
        value = float(trainer.callback_metrics[f"validation/{self.by}"])
        if value < self.value:
            # Before the next checkpoint of the run is written: one that resumes from an earlier one writes this again.
            content = _weights(trainer, pl_module)
            if trainer.is_global_zero:
                write_checkpoint(content, self.path)
            self.epoch, self.value = trainer.current_epoch, value

    def result(self) -> Mapping[str, Any]:
        """``chosen``: the file, the epoch and its measure; null where the measure was never finite."""
        if self.epoch is None:
            return {"chosen": None}
        return {"chosen": {"checkpoint": self.path.name, "epoch": self.epoch, f"validation_{self.by}": self.value}}

    def state_dict(self) -> dict[str, Any]:
        return {"epoch": self.epoch, "value": self.value}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.epoch, self.value = state_dict["epoch"], state_dict["value"]


def _weights(trainer: pl.Trainer, module: pl.LightningModule) -> dict[str, Any]:
    """The part of a checkpoint from which a network is loaded."""
    content = {
        "epoch": trainer.current_epoch,
        "global_step": trainer.global_step,
        "pytorch-lightning_version": metadata.version("pytorch-lightning"),
        "state_dict": trainer.strategy.lightning_module_state_dict(),
        "hyper_parameters": dict(module.hparams),
    }
    for callback in callbacks_of(trainer):
        if isinstance(callback, WeightAveraging):
            callback.on_save_checkpoint(trainer, module, content)
    return content


def _selecting(callback: str, by: str, measures: Sequence[str]) -> str:
    """The measure ``by`` which a callback selects. Raises SchemenetError where there is no such one."""
    if by not in (names := [name for name in measures if name not in RISING]):
        raise SchemenetError(f"callbacks: {callback}: by: {unknown('measure', by, names)}")
    return by
