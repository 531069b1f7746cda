"""Fields of a flow: how nodes share weights and keep statistics of their own."""

from __future__ import annotations

import copy
import itertools
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from schemes.core.node import Node
from schemes.errors import SchemenetError
from schemes.registry import SCHEMES
from tests.support.problems import (
    CHANNELS,
    Noisy,
    Tanh,
    batch,
    distance,
    make_flow,
    spec_id,
)
from tests.support.selections import ONE_OF_A_KIND, SHARINGS, VARIANTS


@pytest.mark.parametrize("name", [n for n in SCHEMES if SCHEMES.build(n).components > 1])
@pytest.mark.parametrize("channels", [1, 3, 5])
def test_channels_that_cannot_be_split_are_refused(name: str, channels: int) -> None:
    """A chunk of two channels and one of one would be broadcast together without a word."""

    class Mean(nn.Module):
        def __init__(self, channels: int) -> None:
            super().__init__()

        def forward(self, node: Node, y: Tensor) -> Tensor:
            return y.mean(1, keepdim=True)

    with pytest.raises(SchemenetError, match="channels"):
        make_flow(Mean, scheme=name, channels=channels)(batch(channels=channels))


@pytest.mark.parametrize("spec", [*ONE_OF_A_KIND, *VARIANTS], ids=spec_id)
def test_state_dict_round_trip(spec: Any, tmp_path: Path) -> None:
    flow = make_flow(Noisy, scheme=spec, sharing="shared")
    with torch.no_grad():
        flow(batch())
    torch.save(flow.state_dict(), tmp_path / "flow.pt")
    other = make_flow(Noisy, scheme=spec, sharing="shared", seed=9)
    assert not torch.equal(other.eval()(batch()), flow.eval()(batch()))
    other.load_state_dict(torch.load(tmp_path / "flow.pt", weights_only=True), strict=True)
    assert torch.equal(other(batch()), flow(batch()))


class CountedKey(str):
    """A name in a state dict that counts how often its beginning is compared."""

    comparisons = 0

    def startswith(self, *args: Any) -> bool:
        CountedKey.comparisons += 1
        return super().startswith(*args)


@pytest.mark.parametrize("sharing", ["per_step", "shared"])
def test_loading_compares_each_entry_a_fixed_number_of_times(sharing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch compares each entry of a module with the name of each child: quadratic in the number of nodes."""
    comparisons = []
    for steps in (8, 64):
        flow = make_flow(Normalised, scheme="forward_euler", sharing=sharing, steps=steps)
        state = {CountedKey(key): value for key, value in flow.state_dict().items()}
        monkeypatch.setattr(CountedKey, "comparisons", 0)
        flow.load_state_dict(state)
        comparisons.append(CountedKey.comparisons / len(state))
    assert 0 < comparisons[1] < 1.2 * comparisons[0]


def test_loading_reports_wrong_names_and_leaves_no_hooks() -> None:
    flow = make_flow(Normalised, scheme="forward_euler", sharing="shared", steps=3)
    state = flow.state_dict()
    del state["bank.fields.2.norm.running_mean"]
    state |= {"bank.fields.1.linear.other": torch.zeros(1), "bank.fields.3.x": torch.zeros(1)}
    with pytest.raises(RuntimeError) as error:
        flow.load_state_dict(state)
    message = str(error.value)
    assert 'Missing key(s) in state_dict: "bank.fields.2.norm.running_mean". ' in message
    assert all(f'"{name}"' in message for name in ("bank.fields.1.linear.other", "bank.fields.3.x"))
    assert not any(field._load_state_dict_pre_hooks for field in flow.bank.fields)


def test_a_hook_of_a_field_may_rename_its_entries() -> None:
    flow, other = (make_flow(Normalised, scheme="forward_euler", sharing="per_step", steps=3, seed=i) for i in (0, 1))

    def rename(module: nn.Module, state: dict[str, Any], *_: Any) -> None:
        for name in [name for name in state if ".map." in name]:
            state[name.replace(".map.", ".linear.")] = state.pop(name)

    for field in other.bank.fields:
        field.register_load_state_dict_pre_hook(rename)
    other.load_state_dict({name.replace(".linear.", ".map."): value for name, value in flow.state_dict().items()})
    assert torch.equal(other.eval()(batch()), flow.eval()(batch()))


# Field banks


@pytest.mark.parametrize("spec", ONE_OF_A_KIND)
@pytest.mark.parametrize("sharing", SHARINGS)
def test_parameter_counts_do_not_depend_on_twins(spec: Any, sharing: str) -> None:
    scheme = SCHEMES.build(spec)
    one = sum(p.numel() for p in Noisy(CHANNELS // scheme.components).parameters())
    counts = []
    for statistics in ("per_node", "shared"):
        flow = make_flow(Noisy, scheme=spec, sharing=sharing, statistics=statistics, steps=4)
        counts.append(sum(p.numel() for p in flow.bank.parameters()))
        places = {node.place for node in flow.visits}
        groups = {
            "per_step": {(node.step, node.component) for node in flow.visits},
            "shared": {node.component for node in flow.visits},
            "per_stage": places,
        }[sharing]
        means = {name for name, _ in flow.named_buffers() if name.endswith("running_mean")}
        assert len(means) == len(places if statistics == "per_node" else groups)
    assert counts[0] == counts[1] == one * len(groups)


def test_fields_without_buffers_have_no_twins() -> None:
    flow = make_flow(Tanh, scheme="rk4", sharing="shared", steps=6)
    assert len(flow.bank.fields) == 1
    assert all(flow.bank.at(node) is flow.bank.fields[0] for node in flow.visits)


@pytest.mark.parametrize("spec", ["backward_euler_poly", "heun"])
def test_statistics_per_node_make_evaluation_work(spec: str) -> None:
    """With one set of statistics the averages of different distributions normalise each of them."""
    gaps = {}
    for statistics in ("per_node", "shared"):
        flow = make_flow(
            Normalised,
            scheme=spec,
            sharing="shared",
            statistics=statistics,
            steps=3,
            time=3.0,
            dtype=torch.float32,
        )
        with torch.no_grad():
            flow.bank.fields[0].linear.weight.mul_(3)
            for seed in range(60):
                trained = flow(batch(512, seed=seed, dtype=torch.float32))
            gaps[statistics] = distance(flow.eval()(batch(512, seed=59, dtype=torch.float32)), trained)
        means = [b for name, b in flow.named_buffers() if name.endswith("running_var")]
        if statistics == "per_node":
            assert len(means) == len(flow.visits)
            assert all(distance(a, b) > 1e-2 for a, b in itertools.combinations(means, 2))
    assert gaps["per_node"] < 0.1
    assert gaps["shared"] > max(0.3, 5 * gaps["per_node"])


class Normalised(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm, self.linear = nn.BatchNorm1d(channels), nn.Linear(channels, channels)

    def forward(self, node: Node, y: Tensor) -> Tensor:
        return self.linear(torch.relu(self.norm(y))) + 1


@pytest.mark.parametrize(
    "change",
    [nn.SyncBatchNorm.convert_sync_batchnorm, copy.deepcopy, lambda flow: pickle.loads(pickle.dumps(flow))],
    ids=["sync_batch_norm", "deepcopy", "pickle"],
)
def test_ties_survive(change: Any) -> None:
    flow = make_flow(Noisy, scheme="heun", sharing="shared", steps=3)
    count = len(list(flow.parameters()))
    changed = change(flow)
    assert len(changed.bank.fields) == 6
    assert len(list(changed.parameters())) == count == 6
    first, *twins = changed.bank.fields
    for twin in twins:
        assert twin.norm.weight is first.norm.weight
        assert twin.first.weight is first.first.weight
        assert twin.norm.running_mean is not first.norm.running_mean
    with torch.no_grad():
        first.second.weight.zero_()
        first.second.bias.zero_()
    assert torch.equal(changed.eval()(batch()), batch()), "f is zero at every node"


def test_ties_survive_the_meta_device() -> None:
    """There torch makes new parameters, one for each of their places."""
    flow = make_flow(Noisy, scheme="heun", sharing="shared", steps=3)
    flow = flow.to("meta").to_empty(device="cpu")
    assert len(list(flow.parameters())) == 6
    assert all(field.norm.weight is flow.bank.fields[0].norm.weight for field in flow.bank.fields)
