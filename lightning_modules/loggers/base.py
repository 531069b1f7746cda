"""Where metrics go: a csv file always, Weights & Biases beside it."""

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
"""What W&B draws each curve against."""


@dataclass(frozen=True)
class About:
    """What a run is, told to its loggers once. ``key`` is the same for the same recipe and seed."""

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
    """The csv file and a W&B run; loggers are of the first process alone.

    ``mode`` null: the environment variable WANDB_MODE if set, else online; where there is no key, or no server that
    takes it, the run is logged offline, and ``wandb sync FOLDER/wandb`` sends it later. ``project`` null: WANDB_PROJECT
    if set, else schemenet. A run that goes on keeps its id; what was logged after its checkpoint is logged again, with
    the same values.
    """
    run = wandb_runs.begin(
        folder, mode=mode, id=wandb_runs.run_id(folder, about.key, resumes), resumes=resumes, job_type="train",
        project=wandb_runs.project(project), entity=entity, name=about.name, group=about.group, tags=about.tags,
        config=about.config,
    )  # fmt: skip
    return csv(folder) if run is None else [*csv(folder), Curves(run, folder)]


class Curves(WandbLogger):
    """What Lightning logs, as curves of a W&B run; what is known once stands in its config and its summary."""

    def __init__(self, run: Any, folder: Path) -> None:
        super().__init__(experiment=run, save_dir=folder)
        self.folder, self._exit_code, self._gone = folder, 1, False
        for axis in (STEP, EPOCH):
            run.define_metric(axis)
        for metric, axis in AXES.items():
            run.define_metric(metric, step_metric=axis)

    @rank_zero_only
    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        """They are in the run's config."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        with self._dispensable():
            super().log_metrics(metrics, step)

    def conclude(self, result: Mapping[str, Any]) -> None:
        """What became of the run, for its summary."""
        always = ("status", "reason", "epochs", "train_loss", "ledger")
        measured = {k: v for k, v in result.items() if k.startswith(("test_", "validation_")) and v is not None}
        with self._dispensable():
            self.experiment.summary.update({k: v for k, v in result.items() if k in always} | measured)
        self._exit_code = 0 if result["status"] == "done" else 1

    def finish(self) -> None:
        """End the run, as a failed one where nothing was concluded."""
        if not self._gone:
            with self._dispensable():
                wandb_runs.finish(self.experiment, self.folder, self._exit_code)

    @contextmanager
    def _dispensable(self) -> Iterator[None]:
        """W&B's own process may be killed, or die for want of memory: training goes on without it."""
        try:
            yield
        except OSError as error:  # of the connection to it
            if not self._gone:
                wandb_runs.give_up(self.folder, error)
            self._gone = True


@contextmanager
def opened(logger: Mapping[str, Any], folder: Path, about: About, resumes: bool) -> Iterator[list[Logger]]:
    """The loggers of a run, which end with the block."""
    loggers = LOGGERS.build(logger, folder=folder, about=about, resumes=resumes)
    try:
        yield loggers
    finally:
        for curves in _curves(loggers):
            curves.finish()


def conclude(loggers: Sequence[Logger], result: Mapping[str, Any]) -> None:
    """Tell the loggers what became of the run."""
    for curves in _curves(loggers):
        curves.conclude(result)


def _curves(loggers: Sequence[Logger]) -> list[Curves]:
    return [logger for logger in loggers if isinstance(logger, Curves)]
