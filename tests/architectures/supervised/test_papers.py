"""Each architecture against its paper's equation, written as a loop by hand."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from architectures.registry import FIELDS
from architectures.supervised.network import Network
from schemes.core.node import Node
from tests.support import reference_networks as hand
from tests.support.networks import FAMILIES, FOUR, NARROW, images, same, small
from tests.support.reference_networks import Weights

FOUR_POST = {**FOUR, "activation": "post"}

FOUR_BOTTLENECKS: dict[str, Any] = {"depth": 38, "field": "bottleneck", "widths": (2, 3, 4)}

FOUR_RESNEXT: dict[str, Any] = {"depth": 38, "groups": 2, "group_width": 32, "width": 1 / 16}

FOUR_REV: dict[str, Any] = {"depth": 50, "width": 1 / 8}

FOUR_REV_BOTTLENECKS = {"depth": 74, "width": 1 / 8, "field": "bottleneck", "widths": (32, 64, 128)}

UNDROPPED: dict[str, Any] = {"drop_path": 0.0, "global_drop": 0.0, "widths": (4, 6, 8, 8, 8)}

BEP = "backward_euler_poly"


def over(time: float) -> dict[str, Any]:
    return {"grid": {"name": "uniform", "steps": 4, "time": time}}


ODE_OF_POINTS: dict[str, Any] = {
    "stem": "none", "augment": 2, "hidden": 6, "field": "mlp_time", "scheme": "heun", "sharing": "shared", **over(1.0),
}  # fmt: skip

Loop = Callable[[Weights, Tensor], Tensor]

grouped = partial(hand.bottleneck, groups=2)

PAPERS: dict[str, tuple[str, dict[str, Any], Loop]] = {
    "resnet": ("resnet", FOUR, hand.resnet),
    "resnet, bottleneck": ("resnet", FOUR_BOTTLENECKS, partial(hand.resnet, branch=hand.bottleneck)),
    "resnet, C": ("resnet", {**FOUR, "transition": "C"}, partial(hand.resnet, path="C")),
    "resnet v1, A": ("resnet", {**FOUR_POST, "transition": "A"}, hand.resnet_v1),
    "resnet v1, B": ("resnet", {**FOUR_POST, "transition": "B"}, partial(hand.resnet_v1, path="B")),
    "resnext": ("resnext", FOUR_RESNEXT, partial(hand.resnext, groups=2)),
    "rk_resnet, heun": ("rk_resnet", FOUR, partial(hand.rk_resnet, method="heun")),
    "rk_resnet, rk4": ("rk_resnet", {**FOUR, "scheme": "rk4"}, partial(hand.rk_resnet, method="rk4")),
    "lm_resnet": ("lm_resnet", FOUR, hand.lm_resnet),
    "lm_resnet, bottleneck": ("lm_resnet", FOUR_BOTTLENECKS, partial(hand.lm_resnet, branch=hand.bottleneck)),
    "lm_resnext": ("lm_resnext", FOUR_RESNEXT, partial(hand.lm_resnet, branch=grouped)),
    "lm_resnet, restart": ("lm_resnet", {**FOUR, "history": "restart"}, partial(hand.lm_resnet, history="restart")),
    "lm_resnet, project": ("lm_resnet", {**FOUR, "history": "project"}, partial(hand.lm_resnet, history="project")),
    "lm_resnext, project": (
        "lm_resnext",
        {**FOUR_RESNEXT, "history": "project"},
        partial(hand.lm_resnet, branch=grouped, history="project"),
    ),
    "revnet": ("revnet", FOUR_REV, hand.revnet),
    "revnet, bottleneck": ("revnet", FOUR_REV_BOTTLENECKS, partial(hand.revnet, branch=hand.bottleneck)),
    "revnet, memcnn": ("revnet", {**FOUR_REV, "layout": "memcnn"}, hand.revnet_memcnn),
    "leapfrog_net": ("leapfrog_net", FOUR, hand.leapfrog_net),
    "ode_resnet": ("ode_resnet", {"steps": 3, **NARROW}, hand.ode_resnet),
    "odenet, conv": ("odenet", {"widths": (34,), **over(1.0)}, partial(hand.odenet, stem="conv")),
    "odenet, res": ("odenet", {"widths": (34,), "stem": "res", **over(1.0)}, partial(hand.odenet, stem="res")),
    "fractalnet, C=2": ("fractalnet", {"columns": 2, **UNDROPPED}, partial(hand.fractalnet, columns=2)),
    "fractalnet, C=3": ("fractalnet", {"columns": 3, **UNDROPPED}, partial(hand.fractalnet, columns=3)),
    "mlp": ("mlp", {"steps": 4, "hidden": 6}, hand.mlp),
    "mlp, an ODE of points": ("mlp", ODE_OF_POINTS, partial(hand.ode_mlp, augment=2)),
    "one_layer_mlp": ("one_layer_mlp", {"hidden": 6}, hand.one_layer_mlp),
    "plain": ("plain", FOUR, hand.plain),
    "plain, post": ("plain", {**FOUR_POST, "transition": "A"}, hand.plain_post),
    "stem_only": ("stem_only", NARROW, partial(hand.control, steps=0)),
    "one_block": ("one_block", NARROW, partial(hand.control, steps=1)),
}

FORMS: dict[str, dict[str, Any]] = {
    "poly-2": {},
    "poly-3": {"degree": 3},
    "mpoly-2": {"form": "mpoly"},
    "way-2": {"form": "way"},
}

for form, extra in FORMS.items():
    options = {**FOUR, "scheme": {"name": BEP, **extra}} if extra else FOUR
    PAPERS[f"polynet, {form}"] = "polynet", options, partial(hand.polynet, form=form)


# Other points of the product: one axis swapped.

PAPERS |= {
    "resnet, shared": ("resnet", {**FOUR, "sharing": "shared"}, partial(hand.resnet, shared=True)),
    "resnet, time 1": ("resnet", {**FOUR, **over(1.0)}, partial(hand.resnet, time=1.0)),
    "resnet, shared, time 0.5": (
        "resnet",
        {**FOUR, **over(0.5), "sharing": "shared"},
        partial(hand.resnet, shared=True, time=0.5),
    ),
    "rk_resnet, per_stage": (
        "rk_resnet",
        {**FOUR, "sharing": "per_stage"},
        partial(hand.rk_resnet, method="heun", per_stage=True),
    ),
}


def test_every_family_has_a_hand_written_loop():
    assert {name for name, _, _ in PAPERS.values()} == set(FAMILIES)


@pytest.fixture(params=PAPERS)
def paper(request) -> tuple[Network, Loop]:
    name, options, loop = PAPERS[request.param]
    return small(name, **options).train(), loop


def test_equation_of_the_paper(paper):
    model, loop = paper
    parameters = dict(model.named_parameters())
    x, z = images().requires_grad_(), images().requires_grad_()
    weights = Weights(parameters.values())
    expected = loop(weights, z)
    assert not weights.left
    y = model(x)
    same(y, expected)
    along = torch.linspace(-1, 2, y.numel(), dtype=y.dtype).view_as(y)
    (y * along).sum().backward()
    right = torch.autograd.grad((expected * along).sum(), [z, *parameters.values()])
    same(x.grad, right[0])
    for parameter, gradient in zip(parameters.values(), right[1:], strict=True):
        assert gradient.any()
        same(parameter.grad, gradient)


def test_batch_norm_keeps_statistics_of_each_visited_node(paper):
    model, loop = paper
    weights = Weights(model.parameters())
    with torch.no_grad():
        model(images())
        loop(weights, images())
    seen, kept = defaultdict(list), defaultdict(list)
    for visit in weights.visits:
        seen[id(visit.scale)].append((0.1 * visit.mean, 0.9 + 0.1 * visit.variance))
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.num_batches_tracked == 1
            kept[id(module.weight)].append((module.running_mean, module.running_var))
    assert {key: len(pairs) for key, pairs in kept.items()} == {key: len(pairs) for key, pairs in seen.items()}
    for key, pairs in seen.items():
        for (mean, variance), (running_mean, running_var) in zip(pairs, kept[key], strict=True):
            same(running_mean, mean)
            same(running_var, variance)


def test_evaluation_normalises_each_node_by_its_own_statistics(paper):
    model, loop = paper
    weights, x = Weights(model.parameters()), images(seed=2)
    with torch.no_grad():
        model(images())
        loop(weights, images())
        running = [(0.1 * visit.mean, 0.9 + 0.1 * visit.variance) for visit in weights.visits]
        same(model.eval()(x), loop(Weights(model.parameters(), running), x))


def test_resnext_field_is_a_sum_of_narrow_bottlenecks():
    torch.manual_seed(0)
    field = FIELDS.build(
        {"name": "resnext", "groups": 3}, channels=5, out=5, inner=6, activation_order="post", norm="none"
    ).double()
    u = images(channels=5)
    same(field(Node(0, 0.0, 1.0), u), hand.resnext_sum(Weights(field.parameters()), u, groups=3))
