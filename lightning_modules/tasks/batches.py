"""Batches in words, for messages, and the structure that each task takes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from architectures.observations import Observations, SeriesBatch
from schemes.errors import SchemenetError


def dtype_name(dtype: torch.dtype) -> str:
    """The name of a dtype: ``float32``."""
    return str(dtype).removeprefix("torch.")


def describe(value: Any) -> str:
    """Type, shape and dtype: ``a list of float32 (8, 3), int64 (8,)``."""
    if isinstance(value, Tensor):
        return f"{dtype_name(value.dtype)} {tuple(value.shape)}"
    if isinstance(value, Mapping):
        parts = [f"{key}: {describe(part)}" for key, part in value.items()]
    elif isinstance(value, tuple | list):
        parts = [describe(part) for part in value]
    else:
        return type(value).__name__
    return f"a {type(value).__name__} of {', '.join(parts) or 'nothing'}"


def unfit(task: object, expected: str, batch: Any) -> SchemenetError:
    """The error for a batch that a task's module does not take.

    Args:
        task: the module.
        expected: what it takes.
        batch: what it got.
    """
    return SchemenetError(f"{type(task).__name__}: expected {expected}, got {describe(batch)}")


def samples_of(task: object, batch: Any, dims: int) -> Tensor:
    """The samples (batch, dims) of a batch: a tensor, or a tuple of one as of a ``TensorDataset``."""
    samples = batch[0] if isinstance(batch, tuple | list) and len(batch) == 1 else batch
    if not isinstance(samples, Tensor) or samples.shape[1:] != (dims,):
        raise unfit(task, f"a tensor of samples (batch, {dims})", batch)
    return samples


def series_of(task: object, batch: Any, channels: int) -> SeriesBatch:
    """A batch of series, whose observed and target values have these channels."""
    if not isinstance(batch, SeriesBatch) or not all(_fit(part, channels) for part in batch[:2]):
        parts = f"Observations(times (times,), values and mask (batch, times, {channels}))"
        raise unfit(task, f"a SeriesBatch of observed and targets, each {parts}", batch)
    return batch


def _fit(part: Any, channels: int) -> bool:
    if not isinstance(part, Observations) or not all(isinstance(value, Tensor) for value in part):
        return False
    return part.values.shape == part.mask.shape == (len(part.values), len(part.times), channels)
