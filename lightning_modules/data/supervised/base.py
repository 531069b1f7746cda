"""Base class of sets of inputs with labels; images are normalised and augmented on the device."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lightning_modules.data.datamodule import SplitData
from lightning_modules.data.loader import BatchLoader, Indexable, Part
from lightning_modules.data.supervised.augment import move, normalise

Batch = tuple[Tensor, Tensor, Tensor | None]
"""Inputs as stored, labels, and the moves (batch, 3) of :func:`move`, None without augmentation."""

IGNORED = -100
"""The label that the cross entropy leaves out."""


@dataclass(frozen=True)
class Labelled:
    """Inputs (uint8 images, or float32 points) in memory or in files, and int64 labels."""

    inputs: Indexable
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, chosen: Tensor) -> tuple[Tensor, Tensor]:
        return self.inputs[chosen], self.labels[chosen]

    def part(self, chosen: Tensor) -> Labelled:
        inputs = self.inputs[chosen] if isinstance(self.inputs, Tensor) else Part(self.inputs, chosen)
        return Labelled(inputs, self.labels[chosen])


class LabelledLoader(BatchLoader):
    """Batches of :class:`Labelled` samples, with moves for augmentation that depend on (seed, epoch, index).

    Args:
        samples: the set.
        batch_size: samples of a batch, on each rank.
        pad: the largest shift in pixels.
        flip: whether images are mirrored at random.
        options: those of :class:`BatchLoader`.
    """

    def __init__(self, samples: Labelled, batch_size: int, *, pad: int = 0, flip: bool = False, **options: Any) -> None:
        self.pad, self.flip = pad, flip
        super().__init__(samples, batch_size, **options)

    def collate_fn(self) -> Callable[[Any, Tensor], Batch]:
        moves = self._moves()
        return lambda taken, chosen: (*taken, None if moves is None else moves[chosen])

    def _moves(self) -> Tensor | None:
        if not (self.pad or self.flip):
            return None
        stream, total = self._stream(1), len(self.samples)
        shifts = torch.randint(2 * self.pad + 1, (total, 2), generator=stream, dtype=torch.uint8)
        flips = torch.randint(1 + self.flip, (total, 1), generator=stream, dtype=torch.uint8)
        return torch.cat([shifts, flips], 1)


class LabelledData(SplitData):
    """A data set of :class:`Labelled` samples.

    Args:
        augment: whether training images are shifted and mirrored at random.
        options: those of :class:`SplitData`.
    """

    loader = LabelledLoader
    mean: tuple[float, ...] | None = None  # of pixels between 0 and 1; None: inputs are left as they are
    std: tuple[float, ...] | None = None
    pad: int = 0  # augmentation shifts by up to so many pixels
    flip: bool = False  # and mirrors, where that keeps the class

    def __init__(self, *, augment: bool = False, **options: Any) -> None:
        self.augment = augment
        super().__init__(**options)

    def mistakes(self) -> list[str]:
        wrong = super().mistakes()
        if self.augment and not (self.pad or self.flip):
            wrong.append(f"data.augment: {type(self).__name__} has no augmentation; expected false, got true")
        return wrong

    def objection(self, samples: Any) -> str | None:
        """Why these are no labelled samples of this shape and these classes; None where they are."""
        if not isinstance(samples, Labelled):
            return super().objection(samples)
        inputs, labels = samples.inputs, samples.labels
        if not isinstance(labels, Tensor):
            return f"labels: expected a tensor, got {type(labels).__name__}"
        if not len(inputs) == len(labels) > 0:
            return f"expected a label for each input, got {len(labels)} labels for {len(inputs)} inputs"
        first = inputs[torch.zeros(1, dtype=torch.long)]
        if not isinstance(first, Tensor):
            return f"inputs: expected a tensor, got {type(inputs).__name__}"
        if first.shape[1:] != self.shape:
            return f"inputs: expected samples of shape {self.shape}, as shape says, got {tuple(first.shape[1:])}"
        classes = labels[labels != IGNORED] if (labels != IGNORED).any() else labels
        if not labels.is_floating_point() and not 0 <= classes.min() <= classes.max() < self.num_classes:
            least, most = int(classes.min()), int(classes.max())
            return f"labels: expected 0 to {self.num_classes - 1}, as num_classes says, got {least} to {most}"
        return None

    def _loader(self, samples: Any, train: bool = False, **options: Any) -> BatchLoader:
        if train and self.augment:
            options |= {"pad": self.pad, "flip": self.flip}
        return super()._loader(samples, train=train, **options)

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> tuple[Tensor, Tensor]:
        """Normalise on the device, and augment where the loader drew moves."""
        inputs, labels, moves = batch
        if self.mean is not None and self.std is not None:
            inputs = normalise(inputs, self.mean, self.std)
        if moves is not None:
            inputs = move(inputs, moves, self.pad)
        if self.trainer is not None:  # before the transfer, where Lightning converts floats, these were bytes
            inputs = self.trainer.precision_plugin.convert_input(inputs)
        return inputs, labels
