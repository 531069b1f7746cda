"""Exported networks do what the networks do, for any batch size; what cannot be exported says why."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch

import schemenet
from architectures.registry import ARCHITECTURES, CLASSIFICATION, tasks_of
from lightning_modules.cli import main
from lightning_modules.config.compose import compose
from lightning_modules.evaluation.export import exported
from lightning_modules.launching.multi_process import train
from schemes.errors import SchemenetError

SUPERVISED = [entry.name for entry in ARCHITECTURES.families() if CLASSIFICATION in tasks_of(entry.facts)]
FIXED: dict[str, dict[str, Any]] = {"odenet": {"grid": {"name": "uniform", "steps": 2}, "scheme": "rk4"}}


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".onnx", ".pt2"])
@pytest.mark.parametrize("name", SUPERVISED)
def test_every_supervised_network_is_exported(name: str, suffix: str) -> None:
    torch.manual_seed(0)
    network = schemenet.create_model(name, **FIXED.get(name, {}))
    _, difference = exported(network, (3, 32, 32), suffix)
    assert difference < 1e-4


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export") / "run"
    words = [
        "logger=csv", "architecture=ode_resnet", "architecture.widths=[4,8]", "scheme=leapfrog", "trainer.threads=1",
        "trainer.max_epochs=1", "trainer.limit_train_batches=2", "trainer.limit_test_batches=1",
    ]  # fmt: skip
    train(compose("train", words), folder)
    return folder


@pytest.mark.parametrize("suffix", [".onnx", ".pt2"])
def test_a_run_is_exported_for_any_batch_size(suffix: str, run: Path, tmp_path: Path, capsys: Any) -> None:
    file = tmp_path / f"network{suffix}"
    assert main(["export", str(run), str(file)]) == 0
    assert f"{file}: as the network up to" in capsys.readouterr().out
    network = schemenet.load(run).network.eval()
    for size in (1, 7):
        inputs = torch.randn(size, *schemenet.load(run).data.shape)
        if suffix == ".onnx":
            session = onnxruntime.InferenceSession(file.read_bytes(), providers=["CPUExecutionProvider"])
            (outputs,) = session.run(None, {"input": inputs.numpy()})
        else:
            outputs = torch.export.load(io.BytesIO(file.read_bytes())).module()(inputs).detach().numpy()
        with torch.no_grad():
            np.testing.assert_allclose(outputs, network(inputs).numpy(), rtol=1e-4, atol=1e-5)


def test_a_density_is_exported_as_its_log_density() -> None:
    network = schemenet.create_model("planar_flow", in_chans=2, image_size=None)
    assert exported(network, (2,), ".pt2")[1] < 1e-5


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("odenet", {}, "grid=uniform grid.steps=N"),
        ("ode_resnet", {"scheme": "backward_euler"}, "BackwardEuler solves equations .* use an explicit scheme"),
        ("rnn", {"in_chans": 2, "image_size": None, "num_classes": 0}, "at the times of each batch"),
    ],
)
def test_what_depends_on_the_input_is_refused(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(SchemenetError, match=message):
        exported(schemenet.create_model(name, **options), (3, 32, 32), ".pt2")


def test_another_file_is_refused(run: Path, tmp_path: Path) -> None:
    with pytest.raises(SchemenetError, match=r"ends with \.onnx or \.pt2, got .*network\.pth"):
        schemenet.export(run, tmp_path / "network.pth")
    assert list(tmp_path.iterdir()) == []
