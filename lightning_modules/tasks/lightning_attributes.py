"""Attributes that Lightning gives its trainers and modules without declaring them, with their types."""

from __future__ import annotations

from typing import TypeVar

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback

from architectures.model import Model
from lightning_modules.data.datamodule import SplitData

DataT = TypeVar("DataT", bound=SplitData)


def network_of(module: pl.LightningModule) -> Model:
    """The network that a task's module trains. Raises TypeError where the module is no task's."""
    if isinstance(network := module.network, Model):
        return network
    raise TypeError(f"expected the module of a task, got {type(module).__name__}")


def data_of(trainer: pl.Trainer, kind: type[DataT]) -> DataT:
    """The data set that a trainer reads. Raises TypeError where it is not of the class ``kind``."""
    if isinstance(data := getattr(trainer, "datamodule", None), kind):
        return data
    raise TypeError(f"expected a trainer that reads {kind.__name__}, got {type(data).__name__}")


def callbacks_of(trainer: pl.Trainer) -> list[Callback]:
    """The callbacks of a trainer, in the order in which they are called; what is added to the list is called too."""
    return vars(trainer)["callbacks"]


def log_interval(trainer: pl.Trainer) -> int:
    """Every how many optimiser steps a trainer logs."""
    return vars(trainer)["log_every_n_steps"]
