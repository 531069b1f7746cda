"""f at one state, and products with its Jacobian."""

from __future__ import annotations

import torch
from torch import Tensor

from schemes.core.evaluation_counts import count_products
from schemes.core.node import Node
from schemes.core.state import VectorField


class Linearised:
    """f at one y, and products with its Jacobian without further evaluations of f.

    The Jacobian times a vector is the derivative of u -> f'^T u, which is linear in u.
    """

    def __init__(self, f: VectorField, node: Node, y: Tensor) -> None:
        with torch.enable_grad():
            self._at = y.detach().requires_grad_()
            self._value = f(node, self._at[...])  # hooks on modules cannot ask the engine about a leaf
        self.value: Tensor = self._value.detach()
        self._pulled: tuple[Tensor, Tensor | None] | None = None

    def times(self, v: Tensor) -> Tensor:
        """f'(y) v."""
        if not self._value.requires_grad:
            return torch.zeros_like(v)  # f does not depend on y
        if self._pulled is None:
            with torch.enable_grad():
                u = torch.zeros_like(self._value, requires_grad=True)
                (pulled,) = torch.autograd.grad(self._value, self._at, u, create_graph=True, allow_unused=True)
            self._pulled = u, pulled
            count_products()
        u, pulled = self._pulled
        if pulled is None:
            return torch.zeros_like(v)
        count_products()
        return torch.autograd.grad(pulled, u, v, retain_graph=True)[0]

    def transposed_times(self, u: Tensor) -> Tensor:
        """f'(y)^T u."""
        if not self._value.requires_grad:
            return torch.zeros_like(u)
        count_products()
        (pulled,) = torch.autograd.grad(self._value, self._at, u, retain_graph=True, allow_unused=True)
        return torch.zeros_like(u) if pulled is None else pulled
