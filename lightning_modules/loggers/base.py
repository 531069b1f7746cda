"""Loggers of a run: a csv file always, Weights & Biases optionally."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from lightning_fabric.utilities.rank_zero import rank_zero_only
from pytorch_lightning.loggers import Logger, WandbLogger

from lightning_modules.callbacks.solver_cost import SOLVER_COSTS
from lightning_modules.config.registries import LOGGERS
from lightning_modules.loggers import wandb as wandb_runs
from lightning_modules.loggers.csv import MetricsFile
from lightning_modules.storage.run_files import METRICS

STEP, EPOCH = "trainer/global_step", "epoch"
AXES = {
    **dict.fromkeys(
        ["train/*", *(f"{kind}/*" for kind in dict.fromkeys(name.split("/")[0] for name in SOLVER_COSTS))], STEP
    ),
    **dict.fromkeys(
        ["test/*", "validation/*", "k/*", "inversion/*", *(f"{name}/epoch" for name in SOLVER_COSTS)], EPOCH
    ),
}
"""The horizontal axis of each curve of W&B."""


@dataclass(frozen=True)
class About:
    """The description of a run for its loggers.

    Attributes:
        key: the same for the same recipe and seed.
        name: of the run, for people.
        group: the comparison or sweep that the run is part of.
        tags: its network, data and size.
        config: the complete config.
    """

    key: str
    name: str
    group: str | None = None
    tags: Sequence[str] = ()
    config: Mapping[str, Any] | None = None


@LOGGERS.register("csv")
def csv(folder: Path) -> list[Logger]:
    """``metrics.csv`` in the run folder."""
    return [MetricsFile(folder / METRICS)]


@LOGGERS.register("wandb")
def wandb(
    folder: Path,
    about: About,
    resumes: bool = False,
    *,
    project: str | None = None,
    entity: str | None = None,
    mode: Literal["offline", "online", "disabled"] | None = None,
) -> list[Logger]:
    """The csv file and a W&B run, in the first process of a run.

    A run that resumes keeps its id; what was logged after its checkpoint is logged again, with the same values.

    Args:
        folder: the run folder.
        about: the description of the run.
        resumes: whether the run resumes from a checkpoint.
        project: of W&B; null: WANDB_PROJECT if set, else schemenet.
        entity: of W&B.
        mode: null: WANDB_MODE if set, else online; where there is no key, or no server that takes it, the run is logged
            offline, and ``wandb sync FOLDER/wandb`` sends it later.
    """
    run = wandb_runs.begin(
        folder, mode=mode, id=wandb_runs.run_id(folder, about.key, resumes), resumes=resumes, job_type="train",
        project=wandb_runs.project(project), entity=entity, name=about.name, group=about.group, tags=about.tags,
        config=about.config,
    )  # fmt: skip
    return csv(folder) if run is None else [*csv(folder), Curves(run, folder)]


class Curves(WandbLogger):
    """Metrics as curves of a W&B run; the config and the result are its config and its summary."""

    def __init__(self, run: Any, folder: Path) -> None:
        super().__init__(experiment=run, save_dir=folder)
        self.folder, self._exit_code, self._gone = folder, 1, False
        for axis in (STEP, EPOCH):
            run.define_metric(axis)
        for metric, axis in AXES.items():
            run.define_metric(metric, step_metric=axis)

    @rank_zero_only
    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        """Nothing: they are in the config of the W&B run."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        with self._dispensable():
            super().log_metrics(metrics, step)

    def conclude(self, result: Mapping[str, Any]) -> None:
        """Write the result of the run into the summary."""
        always = ("status", "reason", "epochs", "train_loss", "ledger")
        measured = {k: v for k, v in result.items() if k.startswith(("test_", "validation_")) and v is not None}
        with self._dispensable():
            self.experiment.summary.update({k: v for k, v in result.items() if k in always} | measured)
        self._exit_code = 0 if result["status"] == "done" else 1

    def finish(self) -> None:
        """End the W&B run, as a failed one where there was no result."""
        if not self._gone:
            with self._dispensable():
                wandb_runs.finish(self.experiment, self.folder, self._exit_code)

    @contextmanager
    def _dispensable(self) -> Iterator[None]:
        """Errors of the connection to W&B's process, which may be killed: training continues without it."""
        try:
            yield
        except OSError as error:  # of the connection to it
            if not self._gone:
                wandb_runs.give_up(self.folder, error)
            self._gone = True


@contextmanager
def opened(logger: Mapping[str, Any], folder: Path, about: About, resumes: bool) -> Iterator[list[Logger]]:
    """The loggers of a run, which end with the block.

    Args:
        logger: the logger's section of the config.
        folder: the run folder.
        about: the description of the run.
        resumes: whether the run resumes from a checkpoint.
    """
    loggers = LOGGERS.build(logger, folder=folder, about=about, resumes=resumes)
    try:
        yield loggers
    finally:
        for curves in _curves(loggers):
            curves.finish()


def conclude(loggers: Sequence[Logger], result: Mapping[str, Any]) -> None:
    """Pass the result of the run to those loggers that keep it."""
    for curves in _curves(loggers):
        curves.conclude(result)


def _curves(loggers: Sequence[Logger]) -> list[Curves]:
    return [logger for logger in loggers if isinstance(logger, Curves)]
