"""The loggers of a run: the csv file always, and the one that the config names."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import Logger

from lightning_modules.config.registries import LOGGERS
from lightning_modules.loggers import mlflow, wandb_curves
from lightning_modules.loggers.base import About, RunLogger
from lightning_modules.loggers.csv import MetricsFile
from lightning_modules.storage.run_files import METRICS

CHECKS: Mapping[str, Callable[[Mapping[str, Any]], None]] = {"mlflow": mlflow.check, "wandb": wandb_curves.check}
"""What can be known of a logger before a run begins, beyond the types of its options."""


def check(section: Mapping[str, Any]) -> None:
    """Raise SchemenetError where the logger's section of a config cannot be used."""
    if section["name"] in CHECKS:
        CHECKS[section["name"]](section)


@contextmanager
def opened(section: Mapping[str, Any], folder: Path, about: About, resumes: bool) -> Iterator[list[Logger]]:
    """The loggers of a run, which end with the block.

    Args:
        section: the logger's section of the config.
        folder: the run folder.
        about: the description of the run.
        resumes: whether the run resumes from a checkpoint.
    """
    chosen = LOGGERS.build(section, folder=folder, about=about, resumes=resumes)
    loggers: list[Logger] = [MetricsFile(folder / METRICS), *([] if chosen is None else [chosen])]
    try:
        yield loggers
    finally:
        for logger in _run_loggers(loggers):
            logger.finish()


def conclude(loggers: Sequence[Logger], result: Mapping[str, Any]) -> None:
    """Pass the result of the run to those loggers that keep it."""
    for logger in _run_loggers(loggers):
        logger.conclude(result)


def _run_loggers(loggers: Sequence[Logger]) -> list[RunLogger]:
    return [logger for logger in loggers if isinstance(logger, RunLogger)]
