"""Copies of values of f in memory that f may still write to.

An f with one buffer for all of its values would change those that the solver keeps: the slopes of a step.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import Tensor
from torch._C._functorch import is_functorch_wrapped_tensor  # type: ignore[import-not-found]  # torch has no stub
from torch.utils.weak import WeakTensorKeyDictionary

from schemes.errors import FieldError

_count_owners = torch._C._storage_Use_Count
_PROBE = [torch.zeros(())]
_REFERENCES = sys.getrefcount(_PROBE[0])
"""To a tensor that nothing but a list refers to, the call's included."""
_OWNERS = _count_owners(_PROBE[0].untyped_storage()._cdata)
"""Of the memory of a tensor that shares it with no other one."""


class SharedValues:
    """Copies those values of one f that are not the solver's alone; new values pass unchanged."""

    def __init__(self) -> None:
        self._versions = WeakTensorKeyDictionary()

    def copied(self, parts: list[Tensor], evaluated_again: bool = False) -> list[Tensor]:
        """The values, for which the caller must hold no reference but the list.

        Where f is to be ``evaluated_again`` in backward it must not write a second value into the memory of the first:
        each would be part of the graph of the next one.
        """
        if torch.compiler.is_compiling():  # a graph has no references to count
            return [part.clone() for part in parts]
        for i in range(len(parts)):
            if sys.getrefcount(parts[i]) > _REFERENCES or parts[i]._is_view() or _shares_memory(parts[i]):
                if evaluated_again:
                    self._check_history(i, parts[i])
                parts[i] = parts[i].clone()
        return parts

    def _check_history(self, i: int, part: Tensor) -> None:
        if not part.requires_grad or is_functorch_wrapped_tensor(part):
            return
        written = part if part._base is None else part._base
        if self._versions.get(written, part._version) != part._version:
            raise FieldError(
                f"f writes its values of shape {tuple(part.shape)} into one tensor that needs a gradient; return a new "
                "tensor at each call, or use gradient=backprop"
            )
        self._versions[written] = part._version


def _shares_memory(value: Any) -> bool:
    """Whether a tensor without a graph (which may itself keep its values) shares its memory, or another library's."""
    if value.requires_grad or type(value) is not Tensor or is_functorch_wrapped_tensor(value):
        return False
    storage = value.untyped_storage()
    return not storage.resizable() or _count_owners(storage._cdata) > _OWNERS
