"""Budgets are met, and costs are counted as by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from architectures import create_model, match_budget
from architectures.costs.ledger import (
    STATIC_COSTS,
    bytes_kept,
    evaluations,
    ledger,
    macs,
    memory,
    parameters,
    step_times,
    train_flops,
)
from architectures.model import Model
from architectures.supervised.network import Network
from schemes import SchemenetError
from schemes.ivp.trajectory_flow import TrajectoryFlow

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


@pytest.mark.parametrize(
    ("name", "budget", "image_size"),
    [*((name, 220_000, 28) for name in MATCHED), ("resnet", 40_000, 8), ("fractalnet", 40_000, 8)],
)
def test_every_family_meets_a_budget_within_one_percent(name: str, budget: int, image_size: int) -> None:
    if name == "resnext":
        budget *= 10  # its smallest widths are multiples of eight groups
    context = {"in_chans": 1, "image_size": image_size}
    options = match_budget(name, target=budget, **context)
    assert size_of(name, **context, **options) == pytest.approx(budget, rel=0.01)


def test_macs_budget() -> None:
    options = match_budget("resnet", kind="macs", target="20M")
    with torch.device("meta"):
        assert macs(create_model("resnet", **options), (3, 32, 32)) == pytest.approx(20e6, rel=0.01)


TINY = {"in_chans": 1, "image_size": 8}
IMPLICIT = {"name": "backward_euler", "substeps": 4}


def on_meta(name: str, **options: object) -> Network:
    with torch.device("meta"):
        return create_model(name, **{**TINY, **options})


def cost(kind: str, network: Network) -> int:
    return STATIC_COSTS[kind](network, (1, 8, 8), 16)


@pytest.mark.parametrize(
    ("kind", "name", "options"),
    [("macs", "lm_resnet", {"depth": 8}), ("train_flops", "mlp", {}), ("bytes_kept", "lm_resnet", {"depth": 8})],
)
def test_each_kind_is_met_by_another_network_that_costs_as_much(kind: str, name: str, options: dict[str, Any]) -> None:
    baseline = on_meta("resnet", depth=8, width=0.5, norm="group")
    found = match_budget(name, target=baseline, kind=kind, batch_size=16, **TINY, **options)
    assert set(found) <= {"width", "inner"}
    assert cost(kind, on_meta(name, **options, **found)) == pytest.approx(cost(kind, baseline), rel=0.01)


@pytest.mark.parametrize(
    ("name", "options", "other", "kind"),
    [
        ("resnet", {"depth": 20}, {"depth": 32}, "parameters"),
        ("lm_resnet", {"depth": 20}, {"depth": 11, "field": "bottleneck"}, "parameters"),
        ("revnet", {"depth": 26}, {"depth": 14}, "parameters"),
        ("resnet", {"depth": [1, 3, 2]}, {"depth": [2, 6, 4], "widths": [4, 6, 8]}, "parameters"),
        ("fractalnet", {"columns": 2}, {"columns": 4, "widths": [4, 6, 8]}, "parameters"),
        ("mlp", {"steps": 3}, {"steps": 9, "sharing": "shared"}, "train_flops"),
    ],
)
def test_by_depth_a_network_finds_its_own_depth_again(
    name: str, options: dict[str, Any], other: dict[str, Any], kind: str
) -> None:
    other |= {"width": 0.25}
    target = cost(kind, on_meta(name, **{**other, **options}))
    found = match_budget(name, target=target, kind=kind, by="depth", **TINY, **other)
    assert found == {**options, "width": 0.25}


def test_depth_is_left_alone_where_the_cost_is_no_matter_of_it() -> None:
    """The fields of an ODE-Net serve at every step, and undoing steps keeps as many bytes for few as for many."""
    options = {"widths": [8], "by": "depth", **TINY}
    assert set(match_budget("ode_resnet", target=2_000, **options)) <= {"width", "inner"}
    baseline = on_meta("revnet", depth=6, widths=[8])
    found = match_budget("revnet", target=baseline, kind="bytes_kept", batch_size=16, depth=10, **options)
    assert set(found) <= {"width", "inner"}


def test_a_step_time_is_matched_beside_the_network_whose_time_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Times are those of a machine on which a step takes (channels)^1.2 and 30% longer for a Runge-Kutta network."""
    rounds = []

    def clock(networks: dict[str, Network], *_: Any, **__: Any) -> dict[str, dict[str, float]]:
        rounds.append(list(networks))
        return {
            name: {"median_s": network.layout["widths"][-1] ** 1.2 * (1.3 if network.layout["scheme"] == "heun" else 1)}
            for name, network in networks.items()
        }

    monkeypatch.setattr("architectures.costs.matching.step_times", clock)
    baseline = create_model("resnet", widths=[16], depth=6, **TINY)
    found = match_budget("rk_resnet", target=baseline, kind="step_time", widths=[16], depth=6, **TINY)
    times = clock({"baseline": baseline, "rk_resnet": on_meta("rk_resnet", widths=[16], depth=6, **found)})
    assert times["rk_resnet"]["median_s"] == pytest.approx(times["baseline"]["median_s"], rel=0.1)
    assert all(names == ["baseline", "rk_resnet"] for names in rounds)
    assert len(rounds) <= 6


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"kind": "flops", "target": 1}, "did you mean 'train_flops'"),
        ({"kind": "step_time", "target": 1}, "holds on one machine"),
        ({"target": "many", "by": "deep", "tolerance": 2.0}, "(?s)target: .*many.*by: .*'depth'.*tolerance: .*0 and 1"),
        ({"target": 40_000, "kind": "macs", "name": "odenet"}, "known only after training"),
        ({"target": 40_000, "by": "depth", "name": "one_layer_mlp"}, "no depth .* no flow"),
    ],
)
def test_mistakes_in_a_budget_are_told(asked: dict[str, Any], told: str) -> None:
    with pytest.raises(SchemenetError, match=told):
        match_budget(**{"name": "resnet", **asked})


def test_training_flops_of_two_dense_layers_by_hand() -> None:
    """Forward, the weights' gradients, and the inputs' gradients but for the first layer: nothing needs the data's."""
    network = create_model("one_layer_mlp", hidden=7, in_chans=1, image_size=4, num_classes=3)
    assert train_flops(network, (1, 4, 4)) == 2 * (2 * 16 * 7) + 3 * (2 * 7 * 3)


def test_training_flops_count_what_backward_computes_again() -> None:
    """Checkpointing and undoing evaluate each f once more: the forward pass but for stem, transitions and head."""

    def network(gradient: str) -> Network:
        return on_meta("revnet", depth=10, widths=[8], gradient=gradient)

    flops = {
        gradient: train_flops(network(gradient), (1, 8, 8)) for gradient in ("backprop", "checkpoint", "reversible")
    }
    fields = 2 * 2 * (2 * 8 * 8 * 9 * 4 * 4)  # two steps of two branches, each two 3x3 convolutions of four channels
    assert flops["checkpoint"] - flops["backprop"] == flops["reversible"] - flops["backprop"] == 2 * fields


@pytest.mark.filterwarnings("ignore:gradient mode 'adjoint'")
@pytest.mark.parametrize(("name", "gradient"), [("revnet", "reversible"), ("rk_resnet", "adjoint")])
def test_costs_on_the_meta_device_are_those_of_a_real_step(name: str, gradient: str) -> None:
    network = create_model(name, widths=[8], depth=10 if name == "revnet" else 6, gradient=gradient, **TINY)
    assert bytes_kept(network, (1, 8, 8), 16) == memory(network.train(), (1, 8, 8), 16)["bytes_kept"]


def test_a_budget_out_of_reach_names_the_nearest_sizes() -> None:
    with pytest.raises(SchemenetError, match="nearest sizes"):
        match_budget("resnet", target=300)
    with pytest.raises(SchemenetError, match="no architecture 'resnt'"):
        match_budget("resnt", target=1000)


def test_macs_of_resnet20_by_hand() -> None:
    """Convolutions and the classifier, layer by layer, as the layout says."""
    total = 32 * 32 * 9 * 3 * 16
    for width, size in ((16, 32), (32, 16), (64, 8)):
        total += size * size * 9 * width * width * 6
    for narrow, wide, size in ((16, 32, 16), (32, 64, 8)):
        total += size * size * (9 * narrow * wide - 9 * wide * wide + narrow * wide)  # strided first, and shortcut
    assert macs(create_model("resnet20"), (3, 32, 32)) == total + 64 * 10


def test_ledger_counts_evaluations_and_leaves_the_network_alone() -> None:
    network = create_model("rk_resnet", depth=8, width=0.25, in_chans=1)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    costs = ledger(network, (1, 8, 8), batch_size=4)
    assert costs["nfe_forward"] == 2  # one step of two stages
    assert costs["nfe_backward"] == 0
    assert costs["parameters"] == sum(p.numel() for p in network.parameters())
    assert 0 < costs["flow_parameters"] < costs["parameters"]
    assert costs["peak_bytes"] >= costs["bytes_kept"] > 0
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert all(p.grad is None for p in network.parameters())
    assert ledger(create_model("revnet", depth=14, width=0.25, in_chans=1), (1, 8, 8), 4)["nfe_backward"] > 0
    searched = ledger(create_model("odenet", width=0.25, in_chans=1), (1, 28, 28), 2)
    assert searched["nfe_forward"] > 0
    assert "macs" not in searched  # they would be those of one step


@pytest.mark.parametrize(
    ("name", "shape", "options"),
    [
        ("odenet", (1, 8, 8), {"stem": "3x3", "widths": (8,), "gradient": "adjoint", **TINY}),
        ("fractalnet", (1, 8, 8), {"widths": (8, 8), "gradient": "checkpoint", **TINY}),
        ("ode_resnet", (1, 8, 8), {"widths": (8,), "norm": "group", "scheme": IMPLICIT, **TINY}),
        ("neural_ode", (6, 2), {"in_chans": 2, "hidden": 8, "gradient": "adjoint"}),
        ("latent_ode", (6, 2), {"in_chans": 2, "encoder": "ode_rnn", "gradient": "checkpoint"}),
    ],
)  # fmt: skip
def test_evaluations_are_the_calls_of_the_fields(name: str, shape: tuple[int, ...], options: dict[str, Any]) -> None:
    network, calls = create_model(name, **options).train(), []
    for flow in network.flows:
        for f in flow.functions if isinstance(flow, TrajectoryFlow) else [flow.bank]:
            f.register_forward_hook(lambda *_: calls.append(1))
    counts = evaluations(network, shape)
    assert counts["nfe_forward"] > 0 < counts["nfe_backward"]
    assert sum(counts.values()) == len(calls)


@pytest.mark.parametrize("gradient", ["backprop", "reversible"])
def test_costs_of_a_huge_batch_are_counted_without_computing_it(gradient: str) -> None:
    network = create_model("revnet", depth=6, widths=[8], gradient=gradient, **TINY)
    small, huge = (ledger(network, (1, 8, 8), size) for size in (4, 10**8))
    assert huge["batch_size"] == 10**8
    assert huge["peak_bytes"] > 10**11
    assert {key: small[key] for key in small if "bytes" not in key} | {"batch_size": 10**8} == {
        key: huge[key] for key in huge if "bytes" not in key
    }


def test_a_step_that_must_be_computed_is_of_a_batch_that_memory_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("architectures.costs.ledger.MOST_BYTES", 2**20)
    network = create_model("odenet", width=0.1, in_chans=1)
    costs = ledger(network, (1, 16, 16), 10**6)
    assert 1 <= costs["batch_size"] < 1000
    assert costs["peak_bytes"] < 2**22
    assert ledger(network, (1, 16, 16), 2)["batch_size"] == 2
    times = step_times({"resnet": create_model("resnet", width=0.25, **TINY)}, (1, 8, 8), 10**6, steps=2, warm_up=0)
    assert 1 <= times["resnet"]["batch_size"] < 1000


def test_bytes_kept_are_those_that_autograd_keeps() -> None:
    """Two linear layers and a tanh: what stays alive is the two layers' outputs, one of them as the tanh's input."""

    class Two(Model):
        num_classes = 3
        loss, random_batch = Network.loss, Network.random_batch

        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(5, 7), nn.Linear(7, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.second(torch.tanh(self.first(x)))

    network = Two()
    measured = memory(network, (5,), batch_size=11)["bytes_kept"]
    # tanh's output, log-softmax's output (the loss's), and the loss's weight total (one float).
    assert measured == 4 * (11 * 7 + 11 * 3 + 1)


@pytest.mark.parametrize("gradient", ["backprop", "checkpoint", "reversible"])
def test_bytes_kept_against_depth(gradient: str) -> None:
    def kept(steps: int) -> int:
        network = create_model("revnet", width=0.5, grid={"name": "uniform", "steps": steps}, gradient=gradient)
        return memory(network, (3, 16, 16), batch_size=8)["bytes_kept"]

    shallow, deep = kept(2), kept(8)
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
    impatient = step_times(networks, (1, 8, 8), batch_size=4, warm_up=1, patience=0.0)
    assert [told["steps"] for told in impatient.values()] == [10, 10]


def test_memory_is_measured_alike_before_and_after_training() -> None:
    """A run that goes on only to write its result has trained no step in its process."""
    network = create_model("resnet", width=0.25, depth=8)
    measured = [memory(network, (3, 8, 8), 2) for _ in range(8)]
    assert all(found == measured[0] for found in measured)
    assert measured[0]["peak_bytes"] > measured[0]["bytes_kept"]
