"""What all data sets share: batches in one order, augmented as tensors; most of them lie in memory."""

from __future__ import annotations

import inspect
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytorch_lightning as pl
import torch
from torch import Tensor

from lightning_modules.data.augment import move, normalise
from lightning_modules.data.batches import Batch, BatchLoader, Inputs, generator
from schemes.errors import SchemenetError

Samples = tuple[Inputs, Tensor]
"""Inputs (uint8 images, or float32 points) and int64 labels."""

DATA_SEED = 0
"""Decides what belongs to a set itself: splits, subsets, generated points. A run's seed does not touch it."""

HELD_OUT = 2
"""Beside DATA_SEED, the stream that draws a validation split."""


class InMemoryData(pl.LightningDataModule):
    """A training and a test set as CPU tensors; ``load`` is what a subclass adds, beside a few facts.

    ``val_dataloader`` reads the test set for the learning curves; nothing is ever selected on it. With ``validation``,
    a share of the training set, drawn once and for all, is held out and measured instead, and the test set is not read.

    A constructor may take ``**options`` and hand them on: its signature, which is the schema of the user's
    config, then shows the parameters of its bases too.
    """

    shape: tuple[int, ...]
    num_classes: int
    mean: tuple[float, ...] | None = None  # of pixels between 0 and 1; None: inputs are left as they are
    std: tuple[float, ...] | None = None
    pad: int = 0  # augmentation shifts by up to so many pixels
    flip: bool = False  # and mirrors, where that keeps the class
    least: ClassVar[Mapping[str, float]] = {"batch_size": 1, "seed": 0, "limit_train": 1, "limit_test": 1}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        takes: dict[str, inspect.Parameter] = {}
        for base in reversed(cls.__mro__[: cls.__mro__.index(InMemoryData) + 1]):
            own = inspect.signature(base.__init__).parameters.values()
            takes |= {p.name: p for p in own if p.kind is p.KEYWORD_ONLY}
        cls.__signature__ = inspect.Signature(list(takes.values()))

    def __init__(
        self,
        *,
        batch_size: int = 128,
        seed: int = 0,
        augment: bool = False,
        limit_train: int | None = None,
        limit_test: int | None = None,
        validation: float | None = None,
    ) -> None:
        super().__init__()
        self.batch_size, self.seed, self.augment = batch_size, seed, augment
        self.limit_train, self.limit_test, self.validation = limit_train, limit_test, validation
        self.train_set: Samples | None = None
        self.test_set: Samples | None = None
        self.validation_set: Samples | None = None
        if wrong := self.mistakes():
            raise SchemenetError("\n".join(wrong))

    def mistakes(self) -> list[str]:
        """What is wrong with the parameters, one line each."""
        given = {name: getattr(self, name) for name in self.least}
        wrong = [
            f"data.{name}: expected at least {self.least[name]}, got {value}"
            for name, value in given.items()
            if value is not None and not self.least[name] <= value < math.inf
        ]
        if self.augment and not (self.pad or self.flip):
            wrong.append(f"data.augment: {type(self).__name__} has no augmentation; expected false, got true")
        if self.validation is not None and not 0 < self.validation < 1:
            wrong.append(f"data.validation: expected a share of the training set in (0, 1), got {self.validation}")
        return wrong

    @property
    def measures(self) -> str:
        """What errors are of: "test" or "validation"; metrics and results are named by it."""
        return "test" if self.validation is None else "validation"

    @property
    def measured_set(self) -> Samples | None:
        return self.test_set if self.validation is None else self.validation_set

    def load(self, train: bool) -> Samples:
        """The whole training or test set."""
        raise NotImplementedError

    def check(self) -> None:
        """Refuse, before anything is read in full, what ``setup`` would fail on."""

    def setup(self, stage: str | None = None) -> None:
        if self.train_set is not None:
            return
        train = self._limited(self.load(train=True), self.limit_train)
        if self.validation is None:
            self.train_set, self.test_set = train, self._limited(self.load(train=False), self.limit_test)
        else:
            kept, held = held_out(len(train[1]), self.validation)
            self.train_set, self.validation_set = _part(train, kept), _part(train, held)

    def _limited(self, samples: Samples, limit: int | None) -> Samples:
        total = len(samples[1])
        return samples if limit is None or limit >= total else _part(samples, subset(total, limit))

    def train_dataloader(self) -> BatchLoader:
        pad, flip = (self.pad, self.flip) if self.augment else (0, False)
        overfit = getattr(self.trainer, "overfit_batches", 0) > 0  # then each epoch has the same batches
        return self._loader(self.train_set, train=True, shuffle=not overfit, pad=pad, flip=flip)

    def val_dataloader(self) -> BatchLoader:
        return self._loader(self.measured_set)

    def test_dataloader(self) -> BatchLoader:
        return self._loader(self.measured_set)

    def _loader(self, samples: Samples | None, **options: Any) -> BatchLoader:
        if samples is None:
            raise SchemenetError(f"{type(self).__name__} is not loaded; call setup() first")
        if self.trainer is not None:
            options |= {"rank": self.trainer.global_rank, "world_size": self.trainer.world_size}
        return BatchLoader(*samples, self.batch_size, seed=self.seed, **options)

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> tuple[Tensor, Tensor]:
        """On the device: normalise, and move where the loader drew moves."""
        inputs, labels, moves = batch
        if self.mean is not None and self.std is not None:
            inputs = normalise(inputs, self.mean, self.std)
        if moves is not None:
            inputs = move(inputs, moves, self.pad)
        if self.trainer is not None:  # before the transfer, where Lightning converts floats, these were bytes
            inputs = self.trainer.precision_plugin.convert_input(inputs)
        return inputs, labels


class FileData(InMemoryData):
    """A set that is read from files below ``root``, else ``$SCHEMENET_DATA``, else ``./data``."""

    remedy = (
        "name the folder that holds it by data.root=... or by the environment variable SCHEMENET_DATA, "
        "or fetch it by data.download=true"
    )

    def __init__(self, *, root: str | None = None, download: bool = False, **options: Any) -> None:
        self.root = Path(root or os.environ.get("SCHEMENET_DATA") or "data").expanduser()
        self.download = download
        super().__init__(**options)

    def missing(self) -> str | None:
        """What keeps the files from being read, with their path; None if nothing does."""
        raise NotImplementedError

    def fetch(self) -> None:
        """Download the files to ``root``."""
        raise NotImplementedError

    def check(self) -> None:
        if not self.download:
            self._require()

    def prepare_data(self) -> None:
        if self.download and self.missing():
            try:
                self.fetch()
            except (OSError, RuntimeError) as error:
                name = type(self).__name__
                raise SchemenetError(f"cannot download {name} to {self.root}: {error}") from error

    def setup(self, stage: str | None = None) -> None:
        self._require()
        super().setup(stage)

    def _require(self) -> None:
        if problem := self.missing():
            raise SchemenetError(
                f"{type(self).__name__} cannot be read from {self.root.absolute()}: {problem}\n{self.remedy}"
            )


def held_out(total: int, share: float) -> tuple[Tensor, Tensor]:
    """Indices of a training set to keep and to hold out, each in order; drawn once and for all, whatever is trained."""
    count = min(max(1, round(share * total)), total - 1)
    if count < 1:
        raise SchemenetError(f"data.validation: a training set of {total} has nothing to hold out")
    order = torch.randperm(total, generator=generator(DATA_SEED, HELD_OUT))
    return order[count:].sort().values, order[:count].sort().values


def _part(samples: Samples, chosen: Tensor) -> Samples:
    inputs, labels = samples
    return (inputs[chosen] if isinstance(inputs, Tensor) else Part(inputs, chosen)), labels[chosen]


class Part:
    """Some of the inputs of a set that is not held in memory, by their indices there."""

    def __init__(self, inputs: Inputs, chosen: Tensor) -> None:
        self.inputs, self.chosen = inputs, chosen

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, chosen: Tensor) -> Tensor:
        return self.inputs[self.chosen[chosen]]


def subset(total: int, limit: int | None) -> Tensor:
    """The indices of at most ``limit`` samples in order, drawn once and for all, so that sorted classes stay mixed."""
    if limit is None or limit >= total:
        return torch.arange(total)
    return torch.randperm(total, generator=generator(DATA_SEED))[:limit].sort().values
