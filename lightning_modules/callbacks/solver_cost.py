"""Callback that logs the cost of the solves inside a network: evaluations of f, Jacobian products, steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.utilities.types import STEP_OUTPUT
from torch import Tensor
from torchmetrics import Metric

from architectures.costs.ledger import has_data_dependent_cost
from architectures.model import Model
from lightning_modules.machine import process_rank
from lightning_modules.tasks.lightning_attributes import evaluated_split, network_of

SOLVER_COSTS: dict[str, Callable[[Any], int]] = {
    "nfe/forward": lambda flow: flow.forward_counts.evaluations,
    "nfe/backward": lambda flow: flow.backward_counts.evaluations,
    "products/forward": lambda flow: flow.forward_counts.jacobian_products,
    "products/backward": lambda flow: flow.backward_counts.jacobian_products,
    "steps/accepted": lambda flow: flow.forward_counts.accepted,
    "steps/rejected": lambda flow: flow.forward_counts.rejected,
}
"""Evaluations of f, vector-Jacobian products and steps of the last forward and backward pass through a flow."""


def counts(network: Model) -> list[int]:
    """The entries of ``SOLVER_COSTS`` for the last batch, summed over all flows."""
    flows = network.flows  # found by a walk over all modules
    return [sum(map(count, flows)) for count in SOLVER_COSTS.values()]


class SolverCostMetric(Metric):
    """Mean and maximum of ``SOLVER_COSTS`` over batches, those of all processes together."""

    full_state_update = False
    total: Tensor
    batches: Tensor
    most: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.zeros(len(SOLVER_COSTS), dtype=torch.long), dist_reduce_fx="sum")
        self.add_state("batches", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")
        self.add_state("most", torch.zeros(len(SOLVER_COSTS), dtype=torch.long), dist_reduce_fx="max")

    def update(self, batch: list[int]) -> None:
        costs = torch.tensor(batch, device=self.total.device)
        self.total += costs
        self.batches += 1
        self.most = self.most.maximum(costs)

    def compute(self) -> tuple[Tensor, Tensor]:
        return self.total.cpu().double() / self.batches.cpu(), self.most.cpu()

    def by_name(self) -> dict[str, float]:
        """The means by name, as ``.../epoch``, and the maxima, as ``.../most``."""
        both = zip(("epoch", "most"), self.compute(), strict=True)
        return {f"{name}/{kind}": v for kind, of in both for name, v in zip(SOLVER_COSTS, of.tolist(), strict=True)}


class SolverCostLogger(Callback):
    """Logs what solving costs where batches differ in it: on adaptive grids, and under implicit schemes.

    The entries of ``SOLVER_COSTS`` for single batches, of the first process, as often as the loss; over all batches of
    an epoch and all processes, their means as ``.../epoch`` and the largest as ``.../most`` (a step of training takes
    as long as the process that evaluates f most often); for the evaluated set ``test/nfe`` or ``validation/nfe``.
    A run that resumes within an epoch has those of the whole of it.
    """

    def __init__(self) -> None:
        self.training, self.testing = SolverCostMetric(), SolverCostMetric()

    @property
    def state_key(self) -> str:
        """The key in checkpoints: the name of the class when the first ones were written."""
        return "LogWork"

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        for metric in (self.training, self.testing):
            metric.to(trainer.strategy.root_device)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: STEP_OUTPUT, batch: Any, batch_idx: int
    ) -> None:
        network = network_of(pl_module)
        if has_data_dependent_cost(network):
            costs = counts(network)
            self.training.update(costs)
            pl_module.log_dict(dict(zip(SOLVER_COSTS, map(float, costs), strict=True)))

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not has_data_dependent_cost(network_of(pl_module)):
            return
        costs = self.training.by_name()
        self.training.reset()
        for logger in trainer.loggers:
            logger.log_metrics(costs | {"epoch": trainer.current_epoch}, step=trainer.global_step)

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: STEP_OUTPUT,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        network = network_of(pl_module)
        if has_data_dependent_cost(network):
            self.testing.update(counts(network))

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if has_data_dependent_cost(network_of(pl_module)):
            pl_module.log(f"{evaluated_split(trainer)}/nfe", self.testing.by_name()["nfe/forward/epoch"])
        self.testing.reset()

    def state_dict(self) -> dict[str, Any]:
        with self.training.sync_context():
            state = self.training.total.tolist(), int(self.training.batches), self.training.most.tolist()
        return dict(zip(("total", "batches", "most"), state, strict=True))

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if process_rank() == 0:  # the sums are those of all processes
            self.training.total += torch.tensor(state_dict["total"])
            self.training.batches += state_dict["batches"]
            self.training.most += torch.tensor(state_dict["most"])
