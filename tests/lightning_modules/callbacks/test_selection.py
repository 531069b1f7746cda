"""Early stopping and the best checkpoint: what they choose, that a killed run chooses the same, and their refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch.nn import functional

import schemenet
from architectures.model import Model
from lightning_modules.cli import main
from lightning_modules.config.compose import compose
from lightning_modules.data.supervised.toy_points import Moons
from lightning_modules.launching.multi_process import train
from lightning_modules.storage.atomic_files import read_rows
from lightning_modules.training import run as running
from lightning_modules.training.dry_run import dry_build
from lightning_modules.training.loading import load_run
from schemes.errors import SchemenetError
from tests.lightning_modules.training.test_resume import Killed, assert_same_run, kill, train_killed
from tests.support.crash_injection import assert_equal

CHOSEN = "callbacks=[best_checkpoint,{name: early_stopping, by: loss, patience: 2}]"
WORDS = ["logger=csv", "architecture=mlp", "architecture.hidden=16", "data=moons", "data.batch_size=16",
         "data.limit_train=160", "data.validation=0.3", "trainer.threads=1", "trainer.max_epochs=12",
         "optimizer.lr=1.0", "optimizer.schedule=constant", "trainer.log_every_n_steps=3"]  # fmt: skip


def curve(folder: Path, key: str) -> list[float]:
    return [float(row[key]) for row in read_rows(folder / "metrics.csv") if row[key]]


def stopped_after(losses: list[float], patience: int) -> int:
    """Epochs of a training with these losses."""
    for epoch in range(len(losses)):
        best = losses.index(min(losses[: epoch + 1]))
        if epoch - best >= patience:
            return epoch + 1
    return len(losses)


@pytest.fixture(scope="module", params=[[], ["trainer.ema=0.5"]], ids=["last weights", "averaged"])
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that has stopped early, and not in its best epoch: how a training goes depends on the processor."""
    for seed in range(20):
        folder = tmp_path_factory.mktemp("whole")
        result = train(compose("train", [*WORDS, CHOSEN, *request.param, f"seed={seed}"]), folder)
        if result["chosen"]["epoch"] < result["epochs"] - 1 and result["stopped"] is not None:
            return folder
    pytest.fail("no seed has a training whose best epoch is not the last")


def test_the_epoch_with_the_least_error_is_kept_and_training_stops(
    whole: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    result = json.loads((whole / "result.json").read_text())
    errors, losses = curve(whole, "validation/error"), curve(whole, "validation/loss")
    assert result["epochs"] == len(losses) == stopped_after(losses, 2) < 12
    assert result["stopped"].startswith(
        f"early_stopping in epoch {len(losses) - 1}: validation/loss had not improved on"
    )
    best = errors.index(min(errors))
    assert result["chosen"] == {
        "checkpoint": "best.ckpt", "epoch": best, "validation_error": pytest.approx(min(errors))
    }  # fmt: skip
    assert result["validation_error"] == pytest.approx(errors[-1])  # of the last weights
    for name, error, loss in (("best.ckpt", errors[best], losses[best]), ("last.ckpt", errors[-1], losses[-1])):
        run = load_run(whole / name, Model)
        inputs, labels = run.data.first(len(run.data.eval_set or ()))
        with torch.no_grad():
            logits = run.network.eval()(inputs)
        assert (logits.argmax(1) != labels).float().mean().item() == pytest.approx(error)
        assert functional.cross_entropy(logits, labels).item() == pytest.approx(loss, rel=1e-5)
    assert main(["eval", str(whole / "best.ckpt")]) == 0
    assert len(list(whole.glob("eval-best-*.json"))) == 1


def test_the_test_set_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load = Moons.load
    monkeypatch.setattr(Moons, "load", lambda self, train: load(self, train) if train else pytest.fail("it is read"))
    result = train(compose("train", [*WORDS, CHOSEN, "trainer.max_epochs=1"]), tmp_path)
    assert result["stopped"] is None
    assert result["chosen"]["epoch"] == 0


@pytest.mark.parametrize("hook", ["on_validation_end", "on_train_epoch_end", "ledger"])
def test_a_killed_run_chooses_the_same(hook: str, whole: Path, tmp_path: Path, monkeypatch: Any) -> None:
    """Killed before and after an epoch is chosen, and after the training has been stopped."""
    known = json.loads((whole / "config.json").read_text())
    averaged = [] if known["trainer"]["ema"] is None else [f"trainer.ema={known['trainer']['ema']}"]
    config: Any = compose("train", [*WORDS, CHOSEN, *averaged, f"seed={known['seed']}"])
    steps = 7 * (json.loads((whole / "result.json").read_text())["chosen"]["epoch"] + 1)
    if hook == "ledger":
        with monkeypatch.context() as patch:
            patch.setattr(running, "ledger", lambda *_: kill())
            with pytest.raises(Killed):
                train(config, tmp_path)
    else:
        train_killed(monkeypatch, config, tmp_path, hook, steps)
        assert (tmp_path / "best.ckpt").exists() == (hook == "on_train_epoch_end" or steps > 7)
    train(config, tmp_path)
    assert_same_run(whole, tmp_path)
    assert_equal(*(torch.load(folder / "best.ckpt", weights_only=True) for folder in (whole, tmp_path)))


def test_a_recipe_without_callbacks_is_what_it_was(tmp_path: Path) -> None:
    plain, chosen = compose("train", WORDS), compose("train", [*WORDS, "callbacks=early_stopping"])
    assert "callbacks" not in plain
    assert compose("train", [*WORDS, "callbacks=[]"]).recipe_hash == plain.recipe_hash != chosen.recipe_hash
    assert chosen["callbacks"] == [{"name": "early_stopping", "by": None, "patience": 5, "min_delta": 0.0}]
    assert (
        chosen.recipe_hash == compose("train", [*WORDS, "callbacks=[{name: early_stopping, patience: 5}]"]).recipe_hash
    )


def test_all_mistakes_in_callbacks_are_reported_at_once() -> None:
    wrong = (
        "[early_stoping, {name: early_stopping, patienze: 3}, {name: best_checkpoint, by: 1}, best_checkpoint, {a: 1}]"
    )
    with pytest.raises(SchemenetError) as caught:
        compose("train", ["data.validation=null", f"callbacks={wrong}", "optimizer.lr=x"])
    for text in ("did you mean 'early_stopping'", "did you mean 'patience'", "by expected text or null, got 1",
                 "best_checkpoint selects an epoch by the validation split, never by the test set; hold one out",
                 "expected a name, or a mapping with 'name', got", "optimizer.lr"):  # fmt: skip
        assert text in str(caught.value)
    with pytest.raises(SchemenetError, match="'best_checkpoint' is given twice"):
        compose("train", ["data.validation=0.1", "callbacks=[best_checkpoint,best_checkpoint]"])
    with pytest.raises(SchemenetError, match="early_stopping selects an epoch by a validation split, and compare"):
        compose("compare", ["callbacks=[early_stopping]"])


@pytest.mark.parametrize(
    ("option", "message"), [("patience: 0", "patience of at least 1"), ("by: accuracy", "no measure 'accuracy'")]
)
def test_options_that_cannot_be_used_are_reported_before_a_run_begins(option: str, message: str) -> None:
    config = compose("train", [*WORDS, f"callbacks=[{{name: early_stopping, {option}}}]"])
    with pytest.raises(SchemenetError, match=message):
        dry_build(config)


class Counting(Callback):
    """One of the user's own: adds ``add`` in each step, and says so in the end."""

    totals: list[int]

    def __init__(self, *, add: int = 1) -> None:
        self.add, self.total = add, 0

    def on_train_batch_end(self, *_: Any) -> None:
        self.total += self.add

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.totals.append(self.total)

    def state_dict(self) -> dict[str, Any]:
        return {"total": self.total}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.total = state_dict["total"]


def test_a_callback_of_the_users_own_resumes_with_its_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Counting.totals = []
    schemenet.CALLBACKS.register("counting")(Counting)
    try:
        words = [
            *WORDS,
            "trainer.max_epochs=2",
            "trainer.checkpoint_every_n_steps=2",
            "callbacks=[{name: counting, add: 3}]",
        ]
        config: Any = compose("train", words)
        assert config["imports"] == [__name__]
        train_killed(monkeypatch, config, tmp_path, "on_train_batch_end", 9)
        train(config, tmp_path)
    finally:
        schemenet.CALLBACKS.remove("counting")
    assert Counting.totals == [3 * 14]
