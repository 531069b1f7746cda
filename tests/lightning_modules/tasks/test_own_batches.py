"""Batches of the user's own loaders: which are trained on, and what is said of the others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from architectures.factory import create_model
from architectures.model import Model
from architectures.observations import Observations, SeriesBatch
from architectures.plain_network import PlainNetwork
from lightning_modules.tasks.base import TaskModule
from lightning_modules.tasks.classification import ClassificationModule
from lightning_modules.tasks.density import DensityModule
from lightning_modules.tasks.regression import RegressionModule
from lightning_modules.tasks.series import SeriesModule
from lightning_modules.tasks.trajectory import TrajectoryModule
from schemes.errors import SchemenetError

X = torch.randn(4, 2, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 1, 2, 3])


def network(outputs: int, plain: bool) -> Model:
    """A network of two inputs: a module of somebody else's, or one of flows."""
    torch.manual_seed(0)
    if plain:
        return PlainNetwork(nn.Linear(2, outputs), outputs)
    return create_model("mlp", num_classes=outputs, in_chans=2, image_size=None, hidden=4, steps=1)


def fit(module: TaskModule[Any], batch: Any, *, steps: int = 1, validate: bool = False) -> TaskModule[Any]:
    """Some training steps, or one of validation."""
    trainer = pl.Trainer(
        max_steps=steps, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False,
    )  # fmt: skip
    loader: DataLoader[Any] = DataLoader([batch], batch_size=None, collate_fn=lambda whole: whole)  # type: ignore[arg-type]
    if validate:
        trainer.validate(module, loader, verbose=False)
    else:
        trainer.fit(module, loader)
    return module


@pytest.mark.parametrize("plain", [True, False])
@pytest.mark.parametrize(
    "targets",
    [torch.arange(4.0), torch.arange(4), torch.arange(4).double().unsqueeze(1)],
    ids=["flat", "int", "double"],
)
def test_a_regression_takes_numbers_of_any_dtype_and_flat_ones_for_one_output(targets: Tensor, plain: bool) -> None:
    """The loss and the measure are those of (batch, 1): broadcast, they would be of all pairs."""
    module = RegressionModule(network(1, plain), optimizer="adamw")
    batch = module.prepare((X, targets), 0)
    expected = (module(X) - torch.arange(4.0).unsqueeze(1)).square().mean()
    assert torch.equal(module.training_loss(batch), expected)
    module.measure(batch)
    torch.testing.assert_close(module.results()["rmse"], expected.sqrt())
    fit(module, (X, targets))


@pytest.mark.parametrize("plain", [True, False])
@pytest.mark.parametrize("validate", [True, False])
@pytest.mark.parametrize(
    ("task", "outputs", "targets", "parts"),
    [
        (RegressionModule, 1, torch.zeros(4, 3), ["(4, 1)", "(4, 3)", "float32"]),
        (RegressionModule, 3, torch.zeros(4), ["(4, 3)", "shape (4,)"]),
        (ClassificationModule, 4, LABELS.float(), ["class indices", "float32 (4,)"]),  # as many as classes
        (ClassificationModule, 4, torch.eye(4), ["class indices", "float32 (4, 4)"]),
        (ClassificationModule, 4, LABELS.unsqueeze(1), ["shape (4,)", "shape (4, 1)", "int64"]),
        (ClassificationModule, 4, LABELS + 1, ["labels from 0 to 3", "1 to 4", "int64 (4,)"]),
        (ClassificationModule, 4, torch.full((4,), -100), ["labels from 0 to 3", "-100 to -100"]),
    ],
)
def test_targets_that_do_not_fit_are_refused(
    task: type[TaskModule[Any]], outputs: int, targets: Tensor, parts: list[str], validate: bool, plain: bool
) -> None:
    with pytest.raises(SchemenetError) as caught:
        fit(task(network(outputs, plain)), (X, targets), validate=validate)
    assert all(part in str(caught.value) for part in parts), caught.value


def test_labels_that_cross_entropy_leaves_out_may_be_some_of_them() -> None:
    fit(ClassificationModule(network(4, plain=True)), (X, torch.tensor([0, -100, 2, 3], dtype=torch.int32)))


def series(channels: int = 2, dtype: torch.dtype = torch.float32) -> SeriesBatch:
    times, values = torch.linspace(0, 1, 3, dtype=dtype), torch.randn(4, 3, channels, dtype=dtype)
    part = Observations(times, values, torch.ones_like(values))
    return SeriesBatch(part, part)


def module_of(task: str) -> TaskModule[Any]:
    if task == "classification":
        return ClassificationModule(network(4, plain=False))
    if task == "density":
        return DensityModule("nice", {"width": 0.1}, {"in_chans": 2, "image_size": None})
    name, module = {"series": ("rnn", SeriesModule), "trajectory": ("neural_ode", TrajectoryModule)}[task]
    return module(name, {"width": 0.1}, {"in_chans": 2, "image_size": None, "num_classes": 0})


@pytest.mark.parametrize(
    ("task", "batch", "parts"),
    [
        ("classification", {"x": X, "y": LABELS}, ["(inputs, labels)", "a dict of x: float32 (4, 2), y: int64 (4,)"]),
        ("classification", (X, LABELS, LABELS), ["(inputs, labels)", "a tuple of"]),
        ("classification", [X.numpy(), LABELS.numpy()], ["(inputs, labels)", "ndarray, ndarray"]),
        ("classification", (X.double(), LABELS), ["dtype, float32", "float64 (4, 2)"]),
        ("classification", (X.byte(), LABELS), ["dtype, float32", "uint8 (4, 2)"]),
        ("density", (X, LABELS), ["samples (batch, 2)", "a tuple of float32 (4, 2), int64 (4,)"]),
        ("density", torch.zeros(4, 3), ["samples (batch, 2)", "float32 (4, 3)"]),
        ("density", X.double(), ["dtype, float32", "float64 (4, 2)"]),
        ("series", (X, X), ["SeriesBatch", "a tuple of float32 (4, 2)"]),
        ("series", series(3), ["(batch, times, 2)", "float32 (4, 3, 3)"]),
        ("series", series(dtype=torch.float64), ["dtype, float32", "float64 (4, 3, 2)"]),
        ("trajectory", (X, X), ["SeriesBatch", "a tuple of float32 (4, 2)"]),
    ],
)
def test_batches_of_another_kind_are_refused_with_what_they_are(task: str, batch: Any, parts: list[str]) -> None:
    with pytest.raises(SchemenetError) as caught:
        fit(module_of(task), batch)
    assert all(part in str(caught.value) for part in parts), caught.value


def test_a_density_takes_the_tuples_of_a_tensor_dataset() -> None:
    fit(module_of("density"), (X,))


def test_predictions_take_loaders_with_labels_or_without() -> None:
    module = module_of("classification").eval()
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
    loaders = [DataLoader(TensorDataset(*parts), batch_size=4) for parts in ((X, LABELS), (X,))]
    predictions = trainer.predict(module, loaders)
    assert predictions is not None
    for (logits,) in predictions:
        assert torch.equal(logits, module(X))


def test_several_validation_loaders_are_refused() -> None:
    loaders = [DataLoader(TensorDataset(X, LABELS))] * 2
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
    with pytest.raises(SchemenetError, match=r"one loader.*trainer\.test\(module, loader\)"):
        trainer.validate(module_of("classification"), loaders, verbose=False)


@pytest.mark.parametrize("optimizer", [5, torch.optim.SGD])
def test_an_optimizer_is_a_name_or_a_mapping(optimizer: Any) -> None:
    with pytest.raises(SchemenetError, match=r"optimizer expected a name .*adamw.*configure_optimizers"):
        ClassificationModule(network(4, plain=True), optimizer=optimizer)


@pytest.mark.parametrize("kind", ["density", "series"])
def test_the_default_optimizer_of_a_task_trains_its_networks(kind: str) -> None:
    """By sgd, the loss is no number after these steps."""
    torch.manual_seed(0)
    task, name, batch = {
        "density": (DensityModule, "real_nvp", torch.randn(32, 2)),
        "series": (SeriesModule, "rnn_vae", series()),
    }[kind]
    module = task(name, {}, {"in_chans": 2, "image_size": None, "num_classes": 0})
    assert torch.isfinite(fit(module, batch, steps=10).trainer.callback_metrics["train/loss"])


def test_a_module_with_a_network_of_the_users_is_reloaded_with_it(tmp_path: Path) -> None:
    module = ClassificationModule(network(4, plain=True), optimizer={"name": "adamw", "lr": 0.5})
    trainer = pl.Trainer(
        max_steps=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(module, DataLoader(TensorDataset(X, LABELS)))
    trainer.save_checkpoint(tmp_path / "trained.ckpt")
    with pytest.raises(SchemenetError, match=r"load_from_checkpoint\(path, architecture=network\)"):
        ClassificationModule.load_from_checkpoint(tmp_path / "trained.ckpt", weights_only=True)
    again = ClassificationModule.load_from_checkpoint(
        tmp_path / "trained.ckpt", weights_only=True, architecture=network(4, plain=True)
    )
    assert again.optimizer == module.optimizer
    assert torch.equal(again(X), module(X))
    with pytest.raises(SchemenetError, match=r"a Linear; .* register a module of your own"):
        ClassificationModule(nn.Linear(2, 4))  # type: ignore[arg-type]
