"""The density task: maximum likelihood of samples."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torchmetrics import SumMetric

from architectures.density.base import DensityModel
from lightning_modules.config.registries import TASKS
from lightning_modules.data.density.base import DensityData
from lightning_modules.tasks.base import Mean, TaskModule, collected
from lightning_modules.tasks.batches import samples_of
from lightning_modules.tasks.lightning_attributes import data_where


@TASKS.register("density", measure="nats")
class DensityModule(TaskModule[DensityModel]):
    """Mean negative log density of the data in their original units: ``nats`` of a sample, ``bits_per_dim``.

    Where the network estimates it by random vectors, ``standard_error`` is that of nats by the noise of the estimate;
    the choice of test samples is not part of it.
    """

    network_class = DensityModel
    default_optimizer = "adamw"
    names = ("nats", "bits_per_dim")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.metrics = collected({"nats": Mean()})
        if self.network.estimated:
            self.names = (*self.names, "standard_error")
            self.metrics.add_metrics({"variance": SumMetric(), "count": SumMetric()})

    def prepare(self, batch: Any, index: int) -> Tensor:
        return samples_of(self, batch, self.network.dims)

    def measure(self, batch: Tensor) -> None:
        log_density, error = self.network.likelihood(batch)
        data = data_where(self.trainer, DensityData)  # the user's own loaders have samples in their original units
        self.metrics["nats"].update(-log_density - (0 if data is None else data.log_jacobian(batch)))
        if error is not None:
            self.metrics["variance"].update(error.square())
            self.metrics["count"].update(len(error))

    def results(self) -> Mapping[str, Tensor]:
        nats = self.metrics["nats"].compute()
        results = {"nats": nats, "bits_per_dim": nats / (self.network.dims * math.log(2))}
        if "standard_error" in self.names:
            results["standard_error"] = self.metrics["variance"].compute().sqrt() / self.metrics["count"].compute()
        return results
