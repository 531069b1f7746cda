"""Checks that f is a function of t and y: no random numbers drawn, no buffers changed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from schemes.errors import FieldError

DRAWS = "f drew random numbers (dropout in training mode?)"
MOVES = "f changed its buffers (spectral_norm in training mode?)"
REMEDIES = {
    DRAWS: "draw them before the solve, or eval() the layer",
    MOVES: "let them be updated before the solve and eval() the layer for it, or take given steps with "
    "gradient=checkpoint or backprop",
}


def check_same(again: Any, value: Any, what: str) -> None:
    """f may draw a sample once and keep it, or count its calls, but be no other function at each of them."""
    pairs = zip(pytree.tree_leaves(again), pytree.tree_leaves(value), strict=True)
    if not all(a is b or torch.equal(a, b) for a, b in pairs):
        raise FieldError(
            f"{what} and was another function when it was called again, so that no error can be estimated, nor the "
            f"equation solved backwards; {REMEDIES[what]}"
        )


def buffers_of(module: nn.Module) -> Iterator[tuple[nn.Module, str, Tensor | None]]:
    """Every buffer with its place, also where it is still None."""
    for part in module.modules():
        for name, buffer in part._buffers.items():
            yield part, name, buffer


def buffer_versions(module: nn.Module) -> list[tuple[int, int]]:
    """By which a change of any buffer of a module is known, one in place and another tensor."""
    buffers = (buffer for _, _, buffer in buffers_of(module) if buffer is not None and not buffer.is_inference())
    return [(id(buffer), buffer._version) for buffer in buffers]
