"""Base class of the tasks on batches (inputs, targets)."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from architectures.model import Model
from lightning_modules.tasks.base import TaskModule
from lightning_modules.tasks.batches import unfit


class SupervisedModule(TaskModule[Model]):
    """A task on (inputs, targets). Its predictions are of the inputs, with or without targets."""

    network_class = Model
    targets: ClassVar[str] = "targets"
    """The name of the targets, for messages."""

    def prepare(self, batch: Any, index: int) -> tuple[Any, Tensor]:
        if not isinstance(batch, tuple | list) or len(batch) != 2 or not isinstance(batch[1], Tensor):
            raise unfit(self, f"a batch (inputs, {self.targets}) of tensors", batch)
        return batch[0], batch[1]

    def predict_step(self, batch: Any, index: int, dataloader_idx: int = 0) -> Any:
        with self.explaining(batch):
            return self(batch[0] if isinstance(batch, tuple | list) else batch)
