"""The classification task: cross entropy and error rate."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch.nn import functional
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle
from torchmetrics.classification import MulticlassAccuracy

from architectures.model import Model
from architectures.supervised_model import fit_targets
from lightning_modules.config.registries import TASKS
from lightning_modules.data.supervised.base import IGNORED
from lightning_modules.machine import process_rank
from lightning_modules.tasks.base import Mean, collected
from lightning_modules.tasks.batches import describe, unfit
from lightning_modules.tasks.lightning_attributes import logs_this_step
from lightning_modules.tasks.supervised import SupervisedModule
from schemes.errors import SchemenetError


@TASKS.register("classification", measure="error")
class ClassificationModule(SupervisedModule):
    """Cross entropy on (inputs, labels); measures it as ``loss``, and the share of wrong answers as ``error``.

    ``train/error`` is that share in the batches since it was last logged, of the answers that their losses are made of:
    each by the weights of its step, with augmentation and noise.
    """

    names = ("error", "loss")
    targets = "labels"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        classes = getattr(self.network, "num_classes", None)
        if not isinstance(classes, int) or classes < 1:
            raise SchemenetError(f"a classification needs a network with num_classes of at least 1, got {classes!r}")
        self.num_classes = classes
        self.metrics = collected({"accuracy": MulticlassAccuracy(classes, average="micro"), "loss": Mean()})
        self.wrong_in_training = Mean()
        self._logits: Tensor | None = None
        self._recorder: RemovableHandle | None = None

    def prepare(self, batch: Any, index: int) -> tuple[Any, Tensor]:
        inputs, labels = super().prepare(batch, index)
        if labels.is_floating_point():
            raise unfit(self, "labels that are class indices (batch,) of an integer dtype", batch)
        labels = labels.long()
        if index == 0:
            known = labels[labels != IGNORED]
            if not len(known) or known.min() < 0 or known.max() >= self.num_classes:
                raise SchemenetError(
                    f"{type(self).__name__}: expected labels from 0 to {self.num_classes - 1}, got "
                    f"{int(labels.min())} to {int(labels.max())} in {describe(batch)}"
                )
        return inputs, labels

    def on_train_start(self) -> None:
        self._recorder = self.network.register_forward_hook(self._record_logits)

    def on_train_end(self) -> None:
        if self._recorder is not None:
            self._recorder.remove()

    def _record_logits(self, network: Model, inputs: Any, logits: Any) -> None:
        """A forward hook: no second pass is needed for the error, and the loss stays the network's."""
        if self.training and isinstance(logits, Tensor):
            self._logits = logits.detach()

    def training_loss(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        loss = super().training_loss(batch)
        if self._logits is not None:  # a loss of another kind may have none
            self.wrong_in_training.update((self._logits.argmax(1) != batch[1]).float())
            self._logits = None
        return loss

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        if self.wrong_in_training.update_count and logs_this_step(self.trainer):
            self.log("train/error", self.wrong_in_training.compute())
            self.wrong_in_training.reset()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        wrong = self.wrong_in_training
        with wrong.sync_context():
            checkpoint["wrong_in_training"] = float(wrong.total), float(wrong.weight)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if process_rank() == 0 and "wrong_in_training" in checkpoint:  # the sums are those of all processes
            total, weight = checkpoint["wrong_in_training"]
            self.wrong_in_training.total += total
            self.wrong_in_training.weight += weight

    def measure(self, batch: tuple[Tensor, Tensor]) -> None:
        inputs, labels = batch
        logits = self.network(inputs)
        labels, logits = fit_targets(logits, labels), logits.float()
        self.metrics["loss"].update(functional.cross_entropy(logits, labels), weight=len(labels))
        self.metrics["accuracy"].update(logits, labels)

    def results(self) -> Mapping[str, Tensor]:
        return {"error": 1 - self.metrics["accuracy"].compute(), "loss": self.metrics["loss"].compute()}
