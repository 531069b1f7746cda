"""The activation of a field is an option, by the names of one table."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from architectures.layers.activations import ACTIVATIONS
from architectures.registry import FIELDS
from schemes.core.node import Node
from schemes.errors import SchemenetError

FORMULAS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": lambda y: y.clamp(min=0),
    "elu": lambda y: torch.where(y > 0, y, y.exp() - 1),
    "gelu": lambda y: y * (1 + torch.erf(y / 2**0.5)) / 2,
    "sigmoid": lambda y: 1 / (1 + (-y).exp()),
    "silu": lambda y: y / (1 + (-y).exp()),
    "softplus": lambda y: y.exp().log1p(),
    "tanh": torch.tanh,
}
WITH_ACTIVATION = [name for name in FIELDS if "activation" in FIELDS.options(name)]


def test_every_name_is_its_formula() -> None:
    y = torch.linspace(-3, 3, 61, dtype=torch.float64)
    assert set(FORMULAS) == set(ACTIVATIONS)
    for name, formula in FORMULAS.items():
        torch.testing.assert_close(ACTIVATIONS[name]()(y), formula(y))


@pytest.mark.parametrize("field", WITH_ACTIVATION)
def test_an_activation_takes_the_place_of_a_fields_own(field: str) -> None:
    sizes = {"channels": 4, "out": 4, "inner": 8}
    kinds = {name: make().__class__ for name, make in ACTIVATIONS.items()}
    own = kinds[FIELDS.defaults(field)["activation"]]

    def count(built: torch.nn.Module, kind: type) -> int:
        return sum(isinstance(module, kind) for module in built.modules())

    expected = count(FIELDS.build(field, **sizes), own)
    assert expected
    built = FIELDS.build({"name": field, "activation": "softplus"}, **sizes)
    assert (count(built, torch.nn.Softplus), count(built, own)) == (expected, 0)


def test_a_dense_field_by_hand() -> None:
    field = FIELDS.build({"name": "mlp", "activation": "elu", "layers": 2}, channels=3, out=3, inner=5)
    (a, b), (c, d), (e, f) = ((layer.weight, layer.bias) for layer in (field[0], field[2], field[4]))
    y = torch.randn(7, 3)
    expected = functional.elu(functional.elu(y @ a.T + b) @ c.T + d) @ e.T + f
    torch.testing.assert_close(field(Node(0, 0.0, 1.0), y), expected)


@pytest.mark.parametrize("field", WITH_ACTIVATION)
def test_an_unknown_activation_names_the_nearest(field: str) -> None:
    with pytest.raises(SchemenetError, match="no activation 'softpuls'; did you mean 'softplus'"):
        FIELDS.build({"name": field, "activation": "softpuls"}, channels=4, out=4, inner=8)
