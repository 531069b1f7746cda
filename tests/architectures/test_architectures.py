"""Every architecture against its paper's equation, its published size, and what a user may do to it."""

from __future__ import annotations

import copy
import io
import pickle
import re
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from itertools import product
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from architectures.factory import create_model, list_models, networks_for_scheme
from architectures.layers.transitions import Projection
from architectures.registry import ARCHITECTURES, FIELDS
from architectures.supervised.network import Network
from schemes.core.node import Node
from schemes.errors import SchemenetError
from schemes.registry import GRADIENTS, SCHEMES
from tests.support import reference_networks as hand
from tests.support.products import ONE_OF_A_KIND, rest_is_slow
from tests.support.reference_networks import Weights

FAMILIES = [name for name in list_models(task="classification") if not ARCHITECTURES.entry(name).preset]
IMAGE_FAMILIES = [name for name in FAMILIES if "image" in ARCHITECTURES.entry(name).facts.get("reads", ("image",))]
STEPPED = [name for name in FAMILIES if "gradient" in ARCHITECTURES.parameters(name)]
SMALL: dict[str, Any] = {"image_size": 8, "num_classes": 5}

drifts = pytest.mark.filterwarnings("ignore::schemes.gradients.adjoint_ode.backsolve.AdjointDriftWarning")


def randomised(model: nn.Module) -> nn.Module:
    """Norms off 1 and 0, two-step coefficients off 0: no weight can then take another's place unseen."""
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d | nn.GroupNorm):
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(std=0.3)
        for name, parameter in model.named_parameters():
            if name.endswith("scheme.k"):
                parameter.uniform_(-0.9, 0.9)
    return model


def small(name: str, seed: int = 0, **options: Any) -> Network:
    torch.manual_seed(seed)
    return randomised(create_model(name, **{**SMALL, **options})).double()


def images(batch: int = 4, channels: int = 3, size: int = 8, seed: int = 1) -> Tensor:
    return torch.randn(batch, channels, size, size, dtype=torch.float64, generator=torch.manual_seed(seed))


def count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def gradients(model: nn.Module, x: Tensor) -> dict[str, Tensor | None]:
    """By parameter, of one fixed functional of the output in training mode; every draw from the same seed."""
    model.zero_grad()
    torch.manual_seed(7)
    y = model.train()(x)
    (y * torch.linspace(-1, 2, y.numel(), dtype=y.dtype).view_as(y)).sum().backward()
    return {name: p.grad for name, p in model.named_parameters()}


def same(found: Tensor | None, expected: Tensor, tolerance: float = 1e-10) -> None:
    assert found is not None
    atol = tolerance * max(1.0, float(expected.detach().abs().max()))
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=atol)


# 1. The equations of the papers, with three steps or more in each flow, and transitions -------------------

NARROW: dict[str, Any] = {"widths": (4, 6, 8)}
FOUR: dict[str, Any] = {"depth": 26, **NARROW}
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
        partial(hand.rk_resnet, method="heun", own=True),
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


def test_recomputing_modes_update_statistics_once_and_alike():
    for name, options in {"revnet": {"width": 1 / 8}, "ode_resnet": NARROW, "leapfrog_net": NARROW}.items():
        plain, own = small(name, gradient="backprop", **options), small(name, **options)
        gradients(plain, images()), gradients(own, images())
        for found, expected in zip(own.buffers(), plain.buffers(), strict=True):
            same(found, expected)


def test_statistics_can_be_shared_between_nodes_as_a_control():
    model = small("rk_resnet", depth=14, statistics="shared", **NARROW)
    with torch.no_grad():
        model(images())
    tracked = {int(m.num_batches_tracked) for m in model.modules() if isinstance(m, nn.BatchNorm2d)}
    assert tracked == {1, 2}  # the transitions' and the head's once, the fields' at both stages
    assert sum(m.weight.numel() for m in model.modules() if isinstance(m, nn.BatchNorm2d)) == sum(
        p.numel()
        for n, p in small("rk_resnet", depth=14, **NARROW).named_parameters()
        if p.dim() == 1 and "weight" in n
    )


def test_resnext_field_is_a_sum_of_narrow_bottlenecks():
    torch.manual_seed(0)
    field = FIELDS.build(
        {"name": "resnext", "groups": 3}, channels=5, out=5, inner=6, activation_order="post", norm="none"
    ).double()
    u = images(channels=5)
    same(field(Node(0, 0.0, 1.0), u), hand.resnext_sum(Weights(field.parameters()), u, groups=3))


@pytest.mark.parametrize("transition", ["A", "B", "C", "D", "pool"])
@pytest.mark.parametrize("size", [7, 8, 28])
def test_transitions_halve_the_resolution(transition, size):
    model = small("resnet", depth=14, transition=transition, **NARROW)
    _, states = model.forward_intermediates(images(size=size))
    shapes = [tuple(state.shape[1:]) for state in states]
    half, quarter = -(-size // 2), -(-size // 4)
    assert shapes == [(4, size, size), (6, half, half), (8, quarter, quarter)]


# 2. Sizes -------------------------------------------------------------------------------------------------

PUBLISHED: dict[str, tuple[str, dict[str, Any], int]] = {}


def published(name: str, total: int, **options: Any) -> None:
    PUBLISHED[" ".join([name, *(f"{k}={v}" for k, v in options.items())])] = name, options, total


for depth, total in {
    20: 269_722,
    32: 464_154,
    44: 658_586,
    56: 853_018,
    110: 1_727_962,
    1202: 19_421_274,
}.items():
    published(f"resnet{depth}_v1", total)
for depth, total in {
    20: 272_474,
    32: 466_906,
    44: 661_338,
    56: 855_770,
    110: 1_730_714,
    1202: 19_424_026,
}.items():
    published("resnet", total, depth=depth, activation="post", transition="B")
for depth, total in {20: 272_282, 32: 466_714, 44: 661_146, 56: 855_578, 110: 1_730_522}.items():
    published("resnet", total, depth=depth, transition="C")
published("resnet164", 1_703_258)
published("resnet1001", 10_327_706)
published("resnet164", 1_704_154, transition="B")
for depth, total in {
    20: 272_384,
    32: 466_822,
    44: 661_260,
    56: 855_698,
    110: 1_730_669,
    164: 1_703_725,
}.items():
    published(f"lm_resnet{depth}", total)
for depth, total in {
    20: 273_475,
    32: 467_913,
    44: 662_351,
    56: 856_789,
    110: 1_731_760,
    164: 1_703_760,
}.items():
    published(f"lm_resnet{depth}", total, released_dead_weights=True)
for size, total in {"8x64d": 34_426_698, "16x64d": 68_155_210, "32x4d": 4_775_754}.items():
    published(f"resnext29_{size}", total)
for depth, total in {38: 464_890, 110: 1_729_194, 164: 1_748_778}.items():
    published(f"revnet{depth}", total)
for depth, total in {38: 573_994, 110: 1_854_890, 164: 1_983_786}.items():
    published(f"revnet{depth}", total, layout="memcnn")
published("fractalnet20", 33_724_618)
# ImageNet: torchvision's counts; the pre-activated one is timm's resnetv2_50, whose shortcut is C.
for name, total in {
    "resnet18": 11_689_512, "resnet34": 21_797_672, "resnet50": 25_557_032, "resnet101": 44_549_160,
    "resnet152": 60_192_808, "resnext50_32x4d": 25_028_904,
}.items():  # fmt: skip
    published(name, total)
published("resnet50_v2", 25_549_352, transition="C")
# MNIST, in the table of Chen et al. 2018: the authors' example has these counts; the MLP is LeCun's 784-300-10.
GREY = {"in_chans": 1, "image_size": 28}
for name in ("odenet", "rknet"):
    published(name, 208_266, **GREY)
    published(name, 232_970, stem="res", **GREY)
published("resnet_chen", 576_778, **GREY)
published("resnet_chen", 601_482, stem="res", **GREY)
published("one_layer_mlp", 238_510, **GREY)


@pytest.mark.parametrize("entry", PUBLISHED)
def test_published_size(entry):
    name, options, total = PUBLISHED[entry]
    with torch.device("meta"):
        assert count(create_model(name, **options)) == total


@pytest.mark.parametrize(("kind", "side"), [("conv", 6), ("res", 7)])
def test_states_of_an_odenet_on_mnist(kind, side):
    with torch.device("meta"):
        model = create_model("odenet", stem=kind, augment=6, **GREY)
        (state,) = model.forward_intermediates(torch.empty(2, 1, 28, 28), intermediates_only=True)
    assert state.shape == (2, 70, side, side)
    assert model.feature_info == [{"num_chs": 70, "reduction": 4, "module": "stages.0"}]
    assert count(model.flows[0].bank) == 75_392 + 6 * (9 * 64 + 9 * 65 + 1 + 4)  # more inputs, outputs and norms
    assert model.classifier.in_features == 70


@pytest.mark.parametrize(("name", "options"), [("odenet", {"widths": (34,)}), ("ode_resnet", NARROW)])
def test_augmented_states_begin_with_zeros_and_keep_what_the_flow_makes_of_them(name, options):
    model, entered = small(name, augment=2, **options), []
    for flow in model.flows:
        flow.register_forward_pre_hook(lambda _, inputs: entered.extend([inputs[0], *inputs[1]]))
    states = model.forward_intermediates(images(), intermediates_only=True)
    assert len(entered) == 2 * len(model.flows) - 1  # with the older states behind transitions
    assert not any(x[:, -2:].any() for x in entered)
    assert all(x[:, -2:].any() for x in states)
    all_trained(model, images())


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "resnext50_32x4d"])
def test_imagenet_layout_with_torchvisions_weights_is_torchvisions_network(name):
    torch.manual_seed(0)
    theirs = randomised(getattr(torchvision.models, name)()).double().train()
    x = images(size=64)
    with torch.no_grad():
        theirs(images(size=64, seed=5))  # running statistics off 0 and 1
        theirs.eval()
        ours = create_model(name).double().eval()
        pairs = zip(ours.state_dict().items(), theirs.state_dict().items(), strict=True)
        ours.load_state_dict({key: tensor for (key, _), (_, tensor) in pairs})
        same(ours(x), theirs(x))


@pytest.mark.parametrize("blocks", [(2, 2, 3, 2), (2, 2, 11, 2)])
def test_size_of_imagenet_revnets_by_hand(blocks):
    """No count is printed with enough digits. Bottleneck branch of a half: norms before 1x1, 3x3, 1x1 convolutions."""

    def branch(enter: int, inner: int, out: int) -> int:
        return 2 * (enter + inner + inner) + enter * inner + 9 * inner * inner + inner * out

    halves, enter = (64, 128, 256, 416), 64
    total = 3 * 128 * 49 + 2 * 128  # stem: convolution and norm
    for n, inner in zip(blocks, halves, strict=True):
        out = 4 * inner
        total += branch(enter, inner, out) + branch(out, inner, out) + 2 * enter * out  # the first unit
        total += (n - 1) * 2 * branch(out, inner, out)
        enter = out
    total -= 2 * 64  # the very first branch has no leading norm
    total += 2 * 2 * enter + 2 * enter * 1000 + 1000
    depth = sum(blocks) * 6 + 2
    with torch.device("meta"):
        assert count(create_model(f"revnet{depth}")) == total


def test_lm_resnet_50_is_the_pre_activated_resnet_50_but_for_k():
    options = {"width": 1 / 16, **SMALL}
    resnet, lm_resnet = small("resnet50_v2", **options), small("lm_resnet50", seed=3, **options)
    extra = {key for key in lm_resnet.state_dict() if key.endswith("scheme.k")}
    with torch.no_grad():
        for flow in lm_resnet.flows:
            flow.scheme.k.zero_()
    assert set(lm_resnet.load_state_dict(resnet.state_dict(), strict=False).missing_keys) == extra
    assert sum(len(flow.scheme.k) for flow in lm_resnet.flows) == 3 + 4 + 6 + 3 - 4
    same(lm_resnet(images(size=32)), resnet(images(size=32)), 1e-12)


@pytest.mark.parametrize("scheme", rest_is_slow(zip(SCHEMES, strict=True), lambda scheme: scheme in ONE_OF_A_KIND))
def test_every_scheme_steps_the_imagenet_layout(scheme):
    options = {"scheme": scheme, "activation": "pre"} if scheme != "fractal" else {"scheme": scheme}
    model = create_model("resnet50", width=1 / 16, num_classes=3, **options)
    states = model.forward_intermediates(torch.randn(2, 3, 64, 64), intermediates_only=True)
    assert [state.shape[2] for state in states] == [16, 8, 4, 2]


def test_classes_are_those_of_the_data_that_a_layout_is_made_for():
    with torch.device("meta"):
        classes = {name: create_model(name).num_classes for name in ("resnet20", "resnet50", "revnet56", "mlp")}
        assert create_model("resnet20", stem="7x7").num_classes == 1000
        assert create_model("resnet50", num_classes=7).num_classes == 7
    assert classes == {"resnet20": 10, "resnet50": 1000, "revnet56": 1000, "mlp": 10}


@pytest.mark.parametrize("depth", [20, 32, 44, 56, 110])
def test_a_coefficient_for_each_step_is_all_that_linear_multistep_adds(depth):
    n = (depth - 2) // 6
    with torch.device("meta"):
        resnet, lm_resnet = create_model(f"resnet{depth}"), create_model(f"lm_resnet{depth}")
    assert count(lm_resnet) - count(resnet) == 3 * (n - 1)


@pytest.mark.parametrize(("size", "millions"), [("8x64d", 35.1), ("16x64d", 68.8)])
def test_projected_history_of_lm_resnext_has_the_published_size(size, millions):
    """671,744 are a convolution at each of three transitions; at the first of them there is no older state."""
    with torch.device("meta"):
        plain, projecting = (
            create_model(f"lm_resnext29_{size}", history=history) for history in ("shortcut", "project")
        )
    convolutions = [count(stage.transition.older) for stage in projecting.stages if stage.transition.older is not None]
    assert convolutions == [256 * 512, 512 * 1024]
    assert sum(convolutions) == 671_744 - 64 * 256
    assert count(projecting) - count(plain) == sum(convolutions) - 1  # the first flow has no state before: one k less
    assert round(count(projecting) / 1e6, 1) == millions


def test_history_that_restarts_makes_the_first_step_after_a_transition_plain():
    model = small("lm_resnet", history="restart", **FOUR)
    assert [len(flow.scheme.k) for flow in model.flows] == [3, 2, 2]


@pytest.mark.parametrize("history", ["restart", "project"])
def test_history_crosses_stages_without_steps(history):
    model = small("lm_resnet", depth=(2, 1, 2), widths=(4, 6, 8), history=history)
    all_trained(model, images())
    assert len(model.flows) == 2
    assert [name for name, _ in model.named_parameters() if name.endswith("scheme.k")] == (
        [f"stages.{i}.flow.scheme.k" for i in (0, 2)][: 1 + (history == "project")]
    )


def test_projected_history_is_differentiated_through_checkpoints():
    options = {**FOUR, "history": "project"}
    modes = ("backprop", "checkpoint")
    plain, found = (gradients(small("lm_resnet", gradient=mode, **options), images()) for mode in modes)
    for key, gradient in plain.items():
        assert gradient.any()
        same(found[key], gradient)


def test_powers_of_one_field_add_no_parameter_and_own_fields_double_it():
    with torch.device("meta"):
        resnet = create_model("resnet20")
        poly = [create_model("polynet", scheme={"name": BEP, "degree": degree}) for degree in (2, 3)]
        own = [create_model("polynet", scheme={"name": BEP, "form": form}) for form in ("mpoly", "way")]
        heun, rk4 = create_model("rk_resnet"), create_model("rk_resnet", scheme="rk4")
    inside = sum(count(flow.bank) for flow in resnet.flows)
    assert {count(model) for model in (*poly, heun, rk4)} == {count(resnet)}
    assert {count(model) for model in own} == {count(resnet) + inside}


def test_default_is_the_size_that_the_docstring_says():
    pairs = {
        "resnet": "resnet20",
        "lm_resnet": "lm_resnet20",
        "resnext": "resnext29_8x64d",
        "lm_resnext": "lm_resnext29_8x64d",
        "revnet": "revnet38",
        "fractalnet": "fractalnet20",
    }
    with torch.device("meta"):
        for family, size in pairs.items():
            assert count(create_model(family)) == count(create_model(size)), family


# 3. resnet20 and lm_resnet20 differ in k alone ------------------------------------------------------------


def test_resnet_and_lm_resnet_differ_in_k_alone():
    resnet, lm_resnet = small("resnet20", width=0.5), small("lm_resnet20", seed=3, width=0.5)
    extra = {key for key in lm_resnet.state_dict() if key.endswith("scheme.k")}
    assert list(resnet.state_dict()) == [key for key in lm_resnet.state_dict() if key not in extra]
    assert len(extra) == 3
    assert set(lm_resnet.load_state_dict(resnet.state_dict(), strict=False).missing_keys) == extra
    with torch.no_grad():
        for flow in lm_resnet.flows:
            flow.scheme.k.zero_()
    plain, two_step = gradients(resnet, images()), gradients(lm_resnet, images())
    for key, gradient in plain.items():
        same(two_step[key], gradient, 1e-12)
    for key in extra:
        assert two_step[key].any()
    assert torch.equal(resnet.eval()(images(seed=4)), lm_resnet.eval()(images(seed=4)))


def test_zero_coefficient_has_the_very_state_of_a_resnet():
    zero = create_model("lm_resnet20", scheme={"name": "linear_multistep", "k": "zero"})
    assert list(zero.state_dict()) == list(create_model("resnet20").state_dict())
    swapped = create_model("resnet20", scheme="linear_multistep")
    assert list(swapped.state_dict()) == list(create_model("lm_resnet20").state_dict())


# 4. Everything builds, runs, and trains all of its parameters ---------------------------------------------


DEEPEST = ("resnet1001", "resnet1202", "resnet1202_v1")


@pytest.mark.parametrize(
    "name", rest_is_slow(zip(list_models(task="classification"), strict=True), lambda name: name not in DEEPEST)
)
def test_forward_on_the_meta_device(name):
    with torch.device("meta"), torch.no_grad():
        model = create_model(name, num_classes=7)
        assert model(torch.empty(2, 3, 32, 32)).shape == (2, 7)
    assert all(t.is_meta for t in (*model.parameters(), *model.buffers()))


def all_trained(model: nn.Module, x: Tensor) -> dict[str, Tensor | None]:
    found = gradients(model, x)
    assert [name for name, gradient in found.items() if gradient is None] == []
    assert [name for name, gradient in found.items() if not gradient.isfinite().all()] == []
    return found


@pytest.mark.parametrize("size", [32, 28, 8])
@pytest.mark.parametrize("name", IMAGE_FAMILIES)
def test_every_parameter_gets_a_gradient(name, size):
    model = create_model(name, in_chans=1, num_classes=3, image_size=size, width=0.1)
    x = torch.randn(3, 1, size, size)
    assert model.train()(x).shape == (3, 3)
    all_trained(model, x)
    assert model.eval()(x[:1]).shape == (1, 3)
    assert model.forward_features(x).shape[:2] == (3, model.num_features)


@pytest.mark.parametrize("scheme", rest_is_slow(zip(SCHEMES, strict=True), lambda scheme: scheme in ONE_OF_A_KIND))
def test_every_scheme_steps_the_resnet_and_the_mlp(scheme):
    if SCHEMES.build(scheme).implicit:
        scheme = {"name": scheme, "substeps": 4}  # at h = 1, untrained
    all_trained(create_model("resnet", depth=26, width=0.25, scheme=scheme, **SMALL), torch.randn(3, 3, 8, 8))
    all_trained(create_model("mlp", in_chans=4, image_size=None, scheme=scheme, hidden=8), torch.randn(5, 4))


def refusal(name: str, **options: Any) -> str | None:
    """The message with which a network is refused, None where it is built."""
    try:
        create_model(name, **{**SMALL, **options})
    except SchemenetError as refused:
        return str(refused)
    return None


PAIRS = list(product(STEPPED, GRADIENTS))


@drifts
@pytest.mark.parametrize(("name", "mode"), PAIRS)
def test_every_gradient_mode_on_every_architecture(name, mode):
    options = {"gradient": mode, "width": 0.1}
    if (message := refusal(name, **options)) is not None:
        assert f"gradient mode {mode!r}" in message
        assert "use " in message
        return
    found = all_trained(small(name, **options), images())
    if mode != "adjoint":
        plain = gradients(small(name, **{**options, "gradient": "backprop"}), images())
        for key, gradient in found.items():
            same(gradient, plain[key])


@pytest.mark.parametrize(
    ("mode", "names"),
    [
        ("backprop", set(STEPPED)),
        ("checkpoint", set(STEPPED)),
        ("reversible", {"revnet", "leapfrog_net", "stem_only"}),
        ("adjoint", {"resnet", "rk_resnet", "odenet", "ode_resnet", "revnet", "mlp", "one_block", "stem_only"}),
    ],
)
def test_which_gradient_modes_the_defaults_allow(mode, names):
    allowed = {name for name in STEPPED if refusal(name, gradient=mode, width=0.1) is None}
    assert allowed >= names
    assert mode != "reversible" or allowed == names


@pytest.mark.parametrize(
    ("scheme", "sharing"),
    [
        ("heun", "per_stage"),
        ("midpoint", "per_stage"),
        ("rk4", "per_stage"),
        ("verlet", "per_stage"),
        ("adams_bashforth2", "per_stage"),
        ("adams_bashforth2", "per_step"),
        ("leapfrog", "per_step"),
    ],
)
def test_adjoint_refuses_weights_for_which_there_is_no_ode(scheme, sharing):
    message = refusal("resnet", scheme=scheme, sharing=sharing, gradient="adjoint", width=0.25)
    assert message is not None
    assert "sharing" in message


def test_adjoint_of_an_odenet_comes_near_backprop_with_more_steps():
    def gap(steps: int) -> float:
        options = {"steps": steps, "norm": "none", **NARROW}
        pair = [gradients(small("ode_resnet", gradient=mode, **options), images()) for mode in ("adjoint", "backprop")]
        adjoint, exact = (torch.cat([g.flatten() for g in found.values()]) for found in pair)
        return float((adjoint - exact).norm() / exact.norm())

    coarse, fine = gap(8), gap(32)
    assert fine < coarse / 8
    assert fine < 1e-2


# 5. Names, and what is refused ----------------------------------------------------------------------------


def test_for_scheme_gives_the_networks_that_a_word_is_known_as():
    expected = {
        "forward_euler": ["resnet"], "backward_euler_poly": ["polynet"], "rk2": ["fractalnet", "rk_resnet"],
        "heun": ["fractalnet", "rk_resnet"], "linear_multistep": ["lm_resnet"], "reversible": ["revnet"],
        "symplectic_euler": ["revnet"], "leapfrog": ["leapfrog_net"], "ode_net": ["ode_resnet"], "rk4": [],
    }  # fmt: skip
    assert {word: networks_for_scheme(word) for word in expected} == expected


def test_for_scheme_refuses_an_unknown_word_with_the_near_ones():
    with pytest.raises(SchemenetError, match=r"no network is known for the word 'odenet'; did you mean 'ode_net'"):
        networks_for_scheme("odenet")


def test_list_models():
    assert list_models("revnet*") == ["revnet", "revnet38", "revnet56", "revnet104", "revnet110", "revnet164"]
    assert list_models("resnet*_v1")[:3] == ["resnet20_v1", "resnet32_v1", "resnet44_v1"]
    assert set(list_models()) == set(ARCHITECTURES)
    assert list_models("no such network") == []


def test_a_size_gives_way_to_what_the_user_says():
    with torch.device("meta"):
        assert count(create_model("resnet20", depth=32)) == count(create_model("resnet32"))


REFUSED: list[tuple[str, dict[str, Any], list[str]]] = [
    ("resnt20", {}, ["no architecture 'resnt20'; did you mean 'resnet20'", "known: ", "fractalnet20"]),
    ("resnet", {"wdth": 1.0}, ["'resnet' takes no 'wdth'", "did you mean 'width'", "it takes: depth"]),
    ("fractalnet", {"sharing": "shared"}, ["'fractalnet' takes no 'sharing'", "it takes: columns"]),
    ("stem_only", {"depth": 20}, ["architecture 'stem_only' takes no 'depth'"]),
    ("resnet", {"depth": "20"}, ["architecture 'resnet': depth expected a whole number or a list", "got '20'"]),
    ("resnet", {"depth": 20.0}, ["depth expected a whole number or a list", "got 20.0"]),
    ("resnet", {"width": "x", "dept": 3}, ["width expected a number, got 'x'", "did you mean 'depth'"]),
    ("resnet", {"widths": 16}, ["widths expected a list [...], each entry a whole number, got 16"]),
    ("resnet", {"transition": "E"}, ["transition expected one of 'A', 'B', 'C', 'D', 'pool', got 'E'"]),
    ("resnet", {"depth": 21}, ["depth expected to be 6n + 2", "got 21; the nearest are 20 and 26"]),
    ("resnet50", {"depth": (3, 4, 6)}, ["one number of blocks for each of 4 stages", "got (3, 4, 6)"]),
    ("resnet50", {"depth": (3, 4, 0, 3)}, ["one number of blocks for each of 4 stages"]),
    ("resnet50", {"depth": 101}, ["12n + 2", "or list the blocks of each stage"]),
    ("resnet", {"history": "restart"}, ["history=restart", "'forward_euler'", "use history=shortcut"]),
    ("leapfrog_net", {"history": "project"}, ["'leapfrog' takes up no state", "scheme=linear_multistep"]),
    ("resnet", {"stem": "5x5"}, ["stem expected one of '3x3', '7x7', 'conv', 'res', got '5x5'"]),
    ("resnet", {"depth": 2}, ["got 2; the nearest are 8 and 14"]),
    ("resnet", {"depth": 21, "field": "bottleneck"}, ["9n + 2 for 3 layers", "nearest are 20 and 29"]),
    ("revnet", {"depth": 40}, ["'revnet': depth expected to be 12n + 2", "nearest are 38 and 50"]),
    ("resnet", {"width": -1.0}, ["architecture 'resnet': width expected to be positive, got -1.0"]),
    ("ode_resnet", {"inner": 0}, ["architecture 'ode_resnet': inner expected to be positive, got 0"]),
    ("mlp", {"steps": 0}, ["architecture 'mlp'", "expected to be positive, got 0"]),
    ("resnet", {"field": "mlp"}, ["architecture 'resnet': has images for states; field 'mlp' takes vectors"]),
    ("mlp", {"field": "basic"}, ["architecture 'mlp': has vectors for states; field 'basic' takes images"]),
    ("resnet", {"field": "basik"}, ["no field 'basik'; did you mean 'basic'"]),
    ("resnet", {"field": {"name": "basic", "stride": 2}}, ["field 'basic' takes no 'stride'"]),
    ("resnet", {"scheme": "forward_eulr"}, ["no scheme 'forward_eulr'; did you mean 'forward_euler'"]),
    ("resnet", {"scheme": {"name": "heun", "k": 1}}, ["scheme 'heun' takes no 'k'"]),
    ("resnet", {"scheme": {"k": 1}}, ["a scheme is given by its name or by a mapping with 'name'"]),
    ("resnet", {"grid": {"name": "uniform", "steps": 0}}, ["steps expected to be at least 1, got 0"]),
    ("resnet", {"gradient": "backpop"}, ["no gradient mode 'backpop'; did you mean 'backprop'"]),
    ("resnet", {"gradient": "reversible"}, ["ForwardEuler has no inverse", "symplectic_euler"]),
    ("resnet", {"activation": "post", "gradient": "adjoint"}, ["post-activation step", "activation=pre"]),
    ("lm_resnext", {"activation": "post"}, ["activation expected 'pre', got 'post'"]),
    ("resnet20", {"image_size": None, "in_chans": 2}, ["reads images", "vectors of 2 numbers", ": mlp"]),
    ("fractalnet", {"image_size": None}, ["architecture 'fractalnet' reads images"]),
    ("fractalnet", {"image_size": 1}, ["images of 1 pixels cannot be halved"]),
    ("fractalnet", {"global_drop": 1.5}, ["global_drop expected to be in [0, 1], got 1.5"]),
    ("fractalnet", {"global_drop": -0.1}, ["global_drop expected to be in [0, 1], got -0.1"]),
    ("fractalnet", {"drop_path": 1.0}, ["drop_path expected to be in [0, 1), got 1.0"]),
    ("fractalnet", {"dropout": [0.1, 0.2]}, ["dropout expected to be a rate", "5 blocks, got [0.1, 0.2]"]),
    ("fractalnet", {"dropout": 1.0}, ["dropout expected to be a rate in [0, 1)"]),
    ("fractalnet", {"width": -1.0}, ["architecture 'fractalnet': width expected to be positive"]),
    ("fractalnet", {"width": float("nan")}, ["width"]),
    ("fractalnet", {"columns": 0}, ["columns expected to be at least 1"]),
    ("fractalnet", {"widths": ()}, ["widths"]),
    ("resnet", {"width": float("inf")}, ["width"]),
    ("resnet", {"widths": ()}, ["widths"]),
    ("resnet", {"widths": (-16, 0, 4)}, ["widths"]),
    ("ode_resnet", {"steps": -1}, ["steps"]),
    ("ode_resnet", {"steps": 0}, ["steps"]),
    ("odenet", {"augment": -1}, ["augment expected to be at least 0, got -1"]),
    ("odenet", {"augment": 3, "scheme": "verlet"}, ["64 + 3 channels", "use augment=4, or a scheme of one"]),
    ("mlp", {"stem": "none", "in_chans": 3, "image_size": None, "scheme": "verlet"}, ["use augment=1, or"]),
    ("resnext", {"groups": 0}, ["groups"]),
    ("resnext", {"group_width": -4}, ["group_width"]),
    ("revnet", {"widths": (32, 64, 64, 64)}, ["widths"]),
    ("resnet", {"widths": (32, 16, 8), "transition": "A"}, ["transition"]),
    ("resnet", {"field": {"groups": 2}}, ["a field is given by its name or by a mapping"]),
    ("polynet", {"depth": 21}, ["architecture 'polynet'"]),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "options", "parts"),
    REFUSED,
)
def test_refused_with_what_the_user_needs(name, options, parts):
    with pytest.raises(SchemenetError) as caught:
        create_model(name, **options)
    for part in parts:
        assert part in str(caught.value)


def test_parts_refuse_what_no_signature_can():
    sizes = {"channels": 4, "out": 4, "inner": 5}
    with pytest.raises(SchemenetError, match="inner width 5 expected to be a multiple of groups = 3"):
        FIELDS.build({"name": "resnext", "groups": 3}, **sizes)
    with pytest.raises(SchemenetError, match="no norm 'bach'; did you mean 'batch'"):
        FIELDS.build("basic", norm="bach", **sizes)


# 6. FractalNet's drops ------------------------------------------------------------------------------------

FRACTAL: dict[str, Any] = {"columns": 3, "widths": (4, 6, 8)}


def test_global_drop_runs_one_column_of_the_whole_network_alone():
    model = small("fractalnet", global_drop=1.0, drop_path=0.15, **FRACTAL).train()
    x = images()
    with torch.no_grad():
        alone = [hand.fractal_column(Weights(model.parameters()), x, 3, column) for column in range(3)]
        drawn = set()
        for seed in range(12):
            torch.manual_seed(seed)
            y = model(x)
            matches = [column for column in range(3) if torch.allclose(y, alone[column], rtol=1e-10, atol=1e-10)]
            assert len(matches) == 1
            drawn.update(matches)
    assert drawn == {0, 1, 2}


def test_global_drop_is_drawn_for_its_share_of_batches():
    model = small("fractalnet", global_drop=0.3, drop_path=0.0, **FRACTAL).train()
    x = images(batch=2)
    torch.manual_seed(0)
    with torch.no_grad():
        whole = hand.fractalnet(Weights(model.parameters()), x, 3)
        kept = sum(torch.allclose(model(x), whole, rtol=1e-6, atol=1e-6) for _ in range(200)) / 200
    assert abs(kept - 0.7) < 0.1


def test_without_drops_training_is_evaluation():
    model = small("fractalnet", norm="none", drop_path=0.0, global_drop=0.0, **FRACTAL)
    with torch.no_grad():
        y = model.train()(images())
        same(y, hand.fractalnet(Weights(model.parameters()), images(), 3, norm=False))
        assert torch.equal(y, model.eval()(images()))


def test_a_join_that_drops_nothing_is_exact():
    model = small("fractalnet", norm="none", drop_path=0.0, global_drop=1e-12, **FRACTAL)
    with torch.no_grad():
        same(model.train()(images()), model.eval()(images()))


def test_evaluation_drops_nothing():
    model = small("fractalnet", norm="none", drop_path=0.6, global_drop=0.9, dropout=0.4, **FRACTAL).eval()
    with torch.no_grad():
        same(model(images()), hand.fractalnet(Weights(model.parameters()), images(), 3, norm=False))


def test_local_drop_gives_the_mean_of_the_survivors():
    model = small("fractalnet", norm="none", drop_path=0.5, global_drop=0.0, columns=3, widths=(4,)).train()
    x, weights = images(), Weights(model.parameters())

    def unit() -> Callable[[Tensor], Tensor]:
        return hand.chain(weights.conv(), torch.relu)

    def mean(inputs: list[Tensor], alive: tuple[bool, ...]) -> Tensor:
        survivors = [z for z, lives in zip(inputs, alive, strict=True) if lives]
        return sum(survivors) / len(survivors)

    first, middle_1, second, third, shallow, middle_2, fourth = (unit() for _ in range(7))
    outcomes = {}
    with torch.no_grad():
        for inner, outer in product(product((False, True), repeat=2), product((False, True), repeat=3)):
            if any(inner) and any(outer):
                join = mean([middle_1(x), second(first(x))], inner)
                ends = [torch.max_pool2d(z, 2) for z in (shallow(x), middle_2(join), fourth(third(join)))]
                outcomes[inner, outer] = model.forward_head(mean(ends, outer))
        drawn = set()
        for seed in range(80):
            torch.manual_seed(seed)
            y = model(x)
            found = {key for key, z in outcomes.items() if torch.allclose(y, z, rtol=1e-6, atol=1e-6)}
            assert found
            drawn |= found
    assert len(outcomes) == 21
    assert len(drawn) >= 18


@pytest.mark.parametrize("global_drop", [0.0, 1.0])
def test_drops_are_replayed_when_steps_are_recomputed(global_drop):
    options = {"global_drop": global_drop, "drop_path": 0.4, "dropout": 0.2, **FRACTAL}
    plain = gradients(small("fractalnet", **options), images())
    for key, gradient in gradients(small("fractalnet", gradient="checkpoint", **options), images()).items():
        if plain[key] is None or not plain[key].any():
            assert gradient is None or not gradient.any()
        else:
            same(gradient, plain[key])


@pytest.mark.parametrize(("size", "blocks"), [(32, 5), (28, 4), (8, 3), (7, 2), (64, 5)])
def test_fractalnet_has_as_many_blocks_as_halvings(size, blocks):
    model = create_model("fractalnet", image_size=size, width=0.05)
    assert len(model.flows) == len(model.layout["widths"]) == blocks
    last = model.forward_features(torch.randn(2, 3, size, size))
    assert last.shape[2:] == (size >> blocks, size >> blocks)


# 7. Docstrings --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FAMILIES)
def test_docstring_names_its_reference(name):
    text = ARCHITECTURES[name].__doc__
    assert text.splitlines()[0].endswith(".")
    assert re.search(r"Reference: .*?\b(18|19|20)\d\d\b", text, re.DOTALL)


# What users do to networks --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FAMILIES)
def test_copies_and_saved_states_are_the_same_network(name):
    model, x = small(name, width=0.1), images()
    gradients(model, x)
    expected = model.eval()(x)
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    loaded = small(name, seed=5, width=0.1)
    loaded.load_state_dict(torch.load(file, weights_only=True))
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), loaded.eval()):
        assert count(other) == count(model)
        assert torch.equal(other(x), expected)


def test_copies_train_alike():
    model = small("rk_resnet", depth=14, **NARROW)
    copied = copy.deepcopy(model)
    expected = gradients(model, images())
    for key, gradient in gradients(copied, images()).items():
        assert torch.equal(gradient, expected[key])


def test_shared_weights_stay_shared_when_leaving_the_meta_device():
    with torch.device("meta"):
        model = create_model("polynet", width=0.25)
    before = count(model)
    model.to_empty(device="cpu")
    assert count(model) == before


@pytest.mark.parametrize("name", ["resnet", "polynet", "lm_resnet", "rk_resnet"])
def test_compiles_into_one_graph(name):
    model = small(name, depth=10, widths=(4, 6))
    torch.compiler.reset()
    compiled = torch.compile(copy.deepcopy(model), backend="aot_eager", fullgraph=True)
    expected = gradients(model, images())
    for key, gradient in gradients(compiled, images()).items():
        same(gradient, expected[key.removeprefix("_orig_mod.")])


@pytest.mark.parametrize("scheme", ["symplectic_euler", "verlet"])
@pytest.mark.parametrize("width", [0.3, 0.07, 1.0])
def test_coupled_states_have_even_widths(scheme, width):
    options = {"scheme": scheme, "width": width, **SMALL}
    for field in ("basic", "bottleneck"):
        model = create_model("resnet", depth=20, field=field, widths=(5, 7, 9), **options)
        assert all(w % 2 == 0 for w in model.layout["widths"])
        all_trained(model, torch.randn(3, 3, 8, 8))
    all_trained(create_model("mlp", hidden=7, **options), torch.randn(3, 3, 8, 8))


@pytest.mark.parametrize("norm", ["group", "none"])
@pytest.mark.parametrize("name", [name for name in IMAGE_FAMILIES if "norm" in ARCHITECTURES.parameters(name)])
def test_other_norms_keep_no_statistics(name, norm):
    model = create_model(name, width=0.3, norm=norm, **SMALL)
    assert list(model.buffers()) == []
    all_trained(model, torch.randn(3, 3, 8, 8))


@pytest.mark.parametrize("sharing", ["per_step", "shared", "per_stage"])
@pytest.mark.parametrize("name", [name for name in FAMILIES if "sharing" in ARCHITECTURES.parameters(name)])
def test_every_sharing_on_every_architecture(name, sharing):
    model = create_model(name, width=0.1, sharing=sharing, grid="uniform", **SMALL)
    all_trained(model, torch.randn(3, 3, 8, 8))
    for flow in model.flows:
        components = flow.scheme.components
        groups = {
            "per_step": len(flow.nodes) * components,
            "shared": components,
            "per_stage": len(flow.visits),
        }
        distinct = {id(next(field.parameters())) for field in flow.bank.fields}
        assert len(distinct) == groups[sharing]


def test_field_shared_by_all_steps_has_its_leading_norm():
    model = create_model("revnet", sharing="shared", width=0.25, **SMALL)
    layers = [len(list(stage.flow.bank.fields[0].children())) for stage in model.stages]
    assert len(set(layers)) == 1


def test_grid_sets_steps_and_time():
    model = create_model("resnet", grid={"name": "uniform", "steps": 5, "time": 2.0}, width=0.25, **SMALL)
    assert model.layout["steps"] == [5, 5, 5]
    assert model.layout["h"] == [pytest.approx(0.4)]
    assert [node.t for node in model.flows[0].nodes] == pytest.approx([0, 0.4, 0.8, 1.2, 1.6])
    all_trained(model, torch.randn(3, 3, 8, 8))


def test_layout_says_what_was_built():
    layout = create_model("revnet38").layout
    assert layout["widths"] == [32, 64, 112]
    assert layout["steps"] == [3, 2, 2]
    assert layout["h"] == [1.0]
    assert layout["inner"] == [16, 32, 56]
    assert (layout["scheme"], layout["field"]) == ("symplectic_euler", "basic")
    assert (layout["sharing"], layout["gradient"], layout["norm"]) == ("per_step", "reversible", "batch")


SWAPPED = ["resnet", "resnet20_v1", "resnext", "lm_resnet", "revnet", "ode_resnet", "stem_only", "one_block"]


@pytest.mark.parametrize(
    ("name", "scheme"),
    rest_is_slow(
        product(SWAPPED, SCHEMES), lambda name, scheme: name in ("resnet", "revnet") or scheme in ONE_OF_A_KIND
    ),
)
def test_a_swapped_scheme_is_refused_in_words_or_runs(name, scheme):
    """No pair fails in the middle of a training."""
    try:
        with torch.device("meta"):
            model = create_model(name, scheme=scheme, width=0.25, gradient="backprop")
    except SchemenetError as refused:
        assert "use " in str(refused)  # noqa: PT017  not every pair is refused
        return
    assert model(torch.empty(2, 3, 32, 32, device="meta")).shape == (2, 10)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)
def test_the_projection_of_a_shortcut_is_a_strided_convolution(memory_format):
    """Never by oneDNN's strided kernel on channels-last images, which damages the heap in backward on AVX2."""
    projection = Projection(4, 8, 2).double().to(memory_format=memory_format)
    x = torch.randn(2, 4, 8, 8, dtype=torch.float64).to(memory_format=memory_format).requires_grad_()
    strides = []

    class Recorder(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            if function is torch.ops.aten.convolution.default:
                strides.append(list(args[3]))
            return function(*args, **(kwargs or {}))

    with Recorder():
        y = projection(x)
    assert strides == [[1, 1] if memory_format is torch.channels_last else [2, 2]]
    expected = torch.nn.functional.conv2d(x.contiguous(), projection.weight, None, 2)
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(
        torch.autograd.grad(y.square().sum(), (x, projection.weight)),
        torch.autograd.grad(expected.square().sum(), (x, projection.weight)),
    )
