"""Activations by name."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from schemes.errors import SchemenetError, unknown

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU, "elu": nn.ELU, "gelu": nn.GELU, "sigmoid": nn.Sigmoid, "silu": nn.SiLU, "softplus": nn.Softplus,
    "tanh": nn.Tanh,
}  # fmt: skip
"""How smooth each is decides how fast a solver's error falls with its steps: relu has a kink, elu a jump of its second
derivative, the others are smooth."""


def activation_layer(name: str) -> nn.Module:
    if name not in ACTIVATIONS:
        raise SchemenetError(unknown("activation", name, ACTIVATIONS))
    return ACTIVATIONS[name]()
