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

NARROW = 32
"""Entries of a row below which one number a row is written out for all of them."""

State = Any  # Tensor | None | tuple[State, ...]
VectorField = Callable[[Any, State], State]


def has_derivative(t: Tensor) -> bool:
    """Whether autograd follows a tensor, backward or forward."""
    return (t.requires_grad and torch.is_grad_enabled()) or unpack_dual(t).tangent is not None


def along(numbers: Tensor, y: Tensor) -> Tensor:
    """One number a row, shaped to multiply the rows of y; anything but a vector is left as it is."""
    return numbers.reshape(-1, *[1] * (y.dim() - 1)) if numbers.dim() == 1 else numbers


def spread(numbers: Tensor, y: Tensor) -> Tensor:
    """As :func:`along`, written out where rows are so short that loops over their entries would be slow."""
    rows = along(numbers, y)
    return rows.expand_as(y).contiguous() if rows.dim() > 1 and y.numel() < NARROW * len(y) else rows


def rows_where(mask: Tensor, a: State, b: State) -> State:
    """Rows of a where the mask says so, else of b."""
    if isinstance(a, Tensor):
        return torch.where(spread(mask, a), a, b)
    return tuple(rows_where(mask, x, y) for x, y in zip(a, b, strict=True))


def rows_of(state: State) -> list[State]:
    """The states along the first dimension."""
    if isinstance(state, Tensor):
        return list(state.unbind())
    return list(zip(*map(rows_of, state), strict=True))


def rows_at(index: Tensor, state: State) -> State:
    """The rows of these indices."""
    return state[index] if isinstance(state, Tensor) else tuple(rows_at(index, part) for part in state)


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


def sizes_for(h: Any, y: State) -> Any:
    """A step size as it multiplies y: one number a row in the shape of its leaves, anything else as it is."""
    if not isinstance(h, Tensor) or h.dim() != 1:
        return h
    if isinstance(y, tuple):
        return tuple(sizes_for(h, part) for part in y)
    return spread(h.to(y.real.dtype), y)


def stage_sum(y: State, h: Any, row: Sequence[tuple[int, float]], k: Sequence[State]) -> State:
    """y + h sum of a k_j over the pairs (j, a), with h as :func:`sizes_for` gives it.

    For tensors the first term makes a new one and the others are added to it in place: the sum reads and writes no
    more than it must, and autograd, which saves nothing of it, is the same.
    """
    if isinstance(h, tuple):
        parts = enumerate(zip(y, h, strict=True))
        return tuple(stage_sum(part, size, row, [slope[i] for slope in k]) for i, (part, size) in parts)
    if isinstance(y, Tensor) and isinstance(h, Tensor) and h.dim() and row and not y.is_complex():
        (j, a), *rest = row
        total = torch.addcmul(y, h, k[j], value=a)
        for j, a in rest:
            total.addcmul_(h, k[j], value=a)
        return total
    if not isinstance(y, Tensor) or isinstance(h, Tensor) or not row:
        return combine(y, ((h * a, k[j]) for j, a in row))
    (j, a), *rest = row
    total = torch.add(y, k[j], alpha=h * a)
    for j, a in rest:
        total.add_(k[j], alpha=h * a)
    return total


class SlopeSums:
    """The sums over j of a_ij k_j for all stages i of a step, for numbers without a graph.

    A slope is added at once to all sums that it is part of, in place, which is one operation for each slope instead of
    one for each pair of a slope and a sum.

    Args:
        k: the first slope, of real tensors.
        column: by what it is multiplied in each sum: one tensor for each tensor of the state.
    """

    def __init__(self, k: State, column: Sequence[Tensor]) -> None:
        leaves, self._shape = flatten(k)
        self._rows = [torch.outer(numbers, leaf.flatten()) for numbers, leaf in zip(column, leaves, strict=True)]
        pairs = zip(self._rows, leaves, strict=True)
        self._sums = [rows.view(len(rows), *leaf.shape).unbind() for rows, leaf in pairs]

    def add(self, k: State, first: int, column: Sequence[Tensor]) -> None:
        """Add a slope to the sums from the ``first`` on, multiplied by the entries of a column."""
        for rows, numbers, leaf in zip(self._rows, column, flatten(k)[0], strict=True):
            rows[first:].addr_(numbers, leaf.flatten())

    def added_to(self, y: State, h: Any, i: int) -> State:
        """y + h times the i-th sum, with h as :func:`sizes_for` gives it."""
        if isinstance(y, Tensor):
            return torch.addcmul(y, h, self._sums[0][i])
        leaves, sizes = flatten(y)[0], flatten(h)[0]
        parts = zip(leaves, sizes, self._sums, strict=True)
        return unflatten([torch.addcmul(leaf, size, sums[i]) for leaf, size, sums in parts], self._shape)

    def times(self, h: Any, i: int) -> State:
        """h times the i-th sum."""
        sizes = flatten(h)[0]
        return unflatten([sums[i] * size for size, sums in zip(sizes, self._sums, strict=True)], self._shape)


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


def is_real(y: State) -> bool:
    """Whether no tensor of y is complex."""
    return not y.is_complex() if isinstance(y, Tensor) else all(map(is_real, y))


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
