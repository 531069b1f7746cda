"""LM-ResNet differs from ResNet in its coefficients k alone; older states across transitions."""

from __future__ import annotations

import pytest
import torch

from architectures.factory import create_model
from tests.support.networks import FOUR, SMALL, all_trained, gradients, images, same, small


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
    plain, recomputed = (gradients(small("lm_resnet", gradient=mode, **options), images()) for mode in modes)
    for key, gradient in plain.items():
        assert gradient.any()
        same(recomputed[key], gradient)


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
