"""Networks that are trained with noise on their steps are tested with statistics that saw none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from architectures import create_model
from architectures.model import Model
from lightning_modules.cli import main
from lightning_modules.config.compose import compose
from lightning_modules.config.registries import DATA
from lightning_modules.launching.multi_process import train
from lightning_modules.metrics import BY_RUNNING
from lightning_modules.training.batch_statistics import reestimate, statistics_of
from lightning_modules.training.loading import load_run

FRACTAL = [
    "debug=fast", "architecture=fractalnet", "architecture.width=0.1", "architecture.columns=2", "data.batch_size=32",
    "data.limit_train=128",
]  # fmt: skip

WAYS = {"name": "backward_euler_poly", "form": "way", "degree": 2}


def result_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "result.json").read_text(encoding="utf-8"))


def without_versions(result: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in result.items() if key not in ("versions", "ledger", "provenance")}


@pytest.fixture(scope="module", params=["plain", "averaged"])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("runs") / request.param
    train(compose("train", [*FRACTAL, *(["trainer.ema=0.5"] if request.param == "averaged" else [])]), folder)
    return folder


@pytest.mark.parametrize(
    ("name", "options", "random"),
    [
        ("fractalnet", {"drop_path": 0.15, "global_drop": 0.0}, True),
        ("fractalnet", {"drop_path": 0.0, "global_drop": 0.5}, True),
        ("fractalnet", {"drop_path": 0.0, "global_drop": 0.0}, False),
        ("resnet20", {"noise": "stochastic_depth"}, True),
        ("resnet20", {"noise": {"name": "stochastic_depth", "drop": 0.0}}, False),
        ("polynet20", {"noise": "stochastic_paths"}, True),
        ("polynet20", {"scheme": WAYS, "noise": "shake_shake"}, True),
        ("resnet20", {}, False),
        ("odenet", {}, False),
    ],
)
def test_networks_say_whether_their_steps_are_drawn(name: str, options: dict[str, Any], random: bool) -> None:
    with torch.device("meta"):
        assert create_model(name, **options).random_steps is random


def test_both_numbers_are_in_the_result_and_the_checkpoint_is_what_was_tested(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = result_of(run)
    assert result["statistics"] == {"layers": 9, "batches": 4, "batch_size": 32}
    log = (run / "metrics.csv").read_text(encoding="utf-8").splitlines()
    header = log[0].split(",")
    logged = [dict(zip(header, row.split(","), strict=True)) for row in log[1:]]
    last = next(row for row in reversed(logged) if row["test/loss"])
    for name in ("error", "loss"):
        assert result[f"test_{name}_{BY_RUNNING}"] == pytest.approx(float(last[f"test/{name}"]), rel=1e-5)
    assert result["test_loss"] != result[f"test_loss_{BY_RUNNING}"]
    assert main(["eval", str(run)]) == 0
    assert "result.json says the same" in capsys.readouterr().out


def test_the_statistics_are_those_of_training_batches_without_noise(run: Path) -> None:
    network = load_run(run, Model).network
    held = {name: value.clone() for name, value in statistics_of(network).items()}
    data = DATA.build(compose("train", FRACTAL)["data"], seed=0)
    data.setup()
    reestimate(network, (data.on_after_batch_transfer(batch, 0)[0] for batch in data.train_dataloader()))
    for name, value in statistics_of(network).items():
        torch.testing.assert_close(held[name], value)


def test_a_run_that_was_killed_before_its_result_ends_with_the_same_numbers(run: Path) -> None:
    before = result_of(run)
    weights = {name: value.clone() for name, value in load_run(run, Model).network.state_dict().items()}
    (run / "result.json").unlink()
    train(compose("train", [*FRACTAL, *(["trainer.ema=0.5"] if run.name == "averaged" else [])]), run)
    assert without_versions(result_of(run)) == without_versions(before)
    for name, value in load_run(run, Model).network.state_dict().items():
        assert torch.equal(value, weights[name]), name


def test_networks_without_noise_are_tested_once(tmp_path: Path) -> None:
    result = train(compose("train", ["debug=fast", "architecture.width=0.25", "data.batch_size=32"]), tmp_path)
    assert not [key for key in result if key.endswith(BY_RUNNING) or key == "statistics"]
