"""Handwritten digits, 8x8, as samples of a density of 64 dimensions."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from lightning_modules.config.registries import DATA
from lightning_modules.data.datamodule import DATA_SEED
from lightning_modules.data.density.base import DensityData, Rows
from lightning_modules.data.loader import generator

LEVELS = 17
"""Grey levels: 0 to 16."""
NOISE = 3
"""Stream of DATA_SEED that spreads the levels."""


@DATA.register("digits_density", task="density")
class DigitsDensity(DensityData):
    r"""1,297 + 500 images 8x8, the split of ``digits``, as 64 numbers in (0, 17): levels 0 to 16, each spread.

        v = level + u,   u uniform in [0, 1),        x = logit(a + (1 - 2a) v / 17),   a = ``alpha``

    u is fixed in the test set and drawn anew for each batch in training. Nats and bits per dimension are of v, and so
    bound those of the levels from above.

    References: Alpaydin and Kaynak, "Optical Recognition of Handwritten Digits", UCI, 1998; Dinh, Sohl-Dickstein,
    Bengio, ICLR 2017, arXiv:1605.08803, section 4.1 (the logit).
    """

    shape, picture = (64,), (8, 8)

    def __init__(self, *, alpha: float = 0.05, **options: Any) -> None:
        self.alpha = alpha
        super().__init__(**options)

    def mistakes(self) -> list[str]:
        wrong = [] if 0 < self.alpha < 0.5 else [f"data.alpha: expected a number in (0, 0.5), got {self.alpha}"]
        return super().mistakes() + wrong

    def load(self, train: bool) -> Rows:
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split

        digits: Any = load_digits()
        levels = digits.data.astype(np.float32)
        split = train_test_split(levels, test_size=500, stratify=digits.target, random_state=DATA_SEED)
        chosen = torch.from_numpy(split[0 if train else 1])
        return Rows(chosen + torch.rand(chosen.shape, generator=generator(DATA_SEED, NOISE, int(train))))

    def on_after_batch_transfer(self, batch: Tensor, dataloader_idx: int) -> Tensor:
        """x, on the device; in training of another u."""
        if self.trainer is not None and self.trainer.training:
            batch = batch.floor() + torch.rand_like(batch)
        return torch.logit(self.alpha + (1 - 2 * self.alpha) * batch / LEVELS)

    def log_jacobian(self, x: Tensor) -> Tensor:
        of_logit = -functional.logsigmoid(x) - functional.logsigmoid(-x)
        return (of_logit + math.log((1 - 2 * self.alpha) / LEVELS)).sum(1)

    def original(self, x: Tensor) -> Tensor:
        return LEVELS * (torch.sigmoid(x) - self.alpha) / (1 - 2 * self.alpha)
