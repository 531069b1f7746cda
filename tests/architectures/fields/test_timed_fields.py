"""Fields with time: the published concatenation, whatever form the time comes in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from architectures.fields.timed import TimedConvolution, TimedLinear
from architectures.registry import FIELDS
from schemes.core.node import Node

TIMES = {
    "number": 0.3,
    "tensor of no dimension": torch.tensor(0.3, dtype=torch.float64),
    "a time for each sample": torch.tensor([0.3, -1.2, 2.5], dtype=torch.float64),
}


def concatenated(layer: nn.Module, t: Any, y: Tensor) -> Tensor:
    """The layer as it is published: of one tensor, in which the time stands in front of the channels."""
    t = torch.as_tensor(t, dtype=y.dtype).view(-1, *[1] * (y.dim() - 1)).expand(len(y), 1, *y.shape[2:])
    joined = torch.cat((t, y), 1)
    if isinstance(layer, nn.Linear):
        return functional.linear(joined, layer.weight, layer.bias)
    return functional.conv2d(joined, layer.weight, layer.bias, padding=1)


LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "convolution": (lambda: TimedConvolution(4, 5, bias=True), (3, 4, 6, 6)),
    "without bias": (lambda: TimedConvolution(4, 5, bias=False), (3, 4, 1, 2)),
    "linear": (lambda: TimedLinear(4, 5), (3, 4)),
}


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-14), (torch.float32, 1e-6)])
@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("form", TIMES)
def test_a_timed_layer_is_that_of_the_concatenated_input(
    kind: str, form: str, dtype: torch.dtype, tolerance: float
) -> None:
    torch.manual_seed(0)
    make, shape = LAYERS[kind]
    layer, t = make().to(dtype), TIMES[form]
    y = torch.randn(shape, dtype=dtype, requires_grad=True)
    inputs: list[Tensor] = [y, *layer.parameters()]
    if isinstance(t, Tensor):
        t = t.clone().requires_grad_()
        inputs.append(t)
    found, expected = layer(t, y), concatenated(layer, t, y)
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance)
    along = torch.randn_like(expected)
    pairs = zip(*(torch.autograd.grad((z * along).sum(), inputs) for z in (found, expected)), strict=True)
    for gradient, right in pairs:
        torch.testing.assert_close(gradient, right, rtol=0, atol=20 * tolerance * float(right.abs().max()))


@pytest.mark.parametrize("name", ["basic_time", "mlp_time"])
def test_a_field_reads_the_time_of_its_node_without_asking_the_host(name: str) -> None:
    torch.manual_seed(0)
    field = FIELDS.build(name, channels=4, out=4, inner=6, norm="group").double()
    y = torch.randn((3, 4, 6, 6) if name == "basic_time" else (3, 4), dtype=torch.float64)
    torch.testing.assert_close(field(Node(0, torch.tensor(0.3).double(), 0.1), y), field(Node(0, 0.3, 0.1), y))
    assert not torch.equal(field(Node(0, 0.3, 0.1), y), field(Node(0, 0.4, 0.1), y))
    on_meta = field.to("meta")  # a host read of a tensor there raises
    assert on_meta(Node(0, torch.zeros((), device="meta"), 0.1), y.to("meta")).shape == y.shape
