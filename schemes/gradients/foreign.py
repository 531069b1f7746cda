"""What f depends on beside the state and the parameters of its flow."""

from __future__ import annotations

import gc
from collections.abc import Iterable
from typing import Any

from torch import Tensor
from torch.utils.weak import TensorWeakRef

from schemes.errors import SchemenetError
from schemes.node import Node
from schemes.state import RightHandSide, State


class ForeignLeaves:
    """Finds the leaves that values of f depend on and that get no gradient from a mode that evaluates f again."""

    def __init__(self, parameters: Iterable[Tensor]) -> None:
        self.known = set(map(id, parameters))
        self.found: list[TensorWeakRef] = []

    def watching(self, f: RightHandSide) -> RightHandSide:
        def watched(node: Node, y: State) -> State:
            value = f(node, y)
            self.found += [TensorWeakRef(leaf) for leaf in leaves(value, y) if id(leaf) not in self.known]
            return value

        return watched

    def refuse(self) -> None:
        """Raises where a leaf has outlived the graphs: one that f had made for itself is gone with them."""
        if any(leaf() is not None for leaf in self.found):
            gc.collect()
        for leaf in self.found:
            if (tensor := leaf()) is not None:
                raise SchemenetError(
                    f"f depends on a tensor of shape {tuple(tensor.shape)} that needs a gradient and is no parameter "
                    "of the flow: a gradient mode that evaluates f again would lose that gradient. Make it a parameter "
                    "of the field, detach it, or use gradient=backprop. FSDP with flat parameters hides them so: apply "
                    "fully_shard to the flow instead"
                )


def leaves(value: Tensor, before: Tensor) -> list[Tensor]:
    """The leaves that a value's graph depends on, down to a tensor ``before`` it."""
    found: list[Tensor] = []
    nodes: set[Any] = {value.grad_fn} - {None, before.grad_fn}
    seen: set[Any] = {before.grad_fn, *nodes}
    while nodes:
        node = nodes.pop()
        leaf = getattr(node, "variable", None)
        if leaf is not None and leaf is not before:
            found.append(leaf)
        fresh = {after for after, _ in node.next_functions if after is not None} - seen
        seen |= fresh
        nodes |= fresh
    return found
