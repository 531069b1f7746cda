"""The logger ``wandb``: metrics as curves of a W&B run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from lightning_fabric.utilities.rank_zero import rank_zero_only
from pytorch_lightning.loggers import WandbLogger

from lightning_modules.callbacks.solver_cost import SOLVER_COSTS
from lightning_modules.config.registries import LOGGERS
from lightning_modules.loggers import wandb as wandb_runs
from lightning_modules.loggers.base import About, RunLogger, measured
from lightning_modules.storage.run_files import BEST_CHECKPOINT, CHECKPOINT
from schemes.errors import SchemenetError

STEP, EPOCH = "trainer/global_step", "epoch"
AXES = {
    **dict.fromkeys(
        ["train/*", *(f"{kind}/*" for kind in dict.fromkeys(name.split("/")[0] for name in SOLVER_COSTS))], STEP
    ),
    **dict.fromkeys(
        ["test/*", "validation/*", "k/*", "inversion/*", "time/*", *(f"{name}/epoch" for name in SOLVER_COSTS)], EPOCH
    ),
}
"""The horizontal axis of each curve of W&B."""

PATIENCE = 120.0
"""Seconds to wait at the end of a run until its checkpoints are sent."""

LONGEST_TAG = 64
"""Characters of a tag that W&B takes."""


@LOGGERS.register("wandb")
def wandb(
    folder: Path,
    about: About,
    resumes: bool = False,
    *,
    project: str | None = None,
    entity: str | None = None,
    mode: Literal["offline", "online", "disabled"] | None = None,
    tags: Sequence[str] = (),
    notes: str | None = None,
    group: str | None = None,
    checkpoint: bool = False,
) -> Curves | None:
    """A W&B run, in the first process of a run; None where W&B cannot be started.

    A run that resumes keeps its id; what was logged after its checkpoint is logged again, with the same values.

    Args:
        folder: the run folder.
        about: the description of the run.
        resumes: whether the run resumes from a checkpoint.
        project: of W&B; null: WANDB_PROJECT if set, else schemenet.
        entity: of W&B.
        mode: null: WANDB_MODE if set, else online; where there is no key, or no server that takes it, the run is logged
            offline, and ``wandb sync FOLDER/wandb`` sends it later.
        tags: in addition to those of the network, the data and the size.
        notes: a text about the run.
        group: null: the comparison or sweep that the run is part of.
        checkpoint: whether ``last.ckpt``, and ``best.ckpt`` where there is one, are sent at the end, as an artifact of
            type ``model``.
    """
    run = wandb_runs.begin(
        folder, mode=mode, id=wandb_runs.run_id(folder, about.key, resumes), resumes=resumes, job_type="train",
        project=wandb_runs.project(project), entity=entity, name=about.name, group=group or about.group,
        tags=list(dict.fromkeys([*about.tags, *tags])), notes=notes, config=about.config,
        patience=PATIENCE if checkpoint else wandb_runs.FINISH,
    )  # fmt: skip
    return None if run is None else Curves(run, folder, checkpoint)


def check(section: Mapping[str, Any]) -> None:
    """Raise SchemenetError for a mode or a tag that W&B does not know."""
    wandb_runs.requested_mode(section.get("mode"))
    for tag in section.get("tags") or ():
        if not 0 < len(tag) <= LONGEST_TAG:
            raise SchemenetError(f"logger.tags: expected tags of 1 to {LONGEST_TAG} characters, got {tag!r}")


class Curves(WandbLogger, RunLogger):
    """Metrics as curves of a W&B run; the config and the result are its config and its summary.

    Args:
        run: the W&B run.
        folder: the run folder.
        with_checkpoint: whether the checkpoints are sent at the end.
    """

    def __init__(self, run: Any, folder: Path, with_checkpoint: bool = False) -> None:
        super().__init__(experiment=run, save_dir=folder)
        self.folder, self.with_checkpoint = folder, with_checkpoint
        self._exit_code, self._gone = 1, False
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
        """Write the result of the run into the summary, and send the checkpoints where that is requested."""
        always = ("status", "reason", "stopped", "chosen", "epochs", "train_loss", "ledger")
        with self._dispensable():
            self.experiment.summary.update({k: v for k, v in result.items() if k in always} | measured(result))
            if self.with_checkpoint:
                self._send_checkpoints()
        self._exit_code = 0 if result["status"] == "done" else 1

    def finish(self) -> None:
        """End the W&B run, as a failed one where there was no result."""
        if not self._gone:
            with self._dispensable():
                wandb_runs.finish(self.experiment, self.folder, self._exit_code)

    def _send_checkpoints(self) -> None:
        artifact = wandb_runs.wandb_module().Artifact(f"checkpoint-{self.experiment.id}", type="model")
        for path in (self.folder / CHECKPOINT, self.folder / BEST_CHECKPOINT):
            if path.exists():
                artifact.add_file(str(path))
        try:
            self.experiment.log_artifact(artifact)
        except Exception as error:  # W&B asks its server first, which may answer anything
            print(
                f"W&B has not got the checkpoint ({wandb_runs.first_line(error)}); it is in {self.folder}", flush=True
            )

    @contextmanager
    def _dispensable(self) -> Iterator[None]:
        """Errors of the connection to W&B's process, which may be killed: training continues without it."""
        try:
            yield
        except OSError as error:  # of the connection to it
            if not self._gone:
                wandb_runs.give_up(self.folder, error)
            self._gone = True
