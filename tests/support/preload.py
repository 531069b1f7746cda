"""Importing this imports all that a run needs, so that processes that are forked afterwards begin at once."""

from __future__ import annotations

import torch
from sklearn import datasets, model_selection  # noqa: F401
from torchvision import datasets as images  # noqa: F401

from lightning_modules.config.compose import compose
from lightning_modules.config.static_registry import REGISTRIES, static_registry
from lightning_modules.training import run as running  # noqa: F401

torch.set_num_threads(1)
for group, (_, registry) in REGISTRIES.items():
    len(registry)
    static_registry(group)
compose("train", [])
datasets.load_digits()
