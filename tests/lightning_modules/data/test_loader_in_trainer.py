"""The loader under a Lightning trainer: orders, checkpoints within an epoch, overfitting."""

from __future__ import annotations

import multiprocessing
import os
import signal
from itertools import chain
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from lightning_modules.config.registries import DATA
from lightning_modules.data.loader import BatchLoader


class Listener(pl.LightningModule):
    """Learns next to nothing and remembers what it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.LazyLinear(10)
        self.layer(torch.zeros(1, 64))
        self.epochs: list[list[Tensor]] = []
        self.validated = 0
        self.dtypes: set[torch.dtype] = set()

    def on_train_epoch_start(self) -> None:
        self.epochs.append([])

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        inputs, labels = batch
        self.epochs[-1].append(inputs.clone())
        self.dtypes.add(inputs.dtype)
        return nn.functional.cross_entropy(self.layer(inputs.flatten(1)), labels)

    def validation_step(self, batch: tuple[Tensor, Tensor], index: int) -> None:
        self.validated += len(batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


QUIET = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False}


@pytest.mark.filterwarnings("ignore::UserWarning:pytorch_lightning", "ignore::UserWarning:torch.nn.modules.lazy")
class TestTrainer:
    def fit(self, seed: int = 0, **options: Any) -> tuple[Listener, pl.Trainer]:
        data = DATA.build({"name": "digits", "limit_train": 300, "augment": True}, seed=seed)
        trainer = pl.Trainer(max_epochs=3, enable_checkpointing=False, **QUIET, **options)
        trainer.fit(model := Listener(), datamodule=data)
        return model, trainer

    def test_each_epoch_has_its_order_and_runs_agree(self):
        one, two, other = self.fit()[0], self.fit()[0], self.fit(seed=1)[0]
        assert [len(epoch) for epoch in one.epochs] == [2, 2, 2]
        assert one.validated >= 3 * 500
        for a, b, c in zip(one.epochs, two.epochs, other.epochs, strict=True):
            assert torch.equal(torch.cat(a), torch.cat(b))
            assert not torch.equal(torch.cat(a), torch.cat(c))
        assert len({torch.cat(epoch).numpy().tobytes() for epoch in one.epochs}) == 3
        loader = DATA.build({"name": "digits", "limit_train": 300, "augment": True})
        loader.setup()
        batches = loader.train_dataloader()
        for number, epoch in enumerate(one.epochs):  # what the trainer saw is what the seed and the epoch say
            batches.set_epoch(number)
            for batch, inputs in zip(batches, epoch, strict=True):
                assert torch.equal(loader.on_after_batch_transfer(batch, 0)[0], inputs)

    def test_resume_from_a_checkpoint_within_an_epoch(self, tmp_path):
        whole, _ = self.fit()

        class Save(pl.Callback):
            def on_train_batch_end(self, trainer, *args: Any) -> None:
                if trainer.global_step == 3:  # one batch into the second epoch
                    trainer.save_checkpoint(tmp_path / "mid.ckpt")

        self.fit(callbacks=[Save()])
        data = DATA.build({"name": "digits", "limit_train": 300, "augment": True})
        trainer = pl.Trainer(max_epochs=3, enable_checkpointing=False, **QUIET)
        resumed = Listener()
        resumed.epochs.append([])  # Lightning does not begin an epoch anew in its middle
        trainer.fit(resumed, datamodule=data, ckpt_path=tmp_path / "mid.ckpt")
        left = [*whole.epochs[1][1:], *whole.epochs[2]]
        assert torch.equal(torch.cat([*chain(*resumed.epochs)]), torch.cat(left))

    def test_overfit_keeps_its_batch(self):
        model, _ = self.fit(overfit_batches=1)
        data = DATA.build({"name": "digits", "limit_train": 300})
        data.setup()
        assert [len(epoch) for epoch in model.epochs] == [1, 1, 1]
        assert len(model.trainer.train_dataloader) == 2
        assert not model.trainer.train_dataloader.shuffle

    def test_double_precision(self):
        assert self.fit(precision="64-true", limit_train_batches=1)[0].dtypes == {torch.float64}


def test_workers_leave_stopping_to_the_process_that_trains() -> None:
    """Ctrl-C and SIGTERM may go to all processes of a run; the step that it is to finish still gets its batch."""
    loader = BatchLoader(torch.zeros(64, 2), 2, workers=1)
    arrived = 0
    for _ in loader:
        if not arrived:
            for worker in multiprocessing.active_children():
                for number in (signal.SIGINT, signal.SIGTERM):
                    os.kill(worker.pid, number)
        arrived += 1
    assert arrived == len(loader) == 32
