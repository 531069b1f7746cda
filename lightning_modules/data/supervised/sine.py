"""Regression of a sine function."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch

from lightning_modules.config.registries import DATA
from lightning_modules.data.datamodule import DATA_SEED
from lightning_modules.data.loader import generator
from lightning_modules.data.supervised.base import Labelled, LabelledData


@DATA.register("sine", task="regression")
class Sine(LabelledData):
    """y = sin(x) for x uniform in [-pi, pi], normal ``noise`` on the y of the training set alone."""

    shape, num_classes = (1,), 1
    least: ClassVar = {**LabelledData.least, "train_size": 1, "test_size": 1, "noise": 0}

    def __init__(self, *, train_size: int = 256, test_size: int = 1000, noise: float = 0.0, **options: Any) -> None:
        self.train_size, self.test_size, self.noise = train_size, test_size, noise
        super().__init__(**options)

    def load(self, train: bool) -> Labelled:
        stream = generator(DATA_SEED, int(train))
        x = math.pi * (2 * torch.rand(self.train_size if train else self.test_size, 1, generator=stream) - 1)
        noise = self.noise * torch.randn(x.shape, generator=stream) if train else 0.0
        return Labelled(x, x.sin() + noise)
