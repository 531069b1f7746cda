"""What is logged of a training beside its loss, and where a result says it comes from."""

from __future__ import annotations

import json
import subprocess
import warnings
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor

from lightning_modules.config.compose import compose
from lightning_modules.launching.multi_process import train
from lightning_modules.storage.atomic_files import read_rows
from lightning_modules.training import provenance
from lightning_modules.training import run as running

MOONS = ["logger=csv", "architecture=mlp", "architecture.hidden=4", "data=moons", "data.batch_size=16",
         "data.limit_train=96", "trainer.threads=1", "optimizer.schedule=cosine"]  # fmt: skip


class Witness(running.Progress):
    """Computes the same by itself: norms before clipping, rates, and errors by a second pass."""

    norms: list[float]
    rates: list[float]
    wrong: list[Tensor]

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        with torch.no_grad():
            self.wrong.append(pl_module.network(batch[0]).argmax(1) != batch[1])

    def on_before_optimizer_step(self, trainer: pl.Trainer, pl_module: Any, optimizer: Any) -> None:
        self.norms.append(sum(float(p.grad.square().sum()) for p in pl_module.network.parameters()) ** 0.5)
        self.rates.append(optimizer.param_groups[0]["lr"])


@pytest.mark.parametrize("window", [1, 2])
def test_rate_norm_and_error_are_those_of_the_steps(window: int, tmp_path: Path, monkeypatch: Any) -> None:
    Witness.norms, Witness.rates, Witness.wrong = [], [], []
    monkeypatch.setattr(running, "Progress", Witness)
    options = ["trainer.max_epochs=2", "trainer.log_every_n_steps=2", "trainer.gradient_clip_val=1e-3"]
    train(compose("train", [*MOONS, *options, f"trainer.accumulate_grad_batches={window}"]), tmp_path)
    rows = read_rows(tmp_path / "metrics.csv")
    of_steps = [row for row in rows if row["train/loss"]]
    assert len(of_steps) == 12 // window // 2
    for key, values in (("train/lr", Witness.rates), ("train/grad_norm", Witness.norms)):
        assert [float(row[key]) for row in of_steps] == pytest.approx(values[1::2], rel=1e-4)
    errors = torch.cat(Witness.wrong).float().view(len(of_steps), -1).mean(1).tolist()  # of the batches of two steps
    assert [float(row["train/error"]) for row in of_steps] == pytest.approx(errors)
    assert len(set(errors)) > 1
    assert min(Witness.norms) > 1e-3
    assert [row["epoch"] for row in rows if row["time/epoch"]] == ["0", "1"]


def test_a_regression_has_no_training_error(tmp_path: Path) -> None:
    words = ["data=sine", "data.batch_size=16", "trainer.log_every_n_steps=1", "trainer.max_epochs=1"]
    train(compose("train", [*MOONS[:3], *words, "trainer.limit_train_batches=2"]), tmp_path)
    assert "train/grad_norm" in (row := read_rows(tmp_path / "metrics.csv")[0])
    assert "train/error" not in row


def test_a_result_says_when_where_and_by_what_it_was_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["/somewhere/schemenet", "train", "logger=csv", "a b"])
    monkeypatch.delenv("SCHEMENET_COMMAND", raising=False)
    result = train(compose("train", [*MOONS, "trainer.max_epochs=1", "trainer.limit_train_batches=1"]), tmp_path)
    source = json.loads((tmp_path / "result.json").read_text())["provenance"]
    assert source == result["provenance"]
    assert timedelta(0) <= datetime.now(UTC) - datetime.fromisoformat(source["date"]) < timedelta(minutes=5)
    assert source["command"] == "schemenet train logger=csv 'a b'"
    assert source["host"]
    assert source["device"]
    head = subprocess.run(
        ["git", "-C", str(provenance.ROOT), "rev-parse", "HEAD"], capture_output=True, text=True, check=False
    )
    assert (source["commit"] or "").removesuffix("-dirty") == head.stdout.strip()


def test_without_git_there_is_no_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert provenance.commit.__wrapped__() is None
    monkeypatch.undo()
    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    assert provenance.commit.__wrapped__() is None
    (tmp_path / ".git").mkdir()
    with warnings.catch_warnings(action="error"):
        assert provenance.commit.__wrapped__() is None
