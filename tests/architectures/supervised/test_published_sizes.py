"""Sizes of networks against published counts."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torchvision

from architectures.factory import create_model
from tests.architectures.supervised.test_papers import BEP
from tests.support.networks import GREY, count, images, randomised, same

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
