"""A run that is killed goes on by the same command and ends as if nothing had happened."""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from PIL import Image

from lightning_modules.cli import main
from lightning_modules.comparing.plan import make_plan
from lightning_modules.config.compose import compose
from lightning_modules.config.resolved import ResolvedConfig
from lightning_modules.launching import multi_process
from lightning_modules.loggers.csv import MetricsFile
from lightning_modules.training import run as running
from lightning_modules.training import run_folder
from lightning_modules.training.checkpointing import random_state, set_random_state
from schemes.errors import SchemenetError, StepLimitError
from tests.support.crash_injection import assert_equal
from tests.support.overrides import but
from tests.support.run_folders import logged, measured

ROOT = Path(__file__).resolve().parents[3]
RANDOM_NETWORK = [
    "architecture=fractalnet", "architecture.columns=2", "architecture.width=0.05", "architecture.dropout=0.2",
]  # fmt: skip  # and drop-path
OFTEN = [
    "trainer.threads=1",
    "trainer.log_every_n_steps=2",
    "trainer.checkpoint_every_n_steps=2",
    "trainer.max_epochs=3",
]
DIGITS = ["data.augment=true", "data.batch_size=16", "data.limit_train=80", "data.limit_test=32"]  # 5 steps an epoch
QUICK = ["logger=csv", *RANDOM_NETWORK, *OFTEN, *DIGITS]


class Killed(BaseException):
    """What no handler expects."""


def dying(monkeypatch: pytest.MonkeyPatch, hook: str, step: int, end: Callable[[], Any]) -> None:
    """Let runs end in a hook of the trainer after so many optimiser steps, before the hook has done its work."""

    class Dying(running.Progress):
        pass

    def die(self: Any, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step == step:
            end()

    setattr(Dying, hook, die)
    monkeypatch.setattr(running, "Progress", Dying)


def kill() -> None:
    raise Killed


def train_killed(monkeypatch: pytest.MonkeyPatch, config: dict[str, Any], folder: Path, hook: str, step: int) -> None:
    with monkeypatch.context() as patch:
        dying(patch, hook, step, kill)
        with pytest.raises(Killed):
            multi_process.train(config, folder)


def assert_same_run(one: Path, other: Path) -> None:
    """Weights, optimiser, random state, counters, every metric and the result."""
    checkpoints = [torch.load(folder / "last.ckpt", weights_only=True) for folder in (one, other)]
    for checkpoint in checkpoints:
        checkpoint["hyper_parameters"].pop("config")  # it also says where and how the data is read
    assert_equal(*checkpoints)
    assert logged(one) == logged(other)
    results = [measured(folder) for folder in (one, other)]
    for result in results:
        result.pop("name"), result.pop("arm", None)
    assert results[0] == results[1]
    assert not (other / "previous.ckpt").exists()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that nothing interrupts."""
    folder = tmp_path_factory.mktemp("whole")
    multi_process.train(compose("train", QUICK), folder)
    return folder


@pytest.mark.parametrize(
    ("hook", "step", "place"),
    [
        ("on_train_batch_end", 4, "epoch 0, step 2 of 15"),  # its row is not logged yet
        ("on_validation_end", 10, "epoch 1, step 8 of 15"),
        ("on_train_batch_end", 11, "epoch 2, step 10 of 15"),
    ],
)
def test_killed_at_any_place(
    hook: str, step: int, place: str, whole: Path, tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    config = compose("train", QUICK)
    train_killed(monkeypatch, config, tmp_path, hook, step)
    multi_process.train(config, tmp_path)
    assert f"resumes from {place}" in capsys.readouterr().out
    assert_same_run(whole, tmp_path)


def test_killed_before_the_first_checkpoint_begins_anew(whole: Path, tmp_path: Path, monkeypatch: Any) -> None:
    config = compose("train", QUICK)
    train_killed(monkeypatch, config, tmp_path, "on_train_batch_end", 1)
    multi_process.train(config, tmp_path)
    assert_same_run(whole, tmp_path)


def test_killed_between_the_last_step_and_the_result(whole: Path, tmp_path: Path, monkeypatch: Any) -> None:
    config = compose("train", QUICK)
    with monkeypatch.context() as patch:
        patch.setattr(running, "ledger", lambda *_: kill())
        with pytest.raises(Killed):
            multi_process.train(config, tmp_path)
    multi_process.train(config, tmp_path)
    assert_same_run(whole, tmp_path)


def test_killed_twice_while_gradients_accumulate(tmp_path: Path, monkeypatch: Any) -> None:
    """And where the coefficients that a scheme learns are logged."""
    accumulating = ["trainer.accumulate_grad_batches=2", "trainer.limit_train_batches=4"]
    network = ["architecture=lm_resnet", "architecture.width=0.1"]
    config = compose("train", ["logger=csv", *network, *OFTEN, *DIGITS, *accumulating])
    multi_process.train(config, tmp_path / "whole")
    for step in (3, 5):
        train_killed(monkeypatch, config, tmp_path / "killed", "on_train_batch_end", step)
    multi_process.train(config, tmp_path / "killed")
    assert_same_run(tmp_path / "whole", tmp_path / "killed")


@pytest.mark.slow
def test_command_killed_within_an_epoch_with_two_workers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By SIGKILL, with augmentation, dropout and batches that workers have already fetched."""
    rng = np.random.default_rng(0)
    for part in ("train", "test"):
        for name in ("cat", "dog"):
            (tmp_path / "data" / part / name).mkdir(parents=True)
            for number in range(24):
                pixels = rng.integers(0, 256, (10, 9, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / "data" / part / name / f"{number}.png")
    command = [
        "train", "data=image_folder", f"data.root={tmp_path / 'data'}", "data.size=8", "data.batch_size=6",
        "data.augment=true", "logger=csv", *RANDOM_NETWORK, *OFTEN,
    ]  # fmt: skip
    streamed = [*command, "data.decode=each_epoch", "data.workers=2", f"folder={tmp_path / 'killed'}"]
    die_at_step_5 = (
        f"import os, sys; sys.path.insert(0, {str(ROOT)!r})\n"
        "from lightning_modules import cli\nfrom lightning_modules.callbacks.run_status import Progress\n"
        "Progress.on_train_batch_end = lambda _, trainer, *__: trainer.global_step == 5 and os.kill(0, 9)\n"
        "cli.main(sys.argv[1:])"
    )
    died = subprocess.run([sys.executable, "-c", die_at_step_5, *streamed], check=False, start_new_session=True)
    assert died.returncode == -signal.SIGKILL
    assert main(streamed) == 0
    assert "resumes from epoch 0, step 4 of 24" in capsys.readouterr().out
    assert main([*command, f"folder={tmp_path / 'whole'}"]) == 0
    assert_same_run(tmp_path / "whole", tmp_path / "killed")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_run_after_its_step(
    number: signal.Signals, whole: Path, tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    command = ["train", *QUICK, f"folder={tmp_path}"]
    with monkeypatch.context() as patch:
        dying(patch, "on_train_batch_end", 7, lambda: os.kill(os.getpid(), number))
        assert main(command) == 130
    assert "the same command resumes" in capsys.readouterr().err
    assert main(command) == 0
    assert "resumes from epoch 1, step 7 of 15" in capsys.readouterr().out
    assert_same_run(whole, tmp_path)


@pytest.mark.parametrize(
    ("words", "step"),
    [
        ([], 5),  # in the first epoch, where there is no checkpoint of an epoch's end yet
        (["trainer.ema=0.9", "trainer.max_epochs=2", "trainer.check_test_every_n_epoch=5"], 10),  # averaged, the last
        (["trainer.max_epochs=2", "trainer.accumulate_grad_batches=2", "trainer.limit_train_batches=4"], 2),
    ],
)
def test_a_signal_while_the_test_set_is_read_costs_no_step(
    words: list[str], step: int, tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    """The checkpoint is of before that, and the test set is read again: by the random numbers of then."""
    recipe, whole = but(QUICK, *words), tmp_path / "whole"
    command = ["train", *recipe, f"folder={tmp_path / 'run'}"]
    multi_process.train(compose("train", recipe), whole)
    with monkeypatch.context() as patch:
        dying(patch, "on_validation_batch_end", step, lambda: (torch.rand(3), os.kill(os.getpid(), signal.SIGTERM)))
        assert main(command) == 130
    assert torch.load(tmp_path / "run" / "last.ckpt", weights_only=True)["global_step"] == step
    capsys.readouterr()
    assert main(command) == 0
    assert f"step {step} of" in capsys.readouterr().out
    assert_same_run(whole, tmp_path / "run")


def test_a_limit_that_is_reached_while_the_test_set_is_read_costs_no_step(
    whole: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    config = compose("train", QUICK)

    def reach() -> None:
        raise StepLimitError("more than 3 steps")

    with monkeypatch.context() as patch:
        dying(patch, "on_validation_batch_end", 5, reach)
        assert multi_process.train(config, tmp_path)["status"] == running.FAILED
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == 5
    multi_process.train(config, tmp_path)
    assert_same_run(whole, tmp_path)


def test_a_damaged_checkpoint_gives_way_to_the_one_before(
    whole: Path, tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    config = compose("train", QUICK)
    train_killed(monkeypatch, config, tmp_path, "on_train_batch_end", 9)
    newest = tmp_path / "last.ckpt"
    newest.write_bytes(newest.read_bytes()[:-1000])
    multi_process.train(config, tmp_path)
    told = capsys.readouterr().out.splitlines()
    assert "last.ckpt cannot be read as a checkpoint (RuntimeError): it is damaged, or something else; the" in told[0]
    assert "resumes from epoch 1, step 6 of 15" in told[1]
    assert_same_run(whole, tmp_path)


def test_two_damaged_checkpoints_are_not_trained_over(tmp_path: Path, monkeypatch: Any) -> None:
    config = compose("train", QUICK)
    train_killed(monkeypatch, config, tmp_path, "on_train_batch_end", 5)
    for name in ("last.ckpt", "previous.ckpt"):
        (tmp_path / name).write_bytes(b"PK")
    with pytest.raises(SchemenetError, match=r"previous.ckpt cannot be read .*\noverwrite=true") as caught:
        multi_process.train(config, tmp_path)
    assert "weights_only" not in str(caught.value)  # torch's advice is to unpickle whatever is there
    assert (tmp_path / "last.ckpt").read_bytes() == b"PK"


def test_a_full_disk_is_told_and_costs_nothing(whole: Path, tmp_path: Path, monkeypatch: Any) -> None:
    """A limit on the size of files stands for the disk: the second checkpoint cannot be written to its end."""
    config = compose("train", QUICK)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        with monkeypatch.context() as patch:
            dying(patch, "on_train_batch_end", 3, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (5000, limits[1])))
            with pytest.raises(SchemenetError, match=r"cannot write .*last\.ckpt: File too large; what was there"):
                multi_process.train(config, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list(tmp_path.glob("*.tmp"))
    multi_process.train(config, tmp_path)
    assert_same_run(whole, tmp_path)


def test_recipes_are_not_mixed_and_overwrite_begins_anew(tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    train_killed(monkeypatch, compose("train", QUICK), tmp_path, "on_train_batch_end", 3)
    other = ["train", *QUICK, "optimizer.lr=0.01", f"folder={tmp_path}"]
    assert main(other) == 2
    assert "another recipe or seed" in capsys.readouterr().err
    assert main([*other, "overwrite=true"]) == 0
    assert "resumes" not in capsys.readouterr().out
    same = run_folder.ExistingRun(compose("train", other[1:-1]).recipe_hash, 0, True)
    assert run_folder.find_run(tmp_path) == same


@pytest.mark.slow
def test_a_comparison_goes_on_with_the_run_that_was_killed(tmp_path: Path, monkeypatch: Any) -> None:
    arm = ["networks=[fractalnet]", "baseline=fractalnet", "arms.fractalnet.dropout=0.2", "arms.fractalnet.columns=2"]
    overrides = ["experiment=demo", *arm, "controls=[]", "seeds=1", "budget={target: 8k, tolerance: 0.2}"]
    overrides += [*OFTEN, *DIGITS, f"folder={tmp_path}"]
    (planned,) = make_plan(compose("compare", overrides)).arms
    config = ResolvedConfig(json.loads(json.dumps({**planned.config, "seed": 0})))  # as a job holds it
    train_killed(monkeypatch, config, tmp_path / "fractalnet" / "seed0", "on_train_batch_end", 9)
    assert main(["compare", *overrides]) == 0
    assert "resumes from epoch 1, step 8 of 15" in (tmp_path / "fractalnet" / "seed0" / "log.txt").read_text()
    multi_process.train(config, tmp_path / "whole")
    assert_same_run(tmp_path / "whole", tmp_path / "fractalnet" / "seed0")


def test_a_diverged_run_stays_so(tmp_path: Path, monkeypatch: Any) -> None:
    config = compose("train", [*QUICK, "optimizer.lr=1e9", "architecture.norm=none"])
    with monkeypatch.context() as patch:
        patch.setattr(running, "ledger", lambda *_: kill())
        with pytest.raises(Killed):
            multi_process.train(config, tmp_path)
    step = torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"]
    assert multi_process.train(config, tmp_path)["status"] == "diverged"
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == step < 15


def test_random_state_is_plain_and_complete(tmp_path: Path) -> None:
    def draw() -> list[float]:
        return [torch.rand(()).item(), np.random.normal(), random.random()]

    draw()
    torch.save(random_state(), tmp_path / "state")
    first = draw()
    set_random_state(torch.load(tmp_path / "state", weights_only=True))
    assert draw() == first


def test_metrics_file_keeps_what_it_is_told(tmp_path: Path) -> None:
    file = MetricsFile(tmp_path / "metrics.csv")
    file.log_metrics({"b": 0.1}, 1)
    file.log_metrics({"a": 1 / 3}, 1)
    assert file.path.read_text() == "a,b,step\n,0.1,1\n0.3333333333333333,,1\n"
    again = MetricsFile(file.path)
    again.keep(1)
    again.log_metrics({"c": 3}, 2)
    assert again.path.read_text() == "a,b,c,step\n,0.1,,1\n,,3,2\n"
    again.keep(0)
    assert not again.path.exists()


def test_rows_that_somebody_deletes_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = MetricsFile(tmp_path / "metrics.csv")
    for step in (1, 2):
        file.log_metrics({"a": step}, step)
    file.path.unlink()
    file.log_metrics({"a": 3}, 3)
    assert "metrics.csv is gone, with all rows that were logged (2)" in capsys.readouterr().out
    assert file.path.read_text() == "a,step\n3,3\n"
    assert file.rows == 1  # what a checkpoint says is there
    file.path.unlink()
    file.sync()  # as a checkpoint does
    assert "that were logged (1)" in capsys.readouterr().out
    assert file.rows == 0
