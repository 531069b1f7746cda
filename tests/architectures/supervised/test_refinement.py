"""Weights of a trained network in another basis and over other steps."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from architectures.factory import create_model
from architectures.supervised.network import Network
from architectures.supervised.refinement import projected, refine
from schemes.errors import SchemenetError

STEPS = 6


def network(sharing: Any, steps: int = STEPS, scheme: str = "rk4", seed: int = 0, **options: Any) -> Network:
    torch.manual_seed(seed)
    made = create_model(
        "ode_resnet", in_chans=1, num_classes=3, widths=[4], steps=steps, sharing=sharing, scheme=scheme,
        grid={"name": "uniform", "time": 1.0}, **options,
    ).double()  # fmt: skip
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    made.train()(images())  # statistics of its own
    return made.eval()


def images() -> Tensor:
    return torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(1)).double()


def basis(kind: str, size: int) -> dict[str, Any]:
    return {"name": "basis", "kind": kind, "size": size}


def distance(a: Network, b: Network) -> float:
    return (a(images()) - b(images())).abs().max().item()


FINER = [
    ("shared", basis("hat", 3)),
    ("shared", basis("fourier", 3)),
    ("shared", "per_step"),
    (basis("piecewise_constant", 3), basis("piecewise_constant", 6)),
    (basis("piecewise_constant", 3), "per_step"),
    (basis("hat", 3), basis("hat", 5)),
    (basis("legendre", 2), basis("legendre", 4)),
    (basis("hat", 2), basis("legendre", 2)),
]


@pytest.mark.parametrize(("coarse", "fine"), FINER, ids=str)
def test_a_basis_that_has_all_old_functions_changes_nothing_and_the_way_back_is_the_identity(
    coarse: Any, fine: Any
) -> None:
    trained, finer, again = network(coarse), network(fine, seed=1), network(coarse, seed=2)
    refine(trained, finer)
    assert distance(trained, finer) < 1e-12
    refine(finer, again)
    for (name, a), b in zip(again.named_parameters(), trained.parameters(), strict=True):
        assert torch.allclose(a, b, rtol=0, atol=1e-12), name


def test_copied_functions_keep_their_bits() -> None:
    trained, finer = network(basis("piecewise_constant", 3)), network(basis("piecewise_constant", 6), seed=1)
    refine(trained, finer)
    assert torch.equal(trained(images()), finer(images()))


def test_half_the_pieces_are_the_means_of_two() -> None:
    trained, coarser = network("per_step"), network(basis("piecewise_constant", 3), seed=1)
    refine(trained, coarser)
    old, new = (list(each.flows[0].bank.groups.values()) for each in (trained, coarser))
    for k in range(3):
        for mean, first, second in zip(*(f.parameters() for f in (new[k], old[2 * k], old[2 * k + 1])), strict=True):
            assert torch.allclose(mean, (first + second) / 2, atol=1e-12)


def test_statistics_between_two_nodes_are_between_those_of_the_nodes() -> None:
    trained, finer = network("shared", steps=2, scheme="forward_euler"), network("shared", 4, "forward_euler", 1)
    refine(trained, finer)
    old, new = (
        [dict(net.flows[0].bank.at(node).named_buffers()) for node in net.flows[0].visits] for net in (trained, finer)
    )
    for name, buffer in new[1].items():
        if name.endswith("running_var"):
            assert torch.allclose(buffer, (old[0][name] + old[1][name]) / 2)
            assert torch.equal(new[0][name], old[0][name])
            assert torch.equal(new[3][name], old[1][name])  # behind the last one nothing is known


def test_more_steps_of_a_smooth_flow_come_closer_to_its_ode() -> None:
    options = {"norm": "group"}
    trained = network(basis("legendre", 3), 8, **options)
    gaps = []
    for steps in (16, 32):
        finer = network(basis("legendre", 3), steps, seed=1, **options)
        refine(trained, finer)
        gaps.append(distance(trained, finer))
        trained = finer
    assert gaps[1] < gaps[0] / 4


def test_second_moments_stay_above_zero() -> None:
    trained, other = network(basis("piecewise_constant", 2)), network(basis("legendre", 2), seed=1)
    projections = refine(trained, other)
    state = {name: torch.zeros_like(p) for name, p in trained.named_parameters()}
    name = projections[0].old[1]
    state[name] = torch.ones_like(state[name])
    free, floored = projected(state, projections), projected(state, projections, floor=0.0)
    first, second = projections[0].new
    assert torch.allclose(free[first], torch.full_like(free[first], 0.5))
    assert torch.allclose(free[second], torch.full_like(free[second], 0.75))
    assert all(bool((value >= 0).all()) for value in floored.values())


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"sharing": "per_stage"}, "no function of time"),
        ({"sharing": "shared", "scheme": "symplectic_euler"}, "coupled state"),
        ({"sharing": "shared", "inner": 0.5}, "differ in more than their steps"),
        ({"sharing": "shared", "norm": "group"}, "differ in more than their steps"),
    ],
)
def test_other_networks_are_refused(other: dict[str, Any], words: str) -> None:
    with pytest.raises(SchemenetError, match=words):
        refine(network("shared"), network(**other))
