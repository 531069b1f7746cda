"""Seeds of the processes of a run on several devices, and a check of synchronised norms."""

from __future__ import annotations

import random

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch.nn.modules.batchnorm import _BatchNorm

from architectures.model import Model


class RankSeed(Callback):
    """Seeds each process after the first separately, so that no two draw the same dropout masks.

    Until training begins all processes draw the same numbers, for the same weights; then rank r draws from (seed, r).
    A run that resumes takes its random state from the checkpoint.

    Args:
        seed: the seed of the run.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.global_rank:
            words = np.random.SeedSequence((self.seed, trainer.global_rank)).generate_state(3)
            for begin, word in zip((torch.manual_seed, np.random.seed, random.seed), words.tolist(), strict=True):
                begin(word)


def deadlock_reason(network: Model) -> str | None:
    """Why synchronised batch norm would deadlock; None where it would not.

    Under an implicit scheme the number of evaluations of f differs between devices, and each of them waits for the
    others.
    """
    for flow in network.flows:
        if flow.scheme.implicit and any(isinstance(part, _BatchNorm) for part in flow.modules()):
            return (
                f"{type(flow.scheme).__name__} evaluates f as often as its equations ask for, on each device a number "
                "of times of its own, and there the norms would wait for each other; use norm=group"
            )
    return None
