"""The loggers beside the csv file: TensorBoard, MLflow, and one of the user's own."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from pytorch_lightning.loggers import Logger

import schemenet
from lightning_modules.config.compose import compose
from lightning_modules.launching.multi_process import train
from lightning_modules.loggers.base import About, RunLogger
from lightning_modules.loggers.mlflow import MLflowRun
from lightning_modules.loggers.opening import check, opened
from lightning_modules.storage.atomic_files import read_rows
from schemes.errors import SchemenetError

QUICK = [
    "architecture=mlp", "architecture.hidden=4", "data=moons", "trainer.max_epochs=1", "trainer.threads=1",
    "trainer.log_every_n_steps=1", "trainer.limit_train_batches=3", "trainer.limit_test_batches=1",
]  # fmt: skip
ABOUT = About(key="0a1b2c3d-s0", name="a run", tags=("resnet",), config={"trainer": {"max_epochs": 2}, "noise": None})


def test_tensorboard_has_the_rows_of_the_csv_file_and_the_result(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    result = train(compose("train", [*QUICK, "logger=tensorboard"]), tmp_path)
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    losses = [
        (int(row["step"]), float(row["train/loss"])) for row in read_rows(tmp_path / "metrics.csv") if row["train/loss"]
    ]
    assert len(losses) == 3
    assert [(event.step, pytest.approx(event.value)) for event in events.Scalars("train/loss")] == losses
    assert events.Scalars("test_error")[-1].value == pytest.approx(result["test_error"])
    assert "_hparams_/session_start_info" in events.summary_metadata


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """MLflow's own files in place of a server."""
    for key in ("MLFLOW_DISABLE_TELEMETRY", "MLFLOW_ALLOW_FILE_STORE"):
        monkeypatch.setenv(key, "true")
    return f"file:{tmp_path}/store"


def test_mlflow_continues_the_run_that_it_has_begun(store: str, tmp_path: Path) -> None:
    from mlflow.tracking import MlflowClient

    section = {"name": "mlflow", "tracking_uri": store}
    ids = []
    for resumes in (False, True, False):
        with opened(section, tmp_path, ABOUT, resumes) as loggers:
            logger = loggers[1]
            assert isinstance(logger, MLflowRun)
            logger.log_metrics({"train/loss": 1.0}, step=len(ids))
            logger.conclude({"status": "done", "test_error": 0.25, "test_loss": None})
            logger.finalize("success")
        ids.append(logger.run_id)
    assert ids[0] == ids[1] != ids[2]
    client = MlflowClient(store)
    run = client.get_run(str(ids[0]))
    assert [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, "train/loss")] == [(0, 1.0), (1, 1.0)]
    assert run.data.metrics["result/test_error"] == 0.25
    assert run.data.params == {"trainer.max_epochs": "2"}
    assert (run.data.tags["schemenet.tags"], run.info.status, run.info.run_name) == ("resnet", "FINISHED", "a run")
    (tmp_path / "fails").mkdir()
    with pytest.raises(ZeroDivisionError), opened(section, tmp_path / "fails", ABOUT, False) as (_, failing):
        raise ZeroDivisionError
    assert client.get_run(str(failing.run_id)).info.status == "FAILED"  # pyright: ignore[reportAttributeAccessIssue]


def test_training_continues_when_mlflow_is_lost(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from mlflow.exceptions import MlflowException

    def gone(*_: Any, **__: Any) -> None:
        raise MlflowException("Connection refused\nand more")

    with opened({"name": "mlflow", "tracking_uri": store}, tmp_path, ABOUT, False) as loggers:
        monkeypatch.setattr(loggers[1].experiment, "log_batch", gone)
        for logger in [*loggers, *loggers]:
            logger.log_metrics({"train/loss": 1.0}, 0)
    assert capsys.readouterr().out.count("MLflow cannot be reached (Connection refused): metrics are logged") == 1
    assert len(read_rows(tmp_path / "metrics.csv")) == 2


def test_what_mlflow_needs_is_checked_before_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(SchemenetError, match=r"logger\.tracking_uri: expected .*MLFLOW_TRACKING_URI"):
        check({"name": "mlflow", "tracking_uri": None})
    with pytest.raises(SchemenetError, match="MLFLOW_TRACKING_PASSWORD"):
        check({"name": "mlflow", "tracking_uri": "https://me:secret@server"})


def test_a_missing_package_is_one_message_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *_: None if name == "mlflow" else find(name, *_))
    with pytest.raises(SchemenetError) as caught:
        compose("compare", ["logger=mlflow", "seeds=x"])
    assert "logger=mlflow needs mlflow: pip install mlflow" in str(caught.value)
    assert "seeds" in str(caught.value)  # all mistakes at once


def test_a_strangers_file_does_not_say_where_is_logged_to(tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "x.yaml").write_text(
        "# @package _global_\ndefaults: [override /logger: mlflow]\nlogger: {tracking_uri: 'http://theirs'}\n"
    )
    with pytest.raises(SchemenetError, match=r"logger\.tracking_uri is not read from it"):
        compose("train", ["experiment=x"], str(tmp_path))


def test_a_logger_of_the_users_own(tmp_path: Path) -> None:
    class Kept(Logger, RunLogger):
        def __init__(self, about: About, *, prefix: str = "") -> None:
            super().__init__()
            self.lines = [f"{prefix}{about.key}"]

        name, version = "kept", ""

        def log_hyperparams(self, *_: Any, **__: Any) -> None: ...

        def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
            self.lines.append(f"{step}")

        def conclude(self, result: Mapping[str, Any]) -> None:
            self.lines.append(str(result["status"]))

        def finish(self) -> None:
            made.append(self)

    made: list[Kept] = []
    schemenet.LOGGERS.register("kept")(Kept)
    try:
        config = compose("train", [*QUICK, "logger=kept", "logger.prefix=x-"])
        train(config, tmp_path)
    finally:
        schemenet.LOGGERS.remove("kept")
    (logger,) = made
    assert logger.lines[0] == f"x-{config.recipe_hash}-s0"
    assert logger.lines[-1] == "done"
    assert logger.lines[1:-1] == [row["step"] for row in read_rows(tmp_path / "metrics.csv")]
