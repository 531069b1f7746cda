"""Handwritten digits, 8x8, that are part of scikit-learn."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from lightning_modules.config.registries import DATA
from lightning_modules.data.datamodule import DATA_SEED
from lightning_modules.data.supervised.base import Labelled, LabelledData


@DATA.register("digits")
class Digits(LabelledData):
    """1,297 + 500 grey images 8x8, ten classes, a fixed stratified split; augmented by shifts of one pixel.

    Reference: Alpaydin and Kaynak, "Optical Recognition of Handwritten Digits", UCI, 1998.
    """

    shape, num_classes = (1, 8, 8), 10
    mean, std = (0.3053,), (0.3758,)
    pad = 1

    def load(self, train: bool) -> Labelled:
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split

        digits: Any = load_digits()
        images = np.rint(digits.images * (255 / 16)).astype(np.uint8)[:, None]
        split = train_test_split(images, digits.target, test_size=500, stratify=digits.target, random_state=DATA_SEED)
        train_images, test_images, train_labels, test_labels = map(torch.from_numpy, split)
        return Labelled(train_images, train_labels.long()) if train else Labelled(test_images, test_labels.long())
