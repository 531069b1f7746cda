"""What becomes of the coefficients that a scheme learns."""

from __future__ import annotations

import math
import warnings

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback

from schemes.core.scheme import Coefficient


class ZeroStabilityWarning(UserWarning):
    """A learned coefficient has left the range in which its scheme is zero-stable."""


class SchemeCoefficientLogger(Callback):
    """Logs every learnable coefficient of a network's schemes, before training and after each epoch.

    Keys are those of ``Model.coefficients``. The first to leave the range in which its scheme is zero-stable is told
    once; none is clamped.
    """

    def __init__(self) -> None:
        self.told = False

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        # Before anything else is logged: a csv file is written anew whenever a key comes in later.
        if trainer.global_step == 0:  # else the run goes on, and has said so
            self._log(trainer, module)

    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._log(trainer, module)

    def _log(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        coefficients: dict[str, Coefficient] = module.network.coefficients()
        if not coefficients or not trainer.is_global_zero:
            return
        found = torch.stack([coefficient.value.detach() for coefficient in coefficients.values()])
        values = dict(zip(coefficients, found.tolist(), strict=True))
        for logger in trainer.loggers:
            logger.log_metrics(values | {"epoch": trainer.current_epoch}, step=trainer.global_step)
        if not self.told:
            self._tell(values, coefficients)

    def _tell(self, values: dict[str, float], coefficients: dict[str, Coefficient]) -> None:
        for key, (name, _, _, low, high) in coefficients.items():
            if math.isfinite(values[key]) and not low < values[key] <= high:
                self.told = True
                warnings.warn(
                    f"{key} = {values[key]:.3g} has left {low:g} < {name} <= {high:g}, where the scheme is "
                    "zero-stable; nothing is clamped, and every value is logged",
                    ZeroStabilityWarning,
                    stacklevel=2,
                )
                return
