"""The distance of a state that backward rebuilds from the one that the flow started from."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from schemes.core.state import flatten, unflatten

ENTRIES = 1024
"""Entries of a tensor by which it is known again; smaller tensors are kept whole."""


def fingerprint(nest: Any) -> Any:
    """Up to ``ENTRIES`` entries of each tensor of a nest, in place of the tensor.

    They are all that has to be kept of a state in order to see later how well it was rebuilt: some kilobytes, whatever
    its size. The same entries each time, without random numbers, spread over every dimension.
    """
    tensors, shape = flatten(nest)
    return unflatten([t.detach().take(_places(t)) for t in tensors], shape)


def _places(t: Tensor) -> Tensor:
    """Multiples, modulo the size, of a stride that shares no divisor with it: each index of each dimension in turn."""
    size = t.numel()
    stride = int(size * 0.618) or 1
    while math.gcd(stride, size) > 1:
        stride += 1
    return torch.arange(min(ENTRIES, size), device=t.device) * stride % size


def reconstruction_error(samples: Any, rebuilt: Any, passed: Any = None) -> float:
    """Distance of a rebuilt nest of tensors from the one that was sampled, relative, the worst of its tensors.

    A tensor that is zero, or nearly, is measured by a tenth of the largest one, of this nest and of samples of
    another state that the flow has ``passed``. Waits for the device once. On the meta device, where operations are
    counted and nothing is computed, it is 0.
    """
    true, reached = flatten(samples)[0], flatten(fingerprint(rebuilt))[0]
    least = torch.stack([t.norm() for t in (*true, *flatten(passed)[0])]).max().clamp_min(1e-29) / 10
    gaps = [(b - a).norm() / torch.maximum(a.norm(), least) for a, b in zip(true, reached, strict=True)]
    if gaps[0].is_meta:
        return 0.0
    return float(torch.stack(gaps).max())
