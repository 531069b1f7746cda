"""Transitions between stages: resolutions, projections, augmented states."""

from __future__ import annotations

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from architectures.layers.transitions import Projection
from tests.support.networks import NARROW, all_trained, images, small


@pytest.mark.parametrize("transition", ["A", "B", "C", "D", "pool"])
@pytest.mark.parametrize("size", [7, 8, 28])
def test_transitions_halve_the_resolution(transition, size):
    model = small("resnet", depth=14, transition=transition, **NARROW)
    _, states = model.forward_intermediates(images(size=size))
    shapes = [tuple(state.shape[1:]) for state in states]
    half, quarter = -(-size // 2), -(-size // 4)
    assert shapes == [(4, size, size), (6, half, half), (8, quarter, quarter)]


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
