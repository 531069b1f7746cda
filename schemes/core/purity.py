"""Checks that f returns the same value for the same (t, y): no random numbers drawn, no buffers changed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from schemes.errors import FieldError

RANDOM_NUMBERS_MESSAGE = "f drew random numbers (dropout in training mode?)"
BUFFERS_MESSAGE = "f changed its buffers (spectral_norm in training mode?)"
REMEDIES = {
    RANDOM_NUMBERS_MESSAGE: "draw them before the solve, or eval() the layer",
    BUFFERS_MESSAGE: "let them be updated before the solve and eval() the layer for it, or take given steps with "
    "gradient=checkpoint or backprop",
}


def check_same(again: Any, value: Any, message: str) -> None:
    """Check that two evaluations of f at the same (t, y) gave the same value.

    f may draw a random sample once and keep it, or count its calls: only its value must stay the same.

    Args:
        again: the value of the second evaluation.
        value: the value of the first.
        message: what f did, a key of :data:`REMEDIES`.

    Raises:
        FieldError: the values differ.
    """
    pairs = zip(pytree.tree_leaves(again), pytree.tree_leaves(value), strict=True)
    if not all(a is b or torch.equal(a, b) for a, b in pairs):
        raise FieldError(
            f"{message} and was another function when it was called again, so that no error can be estimated, nor the "
            f"equation solved backwards; {REMEDIES[message]}"
        )


def buffers_of(module: nn.Module) -> Iterator[tuple[nn.Module, str, Tensor | None]]:
    """Every buffer with its place, also where it is still None."""
    for part in module.modules():
        for name, buffer in part._buffers.items():
            yield part, name, buffer


def buffer_versions(module: nn.Module) -> list[tuple[int, int]]:
    """Identity and version of each buffer: another list means that a buffer was replaced or changed in place."""
    buffers = (buffer for _, _, buffer in buffers_of(module) if buffer is not None and not buffer.is_inference())
    return [(id(buffer), buffer._version) for buffer in buffers]
