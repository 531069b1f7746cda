"""The classification task: cross entropy and error rate."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch.nn import functional
from torchmetrics.classification import MulticlassAccuracy

from architectures.model import Model
from lightning_modules.config.registries import TASKS
from lightning_modules.tasks.base import Mean, TaskModule, collected
from schemes.errors import SchemenetError


@TASKS.register("classification", measure="error")
class ClassificationModule(TaskModule[Model]):
    """Cross entropy on (inputs, labels); measures it as ``loss``, and the share of wrong answers as ``error``."""

    network_class = Model
    names = ("error", "loss")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        classes = getattr(self.network, "num_classes", None)
        if not isinstance(classes, int) or classes < 1:
            raise SchemenetError(f"a classification needs a network with num_classes of at least 1, got {classes!r}")
        self.metrics = collected({"accuracy": MulticlassAccuracy(classes, average="micro"), "loss": Mean()})

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x)

    def measure(self, batch: tuple[Tensor, Tensor]) -> None:
        inputs, labels = batch
        logits = self.network(inputs).float()
        self.metrics["loss"].update(functional.cross_entropy(logits, labels), weight=len(labels))
        self.metrics["accuracy"].update(logits, labels)

    def results(self) -> Mapping[str, Tensor]:
        return {"error": 1 - self.metrics["accuracy"].compute(), "loss": self.metrics["loss"].compute()}
