"""Base class of the networks that map inputs to logits or numbers, and the targets that their loss takes."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from architectures.model import Model
from schemes.errors import SchemenetError


def fit_targets(outputs: Tensor, targets: Tensor) -> Tensor:
    """Targets of the shape that a loss on these outputs takes, which would else broadcast them.

    Args:
        outputs: of a network, (batch, outputs, ...).
        targets: class indices, (batch, ...), or floating-point numbers of the shape of ``outputs``.

    Returns:
        The targets; numbers (batch,) for a network of one output as (batch, 1).

    Raises:
        SchemenetError: they have another shape.
    """
    if not isinstance(outputs, Tensor):
        raise SchemenetError(f"the network returns a {type(outputs).__name__}; expected a tensor (batch, num_classes)")
    numbers = targets.is_floating_point()
    if numbers and targets.dim() == 1 and outputs.shape == (len(targets), 1):
        return targets.unsqueeze(1)
    expected = outputs.shape if numbers else outputs.shape[:1] + outputs.shape[2:]
    if targets.shape != expected:
        raise SchemenetError(
            f"{'targets' if numbers else 'labels'}: expected shape {tuple(expected)} for outputs of shape "
            f"{tuple(outputs.shape)}, got shape {tuple(targets.shape)}, {targets.dtype}"
        )
    return targets


class SupervisedModel(Model):
    """A network with the loss of (inputs, targets): maps inputs (batch, ...) to (batch, num_classes).

    Attributes:
        num_classes: classes, or outputs of a regression.
    """

    num_classes: int

    def loss(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Cross entropy for class indices (batch,), mean squared error for floating-point targets."""
        inputs, targets = batch
        outputs = self(inputs)
        targets = fit_targets(outputs, targets)
        if targets.is_floating_point():
            return functional.mse_loss(outputs, targets)
        return functional.cross_entropy(outputs, targets)

    def random_batch(self, shape: tuple[int, ...], batch_size: int) -> tuple[Tensor, Tensor]:
        x = torch.randn(batch_size, *shape, **self.like())
        return x, torch.randint(self.num_classes, (batch_size,), device=x.device)
