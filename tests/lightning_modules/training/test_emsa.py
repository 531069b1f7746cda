"""The extended method of successive approximations against gradient descent, closed forms and the order of layers."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from architectures.factory import create_model
from architectures.supervised.layer_calls import recorded_layers
from architectures.supervised.network import Network
from lightning_modules.cli import main
from lightning_modules.config.compose import compose
from lightning_modules.config.registries import OPTIMIZERS
from lightning_modules.launching.multi_process import train
from lightning_modules.training.optimizers.emsa import EMSA, AugmentedHamiltonian, separate_weights
from schemes.errors import SchemenetError
from tests.lightning_modules.training.test_resume import assert_same_run, train_killed

POINTS: dict[str, Any] = {"num_classes": 3, "in_chans": 2, "image_size": None, "hidden": 6, "steps": 3}
IMAGES: dict[str, Any] = {"num_classes": 10, "in_chans": 1, "image_size": 8, "width": 0.25}
NETWORKS: dict[str, tuple[str, dict[str, Any]]] = {
    "per_step": ("mlp", POINTS),
    "shared, without stem": ("mlp", {**POINTS, "sharing": "shared", "stem": "none", "augment": 2}),
    "basis": ("mlp", {**POINTS, "sharing": {"name": "basis", "kind": "hat", "size": 3}}),
    "memory": ("mlp", {**POINTS, "scheme": "leapfrog"}),
    "coupled": ("mlp", {**POINTS, "scheme": "symplectic_euler"}),
    "stages": ("mlp", {**POINTS, "scheme": "rk4"}),
    "no flow": ("one_layer_mlp", {"num_classes": 3, "in_chans": 2, "image_size": None, "hidden": 6}),
    "transitions": ("resnet", {**IMAGES, "norm": "none"}),
    "batch norm": ("resnet", {**IMAGES, "norm": "batch"}),
    "batch norm of a shared field": ("ode_resnet", {**IMAGES, "norm": "batch", "gradient": "backprop"}),
    "coefficients of the scheme": ("lm_resnet", {**IMAGES, "norm": "group"}),
    "coupled transitions": ("revnet", {**IMAGES, "norm": "none", "gradient": "backprop"}),
}

Batch = tuple[Tensor, Tensor]


def made(name: str) -> tuple[Network, Batch]:
    """A network in double precision with a batch."""
    torch.manual_seed(0)
    architecture, options = NETWORKS[name]
    network = create_model(architecture, **options).double()
    assert isinstance(network, Network)
    side = options["image_size"]
    x = torch.randn(6, options["in_chans"], *([side, side] if side else []), dtype=torch.float64)
    return network, (x, torch.randint(network.num_classes, (6,)))


def closure_of(network: Network, batch: Batch) -> Callable[[], Tensor]:
    def closure() -> Tensor:
        network.zero_grad()
        loss = network.loss(batch)
        loss.backward()
        return loss

    return closure


@pytest.mark.parametrize("name", NETWORKS)
def test_one_gradient_step_is_a_step_of_gradient_descent(name: str) -> None:
    network, batch = made(name)
    plain = copy.deepcopy(network)
    loss = EMSA(network, rho=7.0, inner=1, maximiser="gradient", lr=0.1).step(closure_of(network, batch))
    descent = torch.optim.SGD(plain.parameters(), 0.1)
    assert loss == descent.step(closure_of(plain, batch))
    missing = [name for name, p in plain.named_parameters() if p.grad is None or not p.grad.any()]
    assert len(missing) < len(list(plain.parameters())) / 4  # a ReLU that is zero on a batch
    for (key, value), expected in zip(network.state_dict().items(), plain.state_dict().values(), strict=True):
        torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-14, msg=lambda text, key=key: f"{key}: {text}")


def test_a_second_gradient_step_feels_the_penalties() -> None:
    losses = []
    for rho in (0.0, 1.0):
        network, batch = made("per_step")
        EMSA(network, rho=rho, inner=2, maximiser="gradient", lr=0.1).step(closure_of(network, batch))
        losses.append(torch.cat([p.detach().flatten() for p in network.parameters()]))
    assert (losses[0] - losses[1]).abs().max() > 1e-4


def terms_of(network: Network, batch: Batch, rho: float) -> list[AugmentedHamiltonian]:
    with recorded_layers(network) as calls:
        closure_of(network, batch)()
    return [AugmentedHamiltonian(call, rho, list(network.parameters())) for call in calls]


def test_the_augmented_hamiltonian_is_its_equation() -> None:
    network, batch = made("no flow")
    head, rho, samples = network.classifier, 3.0, len(batch[0])
    assert isinstance(head, torch.nn.Linear)
    term = terms_of(network, batch, rho)[-1]
    states = network.forward_head(network.forward_features(batch[0]), pre_logits=True).detach()
    p = -(torch.softmax(head(states), 1) - torch.eye(3, dtype=torch.float64)[batch[1]]).detach()  # of each sample
    change = torch.randn_like(head.weight)
    with torch.no_grad():
        head.weight += change
    moved, bent = states @ change.T, p @ change
    expected = (p * moved).sum(1) - rho / 2 * (moved.square().sum(1) + bent.square().sum(1))
    torch.testing.assert_close(term().detach(), expected.sum() / samples)


def test_a_linear_layer_takes_the_inverse_covariance_of_its_inputs() -> None:
    """W + 1/rho (sum p s^T) (sum s s^T)^-1 where only states are penalised."""

    class OfStates(AugmentedHamiltonian):
        def __call__(self) -> Tensor:
            hamiltonian, changes = self._evaluate()
            return hamiltonian - self.rho / (2 * self.samples) * sum(c.square().sum() for c in changes)

    torch.manual_seed(0)
    network = create_model("one_layer_mlp", num_classes=2, in_chans=3, image_size=None, hidden=4).double()
    assert isinstance(network, Network)
    network.classifier = head = torch.nn.Linear(4, 2, bias=False, dtype=torch.float64)
    batch = torch.randn(20, 3, dtype=torch.float64), torch.randint(2, (20,))
    before, rho = head.weight.detach().clone(), 0.5
    with recorded_layers(network) as calls:
        closure_of(network, batch)()
    optimizer = EMSA(network, rho, inner=60)
    term = OfStates(calls[-1], rho, list(network.parameters()))
    s, p = term.inputs[0].detach(), term.costates[0] * 20
    optimizer._maximise([term], term.weights)
    expected = (p.T @ s) @ torch.linalg.inv(s.T @ s) / rho
    assert expected.abs().max() > 0.5
    torch.testing.assert_close(head.weight - before, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", ["per_step", "shared, without stem", "transitions"])
def test_layers_do_not_depend_on_each_other(name: str) -> None:
    results = []
    for order in (1, -1):
        network, batch = made(name)
        optimizer, terms = EMSA(network, 10.0, inner=3), terms_of(network, batch, 10.0)
        for weights in separate_weights(terms)[::order]:
            optimizer._maximise([term for term in terms if term.weights & weights], weights)
        results.append(network.state_dict())
    whole, batch = made(name)
    EMSA(whole, 10.0, inner=3).step(closure_of(whole, batch))
    for forwards, backwards, stepped in zip(*map(dict.values, (*results, whole.state_dict())), strict=True):
        assert torch.equal(forwards, backwards)
        assert torch.equal(forwards, stepped)


@pytest.mark.parametrize(("name", "sets"), [("per_step", 5), ("shared, without stem", 2), ("basis", 3)])
def test_steps_that_share_weights_are_maximised_together(name: str, sets: int) -> None:
    network, batch = made(name)
    separate = separate_weights(terms_of(network, batch, 1.0))
    assert len(separate) == sets
    assert sorted(place for weights in separate for place in weights) == list(range(len(list(network.parameters()))))


@pytest.mark.parametrize("sharing", ["per_step", "shared"])
def test_the_loss_of_the_full_batch_falls_at_every_step_with_a_large_rho(sharing: str) -> None:
    torch.manual_seed(0)
    network = create_model("mlp", num_classes=1, in_chans=1, image_size=None, hidden=6, steps=4, sharing=sharing)
    assert isinstance(network, Network)
    x = torch.linspace(-math.pi, math.pi, 50, dtype=torch.float64)[:, None]
    closure = closure_of(network.double(), (x, x.sin()))
    optimizer = EMSA(network, rho=300.0, inner=5)
    losses = [optimizer.step(closure).item() for _ in range(15)]
    assert all(after < before for before, after in pairwise(losses))
    assert losses[-1] < 0.8 * losses[0]


def test_the_size_of_a_batch_does_not_change_rho() -> None:
    weights = []
    for copies in (1, 3):
        network, (x, y) = made("per_step")
        EMSA(network, 20.0, inner=3).step(closure_of(network, (x.repeat(copies, 1), y.repeat(copies))))
        weights.append(torch.cat([p.detach().flatten() for p in network.parameters()]))
    torch.testing.assert_close(*weights, rtol=1e-8, atol=1e-10)


# By the command line -------------------------------------------------------------------------------------------------

SINE = [
    "optimizer=emsa", "optimizer.rho=100.0", "optimizer.inner=2", "data=sine", "data.train_size=32", "data.test_size=8",
    "data.batch_size=8", "architecture=mlp", "architecture.hidden=4", "architecture.steps=2", "logger=csv",
    "trainer.threads=1", "trainer.log_every_n_steps=1",
]  # fmt: skip


@pytest.mark.parametrize(
    ("words", "remedies"),
    [
        (["gradient=checkpoint"], ["gradient=backprop"]),
        (["scheme=backward_euler"], ["explicit scheme"]),
        (["architecture=odenet", "data=digits", "gradient=backprop"], ["grid=uniform"]),
        (["architecture=resnet", "data=digits", "noise=stochastic_depth"], ["noise=none"]),
        (["architecture=real_nvp", "data=plane"], ["optimizer=adamw"]),
        (
            [
                "trainer.accumulate_grad_batches=2",
                "trainer.gradient_clip_val=1.0",
                "trainer.precision=bf16-mixed",
                "trainer.compile=aot_eager",
            ],
            ["data.batch_size", "use null", "32-true", "trainer.compile=false"],
        ),
        (["trainer.devices=2"], ["trainer.devices=1"]),
        (
            ["optimizer.rho=-1.0", "optimizer.inner=0", "optimizer.lr=0.0"],
            ["optimizer.rho", "optimizer.inner", "optimizer.lr"],
        ),
    ],
)
def test_what_does_not_fit_is_refused_before_training(
    words: list[str], remedies: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keys = {word.split("=")[0] for word in words}
    base = [word for word in SINE if word.split("=")[0] not in keys]
    if "architecture" in keys:
        base = [word for word in base if not word.startswith(("architecture.", "data."))]
    assert main(["train", *base, *words, f"folder={tmp_path / 'run'}"]) == 2
    message = capsys.readouterr().err
    assert "optimizer" in message
    for remedy in remedies:
        assert remedy in message
    assert not (tmp_path / "run").exists()


def test_it_trains_by_the_command_line_and_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limits = ["trainer.max_epochs=2", "trainer.checkpoint_every_n_steps=2"]
    config = compose("train", [*SINE, *limits])
    train_killed(monkeypatch, config, tmp_path / "killed", "on_train_batch_end", 5)
    train(config, tmp_path / "killed")
    assert main(["train", *SINE, *limits, f"folder={tmp_path / 'whole'}"]) == 0
    assert_same_run(tmp_path / "killed", tmp_path / "whole")


def test_another_network_is_refused_in_python() -> None:
    with pytest.raises(SchemenetError, match="optimizer=sgd"):
        OPTIMIZERS.build("emsa", network=torch.nn.Linear(1, 1), total_steps=1)
