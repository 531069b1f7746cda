"""The logger ``tensorboard``: metrics as scalars of TensorBoard, in the run folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning_fabric.utilities.rank_zero import rank_zero_only
from pytorch_lightning.loggers import TensorBoardLogger

from lightning_modules.config.registries import LOGGERS
from lightning_modules.loggers.base import About, RunLogger, measured


@LOGGERS.register("tensorboard", requires=("tensorboard",))
def tensorboard(folder: Path, about: About) -> Scalars:
    """Event files in FOLDER/tensorboard; ``tensorboard --logdir runs`` shows all runs below ``runs``.

    A run that resumes adds an event file. TensorBoard cannot take back what was logged after the checkpoint: it is
    there twice, with the same step and value.

    Args:
        folder: the run folder.
        about: the description of the run.
    """
    return Scalars(folder, about)


class Scalars(TensorBoardLogger, RunLogger):
    """Metrics as scalars; the config with the measures of the result are a row of TensorBoard's HPARAMS.

    Args:
        folder: the run folder.
        about: the description of the run.
    """

    def __init__(self, folder: Path, about: About) -> None:
        super().__init__(folder, name="", version="tensorboard", default_hp_metric=False)
        self.about = about

    @rank_zero_only
    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        """Nothing: Lightning's copy of the config comes without the measures, which are known at the end."""

    @rank_zero_only
    def save(self) -> None:
        """Flush; Lightning would write the config once more."""
        self.experiment.flush()

    def conclude(self, result: Mapping[str, Any]) -> None:
        """Log the config and the measures of the result."""
        super().log_hyperparams(dict(self.about.config or {}), measured(result))
        self.experiment.flush()

    def finish(self) -> None:
        """Close the event file."""
        self.experiment.close()
