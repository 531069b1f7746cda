"""Networks learn real images through the Lightning module, and a run folder says all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from architectures.factory import create_model
from lightning_modules.config.compose import compose
from lightning_modules.config.registries import DATA, OPTIMIZERS
from lightning_modules.launching.multi_process import train
from lightning_modules.storage.atomic_files import read_rows
from lightning_modules.tasks.classification import ClassificationModule
from lightning_modules.training import run as running
from lightning_modules.training.dry_run import dry_build
from lightning_modules.training.optimizers.first_order import sgd
from schemes import GRADIENTS, SchemenetError

TINY = ["architecture.depth=8", "architecture.width=0.25", "data.limit_train=128", "data.limit_test=32"]
QUICK = ["logger=csv", "optimizer.schedule=cosine", "data.batch_size=64"]


def run(folder: Path, *overrides: str) -> dict[str, Any]:
    return train(compose("train", [*QUICK, *overrides]), folder)


@pytest.mark.parametrize("network", ["rk_resnet", "revnet"])
def test_every_family_learns_digits_and_evaluates_as_it_trains(network: str, tmp_path: Path) -> None:
    """Evaluation mode must work too: with shared batch-norm statistics multi-stage networks are at chance there."""
    depth = {"rk_resnet": 8, "revnet": 14}[network]
    sizes = [f"architecture={network}", f"architecture.depth={depth}", "architecture.width=0.5"]
    result = run(tmp_path, *sizes, "trainer.max_epochs=4")
    assert result["status"] == "done"
    assert result["test_error"] < 0.25
    assert result["train_loss"] < 0.6


def test_an_mlp_learns_points(tmp_path: Path) -> None:
    assert run(tmp_path, "architecture=mlp", "data=moons", "trainer.max_epochs=15")["test_error"] < 0.15


def test_run_folder(tmp_path: Path) -> None:
    result = run(tmp_path, "architecture=lm_resnet", "architecture.width=0.25", "trainer.max_epochs=1", "scheme.k=0.3")
    assert json.loads((tmp_path / "result.json").read_text()) == result
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["scheme"] == {"name": "linear_multistep", "k": 0.3, "scale": False}
    assert config["architecture"]["depth"] == 20
    header = (tmp_path / "metrics.csv").read_text().splitlines()[0].split(",")
    assert {"epoch", "step", "train/loss", "test/error", "test/loss"} <= set(header)
    assert set(result["ledger"]) >= {
        "parameters",
        "flow_parameters",
        "macs",
        "nfe_forward",
        "bytes_kept",
        "peak_bytes",
    }
    assert not (tmp_path / "progress.json").exists()


def test_checkpoint_alone_rebuilds_the_network(tmp_path: Path) -> None:
    """Only plain data in hyperparameters: torch's default weights_only=True loads it."""
    run(
        tmp_path,
        "architecture=ode_resnet",
        "architecture.width=0.25",
        "trainer.max_epochs=1",
        "gradient=checkpoint",
    )
    module = ClassificationModule.load_from_checkpoint(tmp_path / "last.ckpt", weights_only=True)
    assert type(module.network.flows[0].gradient).__name__ == "Checkpoint"
    module.eval()(torch.randn(2, 1, 8, 8))


def test_the_same_seed_gives_the_same_run_and_another_another(tmp_path: Path) -> None:
    options = [
        "architecture.width=0.25",
        "trainer.max_epochs=1",
        "data.augment=true",
        "trainer.limit_train_batches=6",
    ]
    first, again, other = (
        run(tmp_path / name, *options, f"seed={seed}") for name, seed in (("a", 1), ("b", 1), ("c", 2))
    )
    assert first["train_loss"] == again["train_loss"] != other["train_loss"]


@pytest.mark.filterwarnings("ignore::schemes.gradients.adjoint_ode.backsolve.AdjointDriftWarning")
def test_gradient_modes_train_alike(tmp_path: Path) -> None:
    """Verlet on T = 1: all four modes apply; three of them are the same to rounding, the adjoint drifts and says so."""
    options = [
        "architecture=mlp", "scheme=verlet", "grid.time=1.0", "architecture.hidden=8", "architecture.steps=2",
        "trainer.max_epochs=1", "trainer.limit_train_batches=3", "data.limit_test=64", "trainer.precision=64-true",
    ]  # fmt: skip
    losses = {mode: run(tmp_path / mode, *options, f"gradient={mode}")["train_loss"] for mode in GRADIENTS}
    reference = losses.pop("backprop")
    assert losses == {mode: pytest.approx(reference, rel=0.2 if mode == "adjoint" else 1e-8) for mode in losses}


def test_bf16_trains(tmp_path: Path) -> None:
    assert run(tmp_path, "architecture=revnet", "architecture.width=0.25", "trainer.max_epochs=1",
               "trainer.precision=bf16-mixed", "trainer.limit_train_batches=3")["status"] == "done"  # fmt: skip


def test_a_diverging_run_is_stopped_and_called_so(tmp_path: Path) -> None:
    result = run(
        tmp_path,
        "architecture.norm=none",
        "optimizer.lr=1e6",
        "trainer.max_epochs=3",
        "trainer.log_every_n_steps=1",
    )
    assert result["status"] == "diverged"
    assert json.loads((tmp_path / "result.json").read_text())["status"] == "diverged"  # no NaN in the json


def test_dry_build_tells_every_mistake_before_training() -> None:
    config = compose(
        "train",
        [
            "architecture.depth=21",
            "data.batch_size=0",
            "trainer.max_epochs=0",
            "optimizer.lr=-1",
            "seed=-1",
            "optimizer.momentum=2",
        ],
    )
    with pytest.raises(SchemenetError) as caught:
        dry_build(config)
    for text in ("the nearest are 20 and 26", "batch_size", "max_epochs", "lr", "momentum", "seed"):
        assert text in str(caught.value)


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["gradient=reversible"], "no inverse; use gradient=checkpoint"),
        (["architecture=lm_resnet", "gradient=adjoint"], "no method for y' = f"),
        (["architecture=polynet", "gradient=adjoint"], "no method for y' = f"),
        (["architecture=resnet20_v1", "gradient=adjoint"], "post-activation"),
        (["architecture=revnet", "scheme=leapfrog"], "couples two halves"),
        (["architecture=resnext", "scheme=verlet"], "no post-activation projection"),
        (["optimizer.milestones=[2.0]"], "shares of the training"),
        (["trainer.limit_train_batches=0"], "expected to be above 0"),
        (["trainer.devices=abc"], "trainer"),
        (["trainer.accelerator=tpu"], "trainer.accelerator: this machine has no 'tpu'; expected one of 'auto', 'cpu'"),
        (["seed=99999999999"], "below 2.32"),
        (["logger.mode=offline", "data=moons"], "architectures that read vectors: mlp"),
        (["field=mlp"], "has images for states"),
        (["architecture=lm_resnet", "scheme.k=1.5"], "not zero-stable"),
        (["data=mnist", "data.root=nowhere"], "data.download=true"),
        (["data=image_folder", "data.root=nowhere"], "nowhere"),
    ],
)
def test_impossible_pairs_say_why(overrides: list[str], told: str) -> None:
    with pytest.raises(SchemenetError, match=told):
        dry_build(compose("train", overrides))


def test_k_is_not_decayed_and_everything_else_is() -> None:
    network = create_model("lm_resnet", width=0.25)
    groups = sgd(network, 10)["optimizer"].param_groups
    assert [group["weight_decay"] for group in groups] == [1e-4, 0.0]
    assert sum(p.numel() for p in groups[1]["params"]) == 6
    assert sum(p.numel() for group in groups for p in group["params"]) == sum(p.numel() for p in network.parameters())


def test_a_ledger_that_fails_costs_no_result(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("can't allocate memory\nmore of it")

    monkeypatch.setattr(running, "ledger", fail)
    costs = running.run_costs(create_model("mlp", in_chans=1, image_size=8), (1, 8, 8), 7)
    assert costs["ledger_failure"] == "RuntimeError: can't allocate memory"
    assert costs["ledger"]["parameters"] > 0
    assert costs["ledger"]["batch_size"] == 7
    assert "could not be counted" in capsys.readouterr().err


def test_a_batch_holds_no_more_than_the_training_set() -> None:
    data = DATA.build({"name": "digits", "batch_size": 100_000, "limit_train": 50}, seed=0)
    data.setup()
    assert (data.samples_per_batch(), data.samples_per_batch(world_size=2)) == (50, 25)


def scheduled(name: str, steps: int, **options: Any) -> list[float]:
    """The learning rate of each step of a training of so many."""
    made = OPTIMIZERS.build({"name": name, **options}, network=torch.nn.Linear(1, 1), total_steps=steps)
    optimizer, schedule = made["optimizer"], made["lr_scheduler"]["scheduler"]
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return rates


@pytest.mark.parametrize("name", [name for name in OPTIMIZERS if "schedule" in OPTIMIZERS.options(name)])
def test_an_exponential_schedule_falls_evenly_to_gamma_at_the_end(name: str) -> None:
    rates = torch.tensor(scheduled(name, 12, lr=1.0, schedule="exponential", gamma=0.01, warmup_steps=2))
    torch.testing.assert_close(rates, torch.tensor([1 / 3, 2 / 3, *(0.01 ** (k / 10) for k in range(10))]))


def test_adamax_is_torchs() -> None:
    gradients = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    networks = [torch.nn.Linear(3, 1, bias=False) for _ in range(2)]
    networks[1].load_state_dict(networks[0].state_dict())
    options = {"lr": 0.1, "weight_decay": 0.2}
    made = OPTIMIZERS.build({"name": "adamax", "schedule": "constant", **options}, network=networks[0], total_steps=4)
    for gradient in gradients:
        networks[0].weight.grad = gradient[None].clone()
        made["optimizer"].step()
    plain = torch.optim.Adamax(networks[1].parameters(), **options)
    for gradient in gradients:
        networks[1].weight.grad = gradient[None].clone()
        plain.step()
    assert torch.equal(networks[0].weight, networks[1].weight)


def test_adamax_does_not_decay_a_schemes_coefficients() -> None:
    network = create_model("lm_resnet", width=0.25)
    made = OPTIMIZERS.build({"name": "adamax", "weight_decay": 1e-4}, network=network, total_steps=10)
    assert [group["weight_decay"] for group in made["optimizer"].param_groups] == [1e-4, 0.0]


def test_recipe_hash_leaves_seed_and_folder_out() -> None:
    config = compose("train", [])
    assert config.recipe_hash == compose("train", ["seed=5", "folder=x", "logger=csv"]).recipe_hash
    assert config.recipe_hash != compose("train", ["optimizer.lr=0.2"]).recipe_hash
    here, there = (compose("train", ["data=mnist", f"data.root={root}"]) for root in ("here", "there"))
    assert here.recipe_hash == there.recipe_hash


def test_the_last_weights_are_tested_however_seldom_the_curve_is(tmp_path: Path) -> None:
    result = run(tmp_path, *TINY, "trainer.max_epochs=3", "trainer.check_test_every_n_epoch=2")
    tested = [row["epoch"] for row in read_rows(tmp_path / "metrics.csv") if row.get("test/error")]
    assert tested == ["1", "2"]
    assert (result["status"], result["epochs"]) == ("done", 3)
