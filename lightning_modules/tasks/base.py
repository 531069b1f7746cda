"""Base class of the task modules: the training loss, the metrics, the optimiser."""

from __future__ import annotations

import abc
import math
from collections.abc import Mapping
from typing import Any, Generic, TypeVar

import pytorch_lightning as pl
import torch
from torch import Tensor
from torchmetrics import Metric, MetricCollection

from architectures.factory import create_model
from architectures.model import Model
from lightning_modules.config.registries import OPTIMIZERS
from lightning_modules.tasks.lightning_attributes import evaluated_split, logs_this_step
from schemes.errors import SchemenetError

ModelT_co = TypeVar("ModelT_co", bound=Model, covariant=True)


class Mean(Metric):
    """The weighted mean of values, NaN where one of them is NaN.

    torchmetrics.MeanMetric leaves such values out: a network would be judged by the samples that it does not fail on.
    Values of weight 0 are ignored, finite or not.
    """

    full_state_update = False
    total: Tensor
    weight: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.zeros(()), dist_reduce_fx="sum")
        self.add_state("weight", torch.zeros(()), dist_reduce_fx="sum")

    def update(self, value: Tensor, weight: Tensor | float = 1.0) -> None:
        """Add values.

        Args:
            value: of any shape.
            weight: of the shape of ``value``, or broadcast to it.
        """
        weight = torch.as_tensor(weight, device=value.device).expand_as(value)
        self.total += (value * weight).where(weight != 0, 0).sum()
        self.weight += weight.sum()

    def compute(self) -> Tensor:
        return self.total / self.weight


def collected(metrics: Mapping[str, Metric]) -> MetricCollection:
    """A collection of metrics by name, none of which share their state."""
    return MetricCollection(dict(metrics), compute_groups=False)


class TaskModule(pl.LightningModule, abc.ABC, Generic[ModelT_co]):
    """Minimises the network's ``loss``, logged as ``train/loss``; evaluates it on the test set after an epoch.

    A subclass declares the class of networks that it trains and the ``names`` of what it measures, logged as
    ``test/NAME`` (``validation/NAME`` where the data holds out a validation split): ``measure`` adds a batch to its
    ``metrics``, ``results`` are the values of an epoch. It is registered with the one by which comparisons judge:
    ``@TASKS.register("density", measure="nats")``.

    It trains with loaders of any origin, by any ``Trainer``. Where the network is given by its name the arguments are
    plain data, and ``lightning_modules.training.loading`` rebuilds the module from a checkpoint alone.

    Args:
        architecture: the name of the network, or the network itself.
        options: the network's options, axes such as ``scheme`` and ``grid`` among them.
        data: what ``create_model`` needs to know of the data: ``num_classes``, ``in_chans``, ``image_size``.
        optimizer: the optimiser's name, or its section of the config: a mapping with ``name`` and parameters.
        config: the config of the run, stored in the checkpoint for evaluation without the run folder.

    Raises:
        SchemenetError: the architecture is not for this task.
    """

    names: tuple[str, ...]
    metrics: MetricCollection
    network: ModelT_co
    network_class: type[ModelT_co]

    def __init__(
        self,
        architecture: str | Model,
        options: Mapping[str, Any] | None = None,
        data: Mapping[str, Any] | None = None,
        optimizer: str | Mapping[str, Any] = "sgd",
        config: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if isinstance(architecture, Model):
            network = architecture
        else:
            self.save_hyperparameters()
            network = create_model(architecture, **(data or {}), **(options or {}))
        if not isinstance(network, self.network_class):
            name = architecture if isinstance(architecture, str) else "given"
            raise SchemenetError(
                f"architecture {name!r} is a {type(network).__name__}; {type(self).__name__} trains a "
                f"{self.network_class.__name__}"
            )
        self.network = network
        self.optimizer = {"name": optimizer} if isinstance(optimizer, str) else dict(optimizer)

    @abc.abstractmethod
    def measure(self, batch: Any) -> None:
        """Add a batch to the metrics."""

    @abc.abstractmethod
    def results(self) -> Mapping[str, Tensor]:
        """The values of the metrics, by name."""

    def training_step(self, batch: Any, index: int) -> Tensor:
        loss = self.training_loss(batch)
        kept = loss.detach()
        if self._loss_is_kept():
            kept = self.trainer.strategy.reduce(kept.clone(), reduce_op="mean")
        self.log("train/loss", kept, prog_bar=True)
        return loss * self._weight_in_window(index)

    def _loss_is_kept(self) -> bool:
        """Whether the loss of this batch is logged, or the last of an epoch: only then it is averaged over devices."""
        return logs_this_step(self.trainer) or self.trainer.is_last_batch

    def _weight_in_window(self, index: int) -> float:
        """The factor on the loss of a batch in the last window of gradient accumulation.

        Lightning divides by the size of a whole window; the last one of an epoch has as many batches as are left, and
        its gradient is the mean over those.
        """
        window, batches = self.trainer.accumulate_grad_batches, self.trainer.num_training_batches
        if math.isinf(batches) or index < batches - batches % window:
            return 1.0
        return window / (batches % window)

    def training_loss(self, batch: Any) -> Tensor:
        """The loss that is minimised: by default that of the network."""
        return self.network.loss(batch)

    def validation_step(self, batch: Any, index: int) -> None:
        self.measure(batch)

    def test_step(self, batch: Any, index: int) -> None:
        self.measure(batch)

    def on_validation_epoch_end(self) -> None:
        self._log_results(evaluated_split(self.trainer))

    def on_test_epoch_end(self) -> None:
        self._log_results("test")

    def _log_results(self, split: str) -> None:
        for name, value in self.results().items():
            self.log(f"{split}/{name}", value, prog_bar=name == self.names[0])
        self.metrics.reset()

    def configure_optimizers(self) -> Any:
        total = int(self.trainer.estimated_stepping_batches)
        return OPTIMIZERS.build(self.optimizer, network=self.network, total_steps=total)
