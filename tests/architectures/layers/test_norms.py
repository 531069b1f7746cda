"""Group norm is one kind of normalisation at every width: groups of two channels."""

from __future__ import annotations

import io
from typing import Any

import pytest
import torch
from torch import nn

from architectures import create_model, match_budget
from architectures.layers.norms import GroupNorm, norm_layer
from architectures.registry import ARCHITECTURES
from schemes.errors import SchemenetError

WITH_NORM = [
    name for name in ARCHITECTURES if "norm" in ARCHITECTURES.parameters(name) and not ARCHITECTURES.entry(name).preset
]


def on_meta(name: str, **options: Any) -> nn.Module:
    with torch.device("meta"):
        return create_model(name, **{"in_chans": 1, "image_size": 28, "norm": "group", **options})


def group_sizes(network: nn.Module) -> set[int]:
    norms = [module for module in network.modules() if isinstance(module, nn.GroupNorm)]
    assert norms
    return {norm.num_channels // norm.num_groups for norm in norms}


@pytest.mark.parametrize("width", [0.11, 0.5, 0.71, 1.0, 2.3])
@pytest.mark.parametrize("name", WITH_NORM)
def test_groups_have_two_channels_at_every_width(name: str, width: float) -> None:
    assert group_sizes(on_meta(name, width=width, **({} if name == "fractalnet" else {"inner": 0.83}))) == {2}


@pytest.mark.parametrize("scheme", ["verlet", "symplectic_euler", "leapfrog"])
def test_groups_have_two_channels_in_each_part_of_a_coupled_state(scheme: str) -> None:
    assert group_sizes(on_meta("resnet", width=0.43, scheme=scheme)) == {2}


@pytest.mark.parametrize("name", ["odenet", "resnet_chen"])
def test_the_papers_width_has_its_32_groups(name: str) -> None:
    network = on_meta(name)
    norms = [module for module in network.modules() if isinstance(module, nn.GroupNorm)]
    assert {(norm.num_groups, norm.num_channels) for norm in norms} == {(32, 64)}
    assert network.layout["norm_groups"] == ["32x2"]  # type: ignore[index]  # a module's attributes have no types


def test_a_budget_by_width_stays_with_groups_of_two() -> None:
    options = match_budget("odenet", target=40_000, in_chans=1, image_size=8)
    network = on_meta("odenet", image_size=8, **options)
    assert group_sizes(network) == {2}
    width = network.layout["widths"][0]  # type: ignore[index]
    assert network.layout["norm_groups"] == [f"{width // 2}x2"]  # type: ignore[index]


def test_the_mean_of_a_channel_is_seen_behind_a_narrow_networks_last_norm() -> None:
    x = torch.randn(2, 6, 5, 5)
    shifted = x + torch.tensor([1.0, 0, 0, 0, 0, 0])[:, None, None]
    assert not torch.allclose(norm_layer("group", 6)(x), norm_layer("group", 6)(shifted), atol=1e-2)


@pytest.mark.parametrize(("channels", "near"), [(1, "2"), (33, "32 or 34")])
def test_an_odd_width_is_refused_with_the_nearest(channels: int, near: str) -> None:
    with pytest.raises(SchemenetError, match=rf"{channels} channels are no multiple of that; use {near}, "):
        norm_layer("group", channels)


def test_an_odd_augmentation_is_refused() -> None:
    with pytest.raises(SchemenetError, match=r"do not divide 64 \+ 5 channels \(augment=5\); use augment=6"):
        on_meta("odenet", augment=5)


@pytest.mark.parametrize(("channels", "groups"), [(32, 32), (6, 6), (128, 32)])
def test_weights_that_were_trained_with_other_groups_are_refused(channels: int, groups: int) -> None:
    """A checkpoint of the rule before, by ``torch.nn.GroupNorm``, through a file as a run writes it."""
    file = io.BytesIO()
    torch.save(nn.Sequential(nn.GroupNorm(groups, channels)).state_dict(), file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    with pytest.raises(SchemenetError, match=f"trained with {groups} groups in a norm of {channels} channels"):
        nn.Sequential(GroupNorm(channels)).load_state_dict(state)


def test_weights_of_the_same_groups_are_taken() -> None:
    for before in (nn.GroupNorm(32, 64), GroupNorm(64)):
        nn.init.normal_(before.weight)
        after = GroupNorm(64)
        after.load_state_dict(before.state_dict())
        x = torch.randn(2, 64, 3, 3)
        torch.testing.assert_close(after(x), before(x))
    narrow = GroupNorm(32)
    GroupNorm(32).load_state_dict(narrow.state_dict())
