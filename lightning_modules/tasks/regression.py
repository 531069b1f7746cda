"""The regression task: mean square error."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torchmetrics import MeanSquaredError

from architectures.supervised_model import fit_targets
from lightning_modules.config.registries import TASKS
from lightning_modules.tasks.base import collected
from lightning_modules.tasks.supervised import SupervisedModule


@TASKS.register("regression", measure="rmse")
class RegressionModule(SupervisedModule):
    """Mean square error on (inputs, targets); ``rmse`` is its root over all outputs, in the unit of the targets.

    Targets have the shape of the outputs; where the network has one output, (batch,) is read as (batch, 1). Integers
    are numbers too.
    """

    names = ("rmse",)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.metrics = collected({"rmse": MeanSquaredError(squared=False)})

    def prepare(self, batch: Any, index: int) -> tuple[Any, Tensor]:
        inputs, targets = super().prepare(batch, index)
        if targets.dtype != torch.float32:  # which every precision takes; the walk to a weight costs microseconds
            targets = targets.to(self.network.like()["dtype"])
        return inputs, targets

    def measure(self, batch: tuple[Tensor, Tensor]) -> None:
        inputs, targets = batch
        outputs = self.network(inputs)
        self.metrics["rmse"].update(outputs.float(), fit_targets(outputs, targets).float())

    def results(self) -> Mapping[str, Tensor]:
        return {"rmse": self.metrics["rmse"].compute()}
