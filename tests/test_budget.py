"""Budgets are met, and costs are counted as by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from architectures import create_model, match_budget
from architectures.ledger import ledger, macs, memory, parameters, step_times
from architectures.network import Network
from schemes import SchemenetError

MATCHED = [
    "resnet",
    "resnext",
    "polynet",
    "fractalnet",
    "rk_resnet",
    "lm_resnet",
    "revnet",
    "leapfrog_net",
    "odenet",
    "ode_resnet",
    "one_layer_mlp",
]


def size_of(name: str, **options: object) -> int:
    with torch.device("meta"):
        return parameters(create_model(name, **options))


@pytest.mark.parametrize("name", MATCHED)
@pytest.mark.parametrize(("budget", "image_size"), [(220_000, 28), (40_000, 8)])
def test_every_family_meets_a_budget_within_one_percent(name: str, budget: int, image_size: int) -> None:
    if name == "resnext":
        budget *= 10  # its smallest widths are multiples of eight groups
    context = {"in_chans": 1, "image_size": image_size}
    options = match_budget(name, parameters=budget, **context)
    assert size_of(name, **context, **options) == pytest.approx(budget, rel=0.01)


def test_macs_budget() -> None:
    options = match_budget("resnet", macs=20_000_000)
    with torch.device("meta"):
        assert macs(create_model("resnet", **options), (3, 32, 32)) == pytest.approx(20e6, rel=0.01)


def test_a_budget_out_of_reach_names_the_nearest_sizes() -> None:
    with pytest.raises(SchemenetError, match="nearest sizes"):
        match_budget("resnet", parameters=300)
    with pytest.raises(SchemenetError, match="one of parameters and macs"):
        match_budget("resnet")
    with pytest.raises(SchemenetError, match="no architecture 'resnt'"):
        match_budget("resnt", parameters=1000)


def test_macs_of_resnet20_by_hand() -> None:
    """Convolutions and the classifier, layer by layer, as the layout says."""
    total = 32 * 32 * 9 * 3 * 16
    for width, size in ((16, 32), (32, 16), (64, 8)):
        total += size * size * 9 * width * width * 6
    for narrow, wide, size in ((16, 32, 16), (32, 64, 8)):
        total += size * size * (9 * narrow * wide - 9 * wide * wide + narrow * wide)  # strided first, and shortcut
    assert macs(create_model("resnet20"), (3, 32, 32)) == total + 64 * 10


def test_ledger_counts_evaluations_and_leaves_the_network_alone() -> None:
    network = create_model("rk_resnet", width=0.25, in_chans=1)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    costs = ledger(network, (1, 8, 8), batch_size=4)
    assert costs["nfe_forward"] == 14  # seven steps of two stages
    assert costs["nfe_backward"] == 0
    assert costs["parameters"] == sum(p.numel() for p in network.parameters())
    assert 0 < costs["flow_parameters"] < costs["parameters"]
    assert costs["peak_bytes"] >= costs["bytes_kept"] > 0
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert all(p.grad is None for p in network.parameters())
    assert ledger(create_model("revnet", width=0.25, in_chans=1), (1, 8, 8), 4)["nfe_backward"] == 14


def test_bytes_kept_are_those_that_autograd_keeps() -> None:
    """Two linear layers and a tanh: what stays alive is the two layers' outputs, one of them as the tanh's input."""

    class Two(nn.Module):
        num_classes = 3

        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(5, 7), nn.Linear(7, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.second(torch.tanh(self.first(x)))

    network = Two()
    measured = memory(network, (5,), batch_size=11)["bytes_kept"]  # type: ignore[arg-type]
    # tanh's output, log-softmax's output (the loss's), and the loss's weight total (one float).
    assert measured == 4 * (11 * 7 + 11 * 3 + 1)


@pytest.mark.parametrize("gradient", ["backprop", "checkpoint", "reversible"])
def test_bytes_kept_against_depth(gradient: str) -> None:
    def kept(steps: int) -> int:
        network = create_model("revnet", width=0.5, grid={"name": "uniform", "steps": steps}, gradient=gradient)
        return memory(network, (3, 16, 16), batch_size=8)["bytes_kept"]

    shallow, deep = kept(2), kept(16)
    if gradient == "reversible":
        assert deep <= 1.05 * shallow
    else:
        assert deep > 2 * shallow


def test_step_time_states_its_conditions() -> None:
    networks: dict[str, Network] = {n: create_model(n, width=0.25, in_chans=1) for n in ("stem_only", "resnet")}
    measured = step_times(networks, (1, 8, 8), batch_size=4, steps=8, warm_up=1)
    assert set(measured) == set(networks)
    told = measured["stem_only"]
    assert told["quartile_1_s"] <= told["median_s"] <= told["quartile_3_s"]
    assert (told["steps"], told["device"], told["batch_size"], told["threads"]) == (8, "cpu", 4, 1)
