"""The arguments of a solve, checked: state, times and functions."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch._C._functorch import (  # type: ignore[import-not-found]  # torch has no stub
    get_unwrapped,
    is_batchedtensor,
    is_functorch_wrapped_tensor,
)
from torch.utils import _pytree as pytree

from schemes.core.scheme import Scheme
from schemes.errors import SchemenetError


def checked_state(y0: Any, steps_known: bool) -> list[Tensor]:
    """The tensors of an initial state.

    Raises:
        SchemenetError: where one of them is no state to solve for, or under ``torch.func.vmap`` while steps are not
            known.
    """
    leaves = pytree.tree_leaves(y0)
    if not leaves:
        raise SchemenetError(f"y0: expected a tensor or a nest of tensors, got {y0!r}")
    for leaf in leaves:
        if not isinstance(leaf, Tensor):
            raise SchemenetError(f"y0: expected tensors, got {type(leaf).__name__} {leaf!r}")
        if leaf.dtype in (torch.float16, torch.bfloat16):
            raise SchemenetError(
                f"y0: a state in {leaf.dtype} is too coarse for sums over many steps and for an error estimate; keep "
                "it in float32 and let f compute in half precision by torch.autocast"
            )
        if _is_batched(leaf) and not steps_known:
            raise SchemenetError(
                "an adaptive grid under torch.func.vmap: each sample would take other steps; hand over the whole batch "
                "(with batching='per_sample' for steps of each sample's own), or use grid=uniform"
            )
        if not (leaf.is_floating_point() or leaf.is_complex()):
            raise SchemenetError(f"y0: expected floating-point or complex numbers, got {leaf.dtype}; use y0.float()")
    return leaves


def _is_batched(leaf: Tensor) -> bool:
    """Whether torch.func.vmap hides a batch in a tensor, under whatever other transforms."""
    while is_functorch_wrapped_tensor(leaf) and not is_batchedtensor(leaf):
        leaf = get_unwrapped(leaf)
    return is_batchedtensor(leaf)


def checked_times(t: Any, like: Tensor, batching: str) -> tuple[Tensor, Any]:
    """The output times as a tensor, and as numbers of the host.

    Where no tensor was given it has the state's precision, or float64 where that would join near times.
    """
    given = isinstance(t, Tensor)  # f gets them in the precision of its state
    times = t.to(like.device, torch.promote_types(t.dtype, like.real.dtype)) if given else exact(t)
    per_sample = batching == "per_sample" and like.dim() > 0 and times.dim() == 2 and times.shape[0] == like.shape[0]
    if (times.dim() != 1 and not per_sample) or not times.shape[-1]:
        raise SchemenetError(
            f"t: expected one dimension with one time or more (with batching='per_sample' also (batch, times)), got "
            f"shape {tuple(times.shape)}"
        )
    host = _numbers(times)
    if not given:
        eps = torch.finfo(like.real.dtype).eps
        rows = host if times.dim() == 2 else [host]
        resolved = all(eps * max(map(abs, row)) <= 1e-5 * abs(row[-1] - row[0]) or row[-1] == row[0] for row in rows)
        times = times.to(like.real.dtype if resolved else torch.float64).to(like.device)
    for name, row in [("t", host)] if times.dim() == 1 else [(f"t[{i}]", row) for i, row in enumerate(host)]:
        _check_row(name, row)
    return times, host


def exact(times: Any) -> Tensor:
    """Times in float64: of numbers, and of tensors, also of a list of them (with their gradients)."""
    try:
        if isinstance(times, list | tuple) and any(isinstance(time, Tensor) for time in pytree.tree_leaves(times)):
            return torch.stack([exact(time) for time in times])
        return times.double() if isinstance(times, Tensor) else torch.from_numpy(np.array(times, dtype=np.float64))
    except (TypeError, ValueError, RuntimeError) as error:
        raise SchemenetError(f"t: expected numbers in a list or a tensor, got {times!r}") from error


def _numbers(times: Tensor) -> Any:
    """Times as numbers of the host; on the meta device, where there are none, equal steps stand for all."""
    if times.is_meta:
        return torch.linspace(0, 1, times.shape[-1], device="cpu").expand(times.shape).tolist()
    return times.detach().tolist()


def _check_row(name: str, times: list[float]) -> None:
    if bad := [i for i, time in enumerate(times) if not math.isfinite(time)]:
        raise SchemenetError(f"t: expected finite times, got {name}[{bad[0]}] = {times[bad[0]]}")
    direction = 1.0 if times[-1] >= times[0] else -1.0
    if bad := [i for i, (a, b) in enumerate(pairwise(times), 1) if direction * (b - a) < 0]:
        way = "increasing" if direction > 0 else "decreasing"
        i = bad[0]
        raise SchemenetError(
            f"t: expected {way} times, got {name}[{i}] = {times[i]:g} after {name}[{i - 1}] = {times[i - 1]:g}"
        )


def checked_functions(f: Any, scheme: Scheme, y0: Any) -> Sequence[Callable[..., Any]]:
    """One function for each component of a state."""
    if scheme.components == 1:
        if not callable(f):
            raise SchemenetError(f"f: expected a function of (t, y), got {f!r}")
        return [f]
    parts = scheme.components
    if (
        isinstance(f, Tensor)
        or not isinstance(f, Sequence)
        or len(f) != parts
        or not isinstance(y0, tuple | list)
        or len(y0) != parts
    ):
        raise SchemenetError(
            f"scheme {type(scheme).__name__} couples {parts} states: y0 expected to be {parts} tensors and f {parts} "
            "functions of (t, the other state)"
        )
    return f
