"""Base class of the task modules: the training loss, the metrics, the optimiser."""

from __future__ import annotations

import abc
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar, Generic, TypeVar

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torchmetrics import Metric, MetricCollection

from architectures.factory import create_model
from architectures.model import Model
from lightning_modules.config.registries import OPTIMIZERS
from lightning_modules.tasks.batches import dtype_name, unfit
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
    ``metrics``, ``results`` are the values of an epoch, and ``prepare`` checks what a loader gives. It is registered
    with the one by which comparisons judge: ``@TASKS.register("density", measure="nats")``.

    It trains with loaders of any origin, by any ``Trainer``. Where the network is given by its name the arguments are
    plain data, and ``lightning_modules.training.loading`` rebuilds the module from a checkpoint alone. Otherwise a
    checkpoint has the weights, and ``load_from_checkpoint(path, architecture=network)`` reads them.

    Args:
        architecture: the name of the network, or the network itself.
        options: the network's options, axes such as ``scheme`` and ``grid`` among them.
        data: what ``create_model`` needs to know of the data: ``num_classes``, ``in_chans``, ``image_size``.
        optimizer: the optimiser's name, or its section of the config: a mapping with ``name`` and parameters. None for
            the task's ``default_optimizer``.
        config: the config of the run, stored in the checkpoint for evaluation without the run folder.

    Raises:
        SchemenetError: the architecture is not for this task, or an argument is of another type.
    """

    names: tuple[str, ...]
    metrics: MetricCollection
    network: ModelT_co
    network_class: type[ModelT_co]
    default_optimizer: ClassVar[str] = "sgd"

    def __init__(
        self,
        architecture: str | Model | None = None,
        options: Mapping[str, Any] | None = None,
        data: Mapping[str, Any] | None = None,
        optimizer: str | Mapping[str, Any] | None = None,
        config: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if isinstance(architecture, str):
            self.save_hyperparameters()
            network: object = create_model(architecture, **(data or {}), **(options or {}))
        elif isinstance(architecture, nn.Module):
            self.save_hyperparameters("optimizer")
            network = architecture
        else:
            raise SchemenetError(
                f"architecture expected the name of a network, or a network, got {architecture!r}; a checkpoint of a "
                "network that was given itself is loaded by load_from_checkpoint(path, architecture=network)"
            )
        if not isinstance(network, self.network_class):
            name = architecture if isinstance(architecture, str) else "given"
            hint = "" if isinstance(network, Model) else "; register a module of your own, and use create_model"
            raise SchemenetError(
                f"architecture {name!r} is a {type(network).__name__}; {type(self).__name__} trains a "
                f"{self.network_class.__name__}{hint}"
            )
        self.network = network
        optimizer = self.default_optimizer if optimizer is None else optimizer
        if not isinstance(optimizer, str | Mapping):
            raise SchemenetError(
                f"optimizer expected a name ({', '.join(OPTIMIZERS)}) or a mapping with 'name', got {optimizer!r}; for "
                "one of torch.optim override configure_optimizers"
            )
        self.optimizer = {"name": optimizer} if isinstance(optimizer, str) else dict(optimizer)
        OPTIMIZERS.check_spec(self.optimizer)

    @abc.abstractmethod
    def measure(self, batch: Any) -> None:
        """Add a batch to the metrics."""

    @abc.abstractmethod
    def results(self) -> Mapping[str, Tensor]:
        """The values of the metrics, by name."""

    def prepare(self, batch: Any, index: int) -> Any:
        """The batch that the task computes with, from what a loader gives.

        Args:
            batch: on the device of the network.
            index: in its epoch. Values, which may wait for the device, are checked in the first batch alone.

        Raises:
            SchemenetError: the batch is not one of this task.
        """
        return batch

    @contextmanager
    def explaining(self, batch: Any) -> Iterator[None]:
        """Where a network fails on a batch of another dtype than its weights', the error says so."""
        try:
            yield
        except RuntimeError as error:
            first, weights = batch, self.network.like()
            while isinstance(first, tuple | list) and first:
                first = first[0]
            fits = not isinstance(first, Tensor) or first.dtype == weights["dtype"]
            if fits or isinstance(error, torch.OutOfMemoryError) or torch.is_autocast_enabled(weights["device"].type):
                raise
            reason = unfit(self, f"inputs of the weights' dtype, {dtype_name(weights['dtype'])}", batch)
            raise SchemenetError(f"{reason}: {error}") from error

    def forward(self, batch: Any) -> Any:
        return self.network(batch)

    def training_step(self, batch: Any, index: int) -> Tensor:
        with self.explaining(batch):
            loss = self.training_loss(self.prepare(batch, index))
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

    def validation_step(self, batch: Any, index: int, dataloader_idx: int = 0) -> None:
        if dataloader_idx:
            raise SchemenetError(
                f"{type(self).__name__}: expected one loader for validation or test, got several; their results "
                "would be mixed: evaluate the others by trainer.test(module, loader), one after the other"
            )
        with self.explaining(batch):
            self.measure(self.prepare(batch, index))

    def test_step(self, batch: Any, index: int, dataloader_idx: int = 0) -> None:
        self.validation_step(batch, index, dataloader_idx)

    def predict_step(self, batch: Any, index: int, dataloader_idx: int = 0) -> Any:
        with self.explaining(batch):
            return self(self.prepare(batch, index))

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
        context = {"network": self.network, "total_steps": total, "trainer": self.trainer}
        return OPTIMIZERS.build(self.optimizer, **context)
