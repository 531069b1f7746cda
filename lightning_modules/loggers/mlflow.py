"""The logger ``mlflow``: metrics of a run on an MLflow server, or in a database of MLflow."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from lightning_fabric.utilities.rank_zero import rank_zero_only
from pytorch_lightning.loggers import MLFlowLogger

from lightning_modules.config.registries import LOGGERS
from lightning_modules.config.resolved import dotted
from lightning_modules.loggers.base import About, RunLogger, measured
from lightning_modules.loggers.wandb import first_line
from lightning_modules.storage.atomic_files import read_json, write_json
from schemes.errors import SchemenetError

IDENTITY = "mlflow.json"
ADDRESS = "MLFLOW_TRACKING_URI"
SETTINGS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",  # by default a dead server is waited for several minutes
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
}
"""MLflow's environment variables where the user has not set them."""


@LOGGERS.register("mlflow", requires=("mlflow",))
def mlflow(
    folder: Path,
    about: About,
    resumes: bool = False,
    *,
    tracking_uri: str | None = None,
    experiment: str = "schemenet",
) -> MLflowRun:
    """A run of MLflow.

    A run that resumes continues its MLflow run. MLflow cannot take back what was logged after the checkpoint: it is
    there twice, with the same step and value. Training continues where the server is lost.

    Args:
        folder: the run folder, in which the id of the MLflow run is kept.
        about: the description of the run.
        resumes: whether the run resumes from a checkpoint.
        tracking_uri: the address of the server, or of a database such as sqlite:///mlflow.db; null:
            MLFLOW_TRACKING_URI. Name and password are in MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD.
        experiment: MLflow's name for what the runs are part of.

    Raises:
        SchemenetError: the server or database cannot be used.
    """
    for key, value in SETTINGS.items():
        os.environ.setdefault(key, value)
    address = _address(tracking_uri)
    tags = {"schemenet.key": about.key, "schemenet.tags": ", ".join(about.tags)}
    tags |= {} if about.group is None else {"schemenet.group": about.group}
    from mlflow.exceptions import MlflowException

    try:
        run = MLflowRun(
            folder, experiment_name=experiment, run_name=about.name, tracking_uri=address, tags=tags,
            run_id=_stored_id(folder, about.key) if resumes else None,
        )  # fmt: skip
        run.begin({key: value for key, value in dotted(about.config or {}) if value is not None})
    except MlflowException as error:
        raise SchemenetError(f"logger=mlflow: {address} cannot be used ({first_line(error)})") from error
    write_json(folder / IDENTITY, {"id": run.run_id, "key": about.key})
    return run


def check(section: Mapping[str, Any]) -> None:
    """Raise SchemenetError where no address is known, or one with a password, which would be stored with the run."""
    _address(section.get("tracking_uri"))


def _address(tracking_uri: str | None) -> str:
    address = tracking_uri or os.environ.get(ADDRESS)
    if not address:
        raise SchemenetError(
            f"logger.tracking_uri: expected the address of MLflow, such as http://HOST:5000 or sqlite:///mlflow.db, or "
            f"the variable {ADDRESS}; got neither"
        )
    if tracking_uri and urlsplit(tracking_uri).password is not None:
        raise SchemenetError(
            "logger.tracking_uri: a password would be stored with the run; expected it in MLFLOW_TRACKING_PASSWORD, "
            "and the name in MLFLOW_TRACKING_USERNAME"
        )
    return address


class MLflowRun(MLFlowLogger, RunLogger):
    """Metrics of an MLflow run; the config is its parameters.

    Args:
        folder: the run folder.
        options: of Lightning's logger.
    """

    def __init__(self, folder: Path, **options: Any) -> None:
        super().__init__(**options)
        self.folder = folder
        self._status, self._gone = "FAILED", False

    def begin(self, parameters: Mapping[str, Any]) -> None:
        """Create the MLflow run, or continue it, and log its parameters."""
        super().log_hyperparams(dict(parameters))
        self.experiment.update_run(self.run_id, status="RUNNING")

    @rank_zero_only
    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        """Nothing: they were logged when the run began."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self._attempt(lambda: super(MLflowRun, self).log_metrics(metrics, step))

    @rank_zero_only
    def finalize(self, status: str = "success") -> None:
        """Nothing: the run ends with its result."""

    def conclude(self, result: Mapping[str, Any]) -> None:
        """Log the measures of the result as ``result/test_error`` ..., and its status as a tag."""
        self.log_metrics({f"result/{key}": value for key, value in measured(result).items()})
        self._attempt(lambda: self.experiment.set_tag(self.run_id, "schemenet.status", result["status"]))
        self._status = "FINISHED" if result["status"] == "done" else "FAILED"

    def finish(self) -> None:
        """End the MLflow run, as a failed one where there was no result."""
        self._attempt(lambda: self.experiment.set_terminated(self.run_id, self._status))

    def _attempt(self, action: Callable[[], None]) -> None:
        """Carry out a request to MLflow; after the first that fails training continues without it."""
        from mlflow.exceptions import MlflowException

        if self._gone:
            return
        try:
            action()
        except (MlflowException, OSError) as error:
            self._gone = True
            print(f"MLflow cannot be reached ({first_line(error)}): metrics are logged without it", flush=True)


def _stored_id(folder: Path, key: str) -> str | None:
    """The id of the MLflow run of a folder; None where there is none of this recipe and seed."""
    if not (folder / IDENTITY).is_file():
        return None
    identity = read_json(folder / IDENTITY)
    return str(identity["id"]) if identity.get("key") == key and "id" in identity else None
