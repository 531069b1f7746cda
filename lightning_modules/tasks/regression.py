"""The regression task: mean square error."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torchmetrics import MeanSquaredError

from architectures.model import Model
from lightning_modules.config.registries import TASKS
from lightning_modules.tasks.base import TaskModule, collected


@TASKS.register("regression", measure="rmse")
class RegressionModule(TaskModule[Model]):
    """Mean square error on (inputs, targets); ``rmse`` is its root over all outputs, in the unit of the targets."""

    network_class = Model
    names = ("rmse",)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.metrics = collected({"rmse": MeanSquaredError(squared=False)})

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x)

    def measure(self, batch: tuple[Tensor, Tensor]) -> None:
        inputs, targets = batch
        self.metrics["rmse"].update(self.network(inputs).float(), targets.float())

    def results(self) -> Mapping[str, Tensor]:
        return {"rmse": self.metrics["rmse"].compute()}
