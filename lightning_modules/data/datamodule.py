"""Base class of all data sets: a training and a test set, subsets of them, and their loaders."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from typing import Any, ClassVar, Protocol, runtime_checkable

import pytorch_lightning as pl
import torch
from torch import Tensor

from lightning_modules.data.loader import BatchLoader, Indexable, generator
from schemes.errors import SchemenetError

DATA_SEED = 0
"""Seed of splits, subsets and generated points; it does not depend on the seed of a run."""

VALIDATION_STREAM = 2
"""RNG stream of DATA_SEED for the validation split."""


@runtime_checkable
class Samples(Indexable, Protocol):
    """A training or test set, of which parts are sets of the same kind."""

    def part(self, chosen: Tensor, /) -> Samples:
        """The set of the samples at these indices, (samples,)."""
        ...


class SplitData(pl.LightningDataModule):
    """A training and a test set; a subclass defines ``load`` and the ``shape`` of a sample.

    ``val_dataloader`` reads the test set for the learning curves; nothing is ever selected on it. With ``validation``,
    a fixed share of the training set is held out and evaluated instead, and the test set is not read.

    A constructor may take ``**options`` and pass them on: its signature, which is the schema of the user's config, then
    shows the parameters of its bases too.

    Args:
        batch_size: samples of a batch, on each device.
        seed: of the order of training samples and of augmentation.
        limit_train: the most training samples; null: all.
        limit_test: the most test samples; null: all.
        validation: share of the training set that is held out, in (0, 1); null: the test set is evaluated.

    Raises:
        SchemenetError: with all mistakes in the parameters.
    """

    shape: tuple[int, ...]
    num_classes: int = 0
    loader: ClassVar[type[BatchLoader]] = BatchLoader
    least: ClassVar[Mapping[str, float]] = {"batch_size": 1, "seed": 0, "limit_train": 1, "limit_test": 1}

    most: ClassVar[Mapping[str, float]] = {"train_size": 10**7, "test_size": 10**7, "size": 4096, "workers": 64}
    """Upper limits of parameters: more would exhaust memory or processes."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        takes: dict[str, inspect.Parameter] = {}
        for base in reversed(cls.__mro__[: cls.__mro__.index(SplitData) + 1]):
            parameters = inspect.signature(base.__init__).parameters.values()
            takes |= {p.name: p for p in parameters if p.kind is p.KEYWORD_ONLY}
        cls.__signature__ = inspect.Signature(list(takes.values()))

    def __init__(
        self,
        *,
        batch_size: int = 128,
        seed: int = 0,
        limit_train: int | None = None,
        limit_test: int | None = None,
        validation: float | None = None,
    ) -> None:
        super().__init__()
        self.batch_size, self.seed = batch_size, seed
        self.limit_train, self.limit_test, self.validation = limit_train, limit_test, validation
        self.train_set: Samples | None = None
        self.test_set: Samples | None = None
        self.validation_set: Samples | None = None
        if wrong := self.mistakes():
            raise SchemenetError("\n".join(wrong))

    def mistakes(self) -> list[str]:
        """The mistakes in the parameters, one line each."""
        given = {name: getattr(self, name) for name in self.least}
        wrong = [
            f"data.{name}: expected at least {self.least[name]}, got {value}"
            for name, value in given.items()
            if value is not None and not self.least[name] <= value < math.inf
        ]
        wrong += [
            f"data.{name}: expected at most {most:,}, got {value:,}"
            for name, most in self.most.items()
            if (value := getattr(self, name, None)) is not None and value > most
        ]
        if self.validation is not None and not 0 < self.validation < 1:
            wrong.append(f"data.validation: expected a share of the training set in (0, 1), got {self.validation}")
        return wrong

    @property
    def context(self) -> dict[str, Any]:
        """Arguments of ``create_model`` that depend on the data: classes, channels, and the side of images."""
        if not isinstance(shape := getattr(self, "shape", None), tuple):
            name = type(self).__name__
            raise SchemenetError(f"{name}: shape: expected that of a sample, such as (1, 28, 28), got {shape!r}")
        channels, *size = shape
        return {"num_classes": self.num_classes, "in_chans": channels, "image_size": size[0] if size else None}

    @property
    def eval_split(self) -> str:
        """The set that is evaluated, "test" or "validation", by which metrics and results are named."""
        return "test" if self.validation is None else "validation"

    @property
    def eval_set(self) -> Samples | None:
        """The set that is evaluated, None before ``setup``."""
        return self.test_set if self.validation is None else self.validation_set

    def __str__(self) -> str:
        sets = {"training": self.train_set, "validation": self.validation_set, "test": self.test_set}
        sizes = [f"{len(samples):,} {name}" for name, samples in sets.items() if samples is not None]
        return f"{type(self).__name__}: {' and '.join(sizes) or 'not loaded'} samples of shape {self.shape}"

    def load(self, train: bool) -> Samples:
        """The whole training or test set."""
        raise NotImplementedError

    def check(self) -> None:
        """Raise SchemenetError, before anything is read in full, where ``setup`` would fail."""

    def setup(self, stage: str | None = None) -> None:
        if self.train_set is not None:
            return
        train = _limited(self._loaded(train=True), self.limit_train)
        if self.validation is None:
            self.train_set, self.test_set = train, _limited(self._loaded(train=False), self.limit_test)
        else:
            training, validation = validation_split(len(train), self.validation)
            self.train_set, self.validation_set = train.part(training), train.part(validation)

    def objection(self, samples: Any) -> str | None:
        """Why the whole training or test set is none of this data; None where it is one."""
        kind = type(samples).__name__
        return None if isinstance(samples, Samples) else f"expected a set of samples, such as Labelled, got {kind}"

    def _loaded(self, train: bool) -> Samples:
        if (problem := self.objection(samples := self.load(train=train))) is not None:
            raise SchemenetError(f"{type(self).__name__}.load(train={train}): {problem}")
        return samples

    def train_dataloader(self) -> BatchLoader:
        overfit = getattr(self.trainer, "overfit_batches", 0) > 0  # then each epoch has the same batches
        return self._loader(self.train_set, train=True, shuffle=not overfit)

    def val_dataloader(self) -> BatchLoader:
        return self._loader(self.eval_set)

    def test_dataloader(self) -> BatchLoader:
        return self._loader(self.eval_set)

    def samples_per_batch(self, world_size: int = 1) -> int:
        """The training samples that one device sees at once: ``batch_size``, or all where they are fewer."""
        loaded = self.batch_size if self.train_set is None else len(self.train_set) // world_size
        return min(self.batch_size, loaded)

    def first(self, count: int) -> Any:
        """The first samples of the evaluated set, as inputs of a network."""
        loader = self._loader(self.eval_set)
        loader.batch_size = count
        return self.on_after_batch_transfer(next(iter(loader)), 0)

    def _loader(self, samples: Samples | None, **options: Any) -> BatchLoader:
        if samples is None:
            raise SchemenetError(f"{type(self).__name__} is not loaded; call setup() first")
        if self.trainer is not None:
            options |= {"rank": self.trainer.global_rank, "world_size": self.trainer.world_size}
        return self.loader(samples, self.batch_size, seed=self.seed, **options)


def validation_split(total: int, share: float) -> tuple[Tensor, Tensor]:
    """Split a training set; the same for every run.

    Args:
        total: samples of the training set.
        share: of them that is held out.

    Returns:
        Indices to train on and to hold out, both in order.
    """
    count = min(max(1, round(share * total)), total - 1)
    if count < 1:
        raise SchemenetError(f"data.validation: a training set of {total} has nothing to hold out")
    order = torch.randperm(total, generator=generator(DATA_SEED, VALIDATION_STREAM))
    return order[count:].sort().values, order[:count].sort().values


def _limited(samples: Samples, limit: int | None) -> Samples:
    return samples if limit is None or limit >= len(samples) else samples.part(subset(len(samples), limit))


def subset(total: int, limit: int | None) -> Tensor:
    """Indices of at most ``limit`` of ``total`` samples, in order; a fixed random draw, for sets sorted by class."""
    if limit is None or limit >= total:
        return torch.arange(total)
    return torch.randperm(total, generator=generator(DATA_SEED))[:limit].sort().values
