"""Tensors that f depends on and that are neither the state nor parameters of its flow."""

from __future__ import annotations

import gc
from collections.abc import Iterable
from typing import Any

from torch import Tensor
from torch.autograd.graph import get_gradient_edge
from torch.utils.weak import TensorWeakRef

from schemes.core.node import Node
from schemes.core.state import State, VectorField, flatten
from schemes.errors import SchemenetError


class UntrackedLeaves:
    """Finds the leaves that values of f depend on and that get no gradient from a mode that evaluates f again."""

    def __init__(self, parameters: Iterable[Tensor]) -> None:
        parameters = list(parameters)
        self.tracked = set(map(id, parameters))
        self.results = [p for p in parameters if p.grad_fn is not None]
        self.untracked: list[TensorWeakRef] = []

    def watching(self, f: VectorField) -> VectorField:
        def watched(node: Node, y: State) -> State:
            value = f(node, y)
            ended = leaves(flatten(value)[0], [*flatten(y)[0], *self.results])
            self.untracked += [TensorWeakRef(leaf) for leaf in ended if id(leaf) not in self.tracked]
            return value

        return watched

    def check(self) -> None:
        """Raises where a leaf has outlived the graphs: one that f had made for itself is gone with them."""
        if any(leaf() is not None for leaf in self.untracked):
            gc.collect()
        for leaf in self.untracked:
            if (tensor := leaf()) is not None:
                raise SchemenetError(
                    f"f depends on a tensor of shape {tuple(tensor.shape)} that needs a gradient and is no parameter "
                    "of the flow: a gradient mode that evaluates f again would lose that gradient. Make it a parameter "
                    "of the field, detach it, or use gradient=backprop. FSDP with flat parameters hides them so: apply "
                    "fully_shard to the flow instead"
                )


def leaves(values: Iterable[Tensor], before: Iterable[Tensor] = ()) -> list[Tensor]:
    """The leaves that the graphs of some values end in, looked for no further than tensors ``before`` them."""
    seen: set[Any] = {get_gradient_edge(tensor).node for tensor in before if tensor.requires_grad}
    ahead: list[Any] = [get_gradient_edge(value).node for value in values if value.requires_grad]
    ends: list[Tensor] = []
    while ahead:
        node = ahead.pop()
        if node in seen:
            continue
        seen.add(node)
        if (leaf := getattr(node, "variable", None)) is not None:
            ends.append(leaf)
        ahead += [after for after, _ in node.next_functions if after is not None]
    return ends
