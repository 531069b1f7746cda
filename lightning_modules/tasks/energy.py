"""The energy task: a density is fitted to an unnormalised one, exp(-U)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from architectures.density.base import DensityModel
from lightning_modules.config.registries import TASKS
from lightning_modules.data.density.energy import Energy
from lightning_modules.tasks.base import Mean, TaskModule, collected
from lightning_modules.tasks.batches import samples_of
from lightning_modules.tasks.lightning_attributes import data_of


@TASKS.register("energy", measure="kl")
class EnergyModule(TaskModule[DensityModel]):
    """Minimises KL(q || p), p = exp(-U) / Z, by E[log q + U] over samples of q from fresh noise.

    ``kl`` is the divergence: that mean over the noise of the test set, plus log Z by quadrature.
    """

    network_class = DensityModel
    default_optimizer = "adamw"
    names = ("kl",)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.metrics = collected({"kl": Mean()})

    def training_loss(self, batch: Tensor) -> Tensor:
        return self.network.matching_loss(data_of(self.trainer, Energy).energy, torch.randn_like(batch))

    def prepare(self, batch: Any, index: int) -> Tensor:
        return samples_of(self, batch, self.network.dims)

    def measure(self, batch: Tensor) -> None:
        target = data_of(self.trainer, Energy)
        loss = self.network.matching_loss(target.energy, batch)
        self.metrics["kl"].update(loss + target.log_normaliser, weight=len(batch))

    def results(self) -> Mapping[str, Tensor]:
        return {"kl": self.metrics["kl"].compute()}
