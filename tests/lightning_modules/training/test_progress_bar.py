"""The progress bar says what the last line of a run says, in its words and units."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl

from lightning_modules.callbacks.progress_bar import TrainingBar, _described
from lightning_modules.data.supervised.digits import Digits


def test_measures_have_the_unit_of_the_final_line() -> None:
    assert _described("test/error", 0.028) == ("test error", "2.80 %")
    assert _described("validation/rmse", 0.5) == ("validation RMSE", "0.5000")
    assert _described("train/loss", 0.25) == ("train loss", 0.25)


def test_the_set_that_is_read_has_its_name(tmp_path: Path) -> None:
    bar = TrainingBar()
    trainer: Any = pl.Trainer(logger=False, callbacks=[bar], default_root_dir=tmp_path, max_epochs=7)
    bar.setup(trainer, None, "fit")  # type: ignore[arg-type]
    for data, name in ((Digits(), "test"), (Digits(validation=0.1), "validation")):
        trainer.datamodule = data
        assert bar.validation_description == name
    assert bar._get_train_description(0) == "epoch 1/7"


@pytest.mark.slow
def test_a_terminal_shows_epochs_and_errors_in_percent(tmp_path: Path) -> None:
    output = tmp_path / "screen"
    words = ["architecture.depth=8", "trainer.max_epochs=1", "trainer.limit_train_batches=2", "logger=csv"]
    command = [sys.executable, "-m", "lightning_modules", "train", *words, f"folder={tmp_path / 'run'}"]
    leader, follower = pty.openpty()
    with subprocess.Popen(command, stdout=follower, stderr=follower, stdin=subprocess.DEVNULL) as process:
        os.close(follower)
        with output.open("wb") as file:
            while True:
                try:
                    part = os.read(leader, 4096)
                except OSError:
                    break
                file.write(part)
        assert process.wait() == 0
    text = output.read_text(encoding="utf-8", errors="replace")
    assert "epoch 1/1" in text
    last = text.rstrip().splitlines()[-2:]
    assert "test error" in last[0]
    assert "next: schemenet eval" in last[1]
    assert last[0].count("%") == 1
    assert last[0].split(" %")[0].split()[-1] in text.split("test error")[-2]
