"""Small networks on images, their gradients and comparisons."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from architectures.factory import create_model, list_models
from architectures.registry import ARCHITECTURES
from architectures.supervised.network import Network
from schemes.errors import SchemenetError

FAMILIES = [name for name in list_models(task="classification") if not ARCHITECTURES.entry(name).preset]

IMAGE_FAMILIES = [name for name in FAMILIES if "image" in ARCHITECTURES.entry(name).facts.get("reads", ("image",))]

STEPPED = [name for name in FAMILIES if "gradient" in ARCHITECTURES.parameters(name)]

SMALL: dict[str, Any] = {"image_size": 8, "num_classes": 5}


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


def same(actual: Tensor | None, expected: Tensor, tolerance: float = 1e-10) -> None:
    assert actual is not None
    atol = tolerance * max(1.0, float(expected.detach().abs().max()))
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=atol)


# 1. The equations of the papers, with three steps or more in each flow, and transitions -------------------

NARROW: dict[str, Any] = {"widths": (4, 6, 8)}

FOUR: dict[str, Any] = {"depth": 26, **NARROW}


# MNIST, in the table of Chen et al. 2018: the authors' example has these counts; the MLP is LeCun's 784-300-10.

GREY = {"in_chans": 1, "image_size": 28}


def all_trained(model: nn.Module, x: Tensor) -> dict[str, Tensor | None]:
    by_name = gradients(model, x)
    assert [name for name, gradient in by_name.items() if gradient is None] == []
    assert [name for name, gradient in by_name.items() if not gradient.isfinite().all()] == []
    return by_name


def refusal(name: str, **options: Any) -> str | None:
    """The message with which a network is refused, None where it is built."""
    try:
        create_model(name, **{**SMALL, **options})
    except SchemenetError as refused:
        return str(refused)
    return None
