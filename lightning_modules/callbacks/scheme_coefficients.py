"""Callback that logs the learnable coefficients of schemes."""

from __future__ import annotations

import math
import warnings

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback

from lightning_modules.tasks.lightning_attributes import network_of
from schemes.core.scheme import Coefficient


class ZeroStabilityWarning(UserWarning):
    """A learned coefficient has left the range in which its scheme is zero-stable."""


class SchemeCoefficientLogger(Callback):
    """Logs every learnable coefficient of a network's schemes, before training and after each epoch.

    Keys are those of ``Model.coefficients``. The first coefficient outside the range in which its scheme is zero-stable
    is reported by one :class:`ZeroStabilityWarning`; none is clamped.
    """

    def __init__(self) -> None:
        self.has_warned = False

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # Before anything else is logged: a new key makes the csv file be rewritten.
        if trainer.global_step == 0:  # else the run resumes, and has logged them
            self._log(trainer, network_of(pl_module).coefficients())

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._log(trainer, network_of(pl_module).coefficients())

    def _log(self, trainer: pl.Trainer, coefficients: dict[str, Coefficient]) -> None:
        if not coefficients or not trainer.is_global_zero:
            return
        stacked = torch.stack([coefficient.value.detach() for coefficient in coefficients.values()])
        values: dict[str, float] = dict(zip(coefficients, stacked.tolist(), strict=True))
        for logger in trainer.loggers:
            logger.log_metrics({**values, "epoch": trainer.current_epoch}, step=trainer.global_step)
        if not self.has_warned:
            self._check_stability(values, coefficients)

    def _check_stability(self, values: dict[str, float], coefficients: dict[str, Coefficient]) -> None:
        for key, (name, _, _, low, high) in coefficients.items():
            if math.isfinite(values[key]) and not low < values[key] <= high:
                self.has_warned = True
                warnings.warn(
                    f"{key} = {values[key]:.3g} has left {low:g} < {name} <= {high:g}, where the scheme is "
                    "zero-stable; nothing is clamped, and every value is logged",
                    ZeroStabilityWarning,
                    stacklevel=2,
                )
                return
