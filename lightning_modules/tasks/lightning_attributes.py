"""Attributes that Lightning gives its trainers and modules without declaring them, with their types."""

from __future__ import annotations

from typing import Any, TypeVar

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback

from architectures.model import Model
from lightning_modules.data.datamodule import SplitData
from schemes.errors import SchemenetError

DataT = TypeVar("DataT", bound=SplitData)


def network_of(module: pl.LightningModule) -> Model:
    """The network that a task's module trains. Raises TypeError where the module is no task's."""
    if isinstance(network := module.network, Model):
        return network
    raise TypeError(f"expected the module of a task, got {type(module).__name__}")


def data_of(trainer: pl.Trainer, kind: type[DataT]) -> DataT:
    """The data set that a trainer reads. Raises SchemenetError where it is not of the class ``kind``."""
    if (data := data_where(trainer, kind)) is None:
        raise SchemenetError(
            f"this task needs its data set: expected trainer.fit(..., datamodule={kind.__name__}(...)), got "
            f"{type(getattr(trainer, 'datamodule', None)).__name__}"
        )
    return data


def data_where(trainer: pl.Trainer, kind: type[DataT]) -> DataT | None:
    """The data set that a trainer reads; None where it reads the user's own loaders, or another class of data."""
    data = getattr(trainer, "datamodule", None)
    return data if isinstance(data, kind) else None


def first_batch(trainer: pl.Trainer) -> Any:
    """The first batch of the training loader, on the device of the run; for networks that adapt to their data."""
    return trainer.strategy.batch_to_device(next(iter(trainer.train_dataloader)))  # type: ignore[arg-type]


def evaluated_split(trainer: pl.Trainer) -> str:
    """Which set a trainer's validation loop reads: "test" or "validation"; loaders of the user's are "validation"."""
    data = data_where(trainer, SplitData)
    return "validation" if data is None else data.eval_split


def callbacks_of(trainer: pl.Trainer) -> list[Callback]:
    """The callbacks of a trainer, in the order in which they are called; what is added to the list is called too."""
    return vars(trainer)["callbacks"]


def log_interval(trainer: pl.Trainer) -> int:
    """Every how many optimiser steps a trainer logs."""
    return vars(trainer)["log_every_n_steps"]


def logs_this_step(trainer: pl.Trainer) -> bool:
    """Whether a trainer logs after the optimiser step that is under way."""
    return (trainer.global_step + 1) % log_interval(trainer) == 0
