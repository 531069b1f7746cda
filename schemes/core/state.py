"""Arithmetic on states: a tensor, None for zero, or a tuple of states.

Schemes are written once with these few functions; coupled systems and the augmented systems of the adjoint are
tuples, a parameter that a step does not touch is None and costs nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.forward_ad import unpack_dual

State = Any  # Tensor | None | tuple[State, ...]
VectorField = Callable[[Any, State], State]


def has_derivative(t: Tensor) -> bool:
    """Whether autograd follows a tensor, backward or forward."""
    return (t.requires_grad and torch.is_grad_enabled()) or unpack_dual(t).tangent is not None


def along(numbers: Tensor, y: Tensor) -> Tensor:
    """One number a row, shaped to multiply the rows of y; anything but a vector is left as it is."""
    return numbers.reshape(-1, *[1] * (y.dim() - 1)) if numbers.dim() == 1 else numbers


def rows_where(mask: Tensor, a: State, b: State) -> State:
    """Rows of a where the mask says so, else of b."""
    if isinstance(a, Tensor):
        return torch.where(along(mask, a), a, b)
    return tuple(rows_where(mask, x, y) for x, y in zip(a, b, strict=True))


def rows_of(state: State) -> list[State]:
    """The states along the first dimension."""
    if isinstance(state, Tensor):
        return list(state.unbind())
    return list(zip(*map(rows_of, state), strict=True))


def one_row(state: State) -> State:
    """A state as a row of one of its kind."""
    return state.unsqueeze(0) if isinstance(state, Tensor) else tuple(map(one_row, state))


def axpy(y: State, f: State, h: float | Tensor) -> State:
    """y + h f, one fused operation for tensors and a number h; a tensor h is taken in the precision of f."""
    if f is None:
        return y
    if isinstance(f, tuple):
        return tuple(axpy(a, b, h) for a, b in zip(y or (None,) * len(f), f, strict=True))
    if isinstance(h, Tensor):
        h = along(h, f).to(f.real.dtype)
        return f * h if y is None else y + f * h
    if y is None:
        return f if h == 1 else f * h
    return torch.add(y, f, alpha=h)


def combine(y: State, terms: Iterable[tuple[Any, State]]) -> State:
    """y + sum of c f over the pairs (c, f)."""
    for c, f in terms:
        y = axpy(y, f, c)
    return y


def stage_sum(y: State, h: Any, row: Sequence[tuple[int, float]], k: Sequence[State]) -> State:
    """y + h sum of a k_j over the pairs (j, a).

    For tensors the first term makes a new one and the others are added to it in place: the sum reads and writes no
    more than it must, and autograd, which saves nothing of it, is the same.
    """
    if not isinstance(y, Tensor) or isinstance(h, Tensor) or not row:
        return combine(y, ((h * a, k[j]) for j, a in row))
    (j, a), *rest = row
    total = torch.add(y, k[j], alpha=h * a)
    for j, a in rest:
        total.add_(k[j], alpha=h * a)
    return total


def lerp(y: State, z: State, k: float | Tensor) -> State:
    """(1 - k) y + k z, which is exactly y at k = 0."""
    if isinstance(y, Tensor) and isinstance(z, Tensor):
        return torch.lerp(y, z, along(k, y).to(y.dtype) if isinstance(k, Tensor) else k)
    if isinstance(y, tuple):
        return tuple(lerp(a, b, k) for a, b in zip(y, z, strict=True))
    if y is None and z is None:
        return None
    return z * k if y is None else y * (1 - k)


def flatten(tree: Any) -> tuple[list[Tensor], Any]:
    """The tensors of a nest of tuples in order, and the nest with their positions in place of them."""
    leaves: list[Tensor] = []
    return leaves, _collect(tree, leaves)


def _collect(tree: Any, leaves: list[Tensor]) -> Any:
    # No recursive closure: it would be a reference cycle, and hold the tensors until the garbage collector runs.
    if isinstance(tree, Tensor):
        leaves.append(tree)
        return len(leaves) - 1
    return None if tree is None else tuple(_collect(child, leaves) for child in tree)


def unflatten(leaves: Sequence[Tensor | None], shape: Any) -> Any:
    """The inverse of :func:`flatten`."""
    if shape is None:
        return None
    return leaves[shape] if isinstance(shape, int) else tuple(unflatten(leaves, child) for child in shape)


def in_precision_of(y: State, value: State) -> State:
    """``value`` in the dtype of ``y``: under autocast f computes in a lower one."""
    if isinstance(y, Tensor):
        return value if value.dtype == y.dtype else value.to(y.dtype)
    return tuple(map(in_precision_of, y, value))


def detached(y: State) -> State:
    """The same numbers without their graph."""
    if y is None:
        return None
    return y.detach() if isinstance(y, Tensor) else tuple(map(detached, y))


class FlatState:
    """A state as one vector of real numbers, for solvers of equations: the leaves of ``like`` one after the other.

    The vector has the finest precision among the leaves; the parts have each its own.
    """

    def __init__(self, like: State) -> None:
        self.like = like
        self.leaves, self.shape = flatten(like)
        self.coarsest = max((leaf.real.dtype for leaf in self.leaves), key=lambda dtype: torch.finfo(dtype).eps)

    @staticmethod
    def needed(y: State) -> bool:
        """Whether y is anything but one real tensor."""
        return not isinstance(y, Tensor) or y.is_complex()

    def vector(self, y: State) -> Tensor:
        """The leaves of y, zeros where it is None."""
        return torch.cat(list(self._raveled(y, self.like)))

    def _raveled(self, y: State, like: State) -> Iterator[Tensor]:
        if isinstance(like, Tensor):
            part = torch.zeros_like(like) if y is None else y
            yield (torch.stack((part.real, part.imag), -1) if part.is_complex() else part).flatten()
        elif like is not None:
            for part, template in zip((None,) * len(like) if y is None else y, like, strict=True):
                yield from self._raveled(part, template)

    def parts(self, vector: Tensor) -> State:
        """The inverse of :meth:`vector`."""
        pieces = vector.split([leaf.numel() * (2 if leaf.is_complex() else 1) for leaf in self.leaves])
        return unflatten([_shaped(piece, leaf) for piece, leaf in zip(pieces, self.leaves, strict=True)], self.shape)


def _shaped(piece: Tensor, like: Tensor) -> Tensor:
    if not like.is_complex():
        return piece.view(like.shape).to(like.dtype)
    # No view_as_complex, here or in backward: the piece may begin at any place of the vector.
    return torch.complex(*piece.view(*like.shape, 2).unbind(-1)).to(like.dtype)
