"""Optimisers that take steps along the gradient, and their learning-rate schedules."""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from architectures.model import Model
from lightning_modules.config.registries import OPTIMIZERS
from schemes.errors import SchemenetError


@OPTIMIZERS.register("sgd")
def sgd(
    network: nn.Module,
    total_steps: int,
    *,
    lr: float = 0.1,
    momentum: float = 0.9,
    nesterov: bool = False,
    weight_decay: float = 1e-4,
    schedule: Literal["step", "cosine", "exponential", "constant"] = "step",
    milestones: Sequence[float] = (0.5, 0.75),
    gamma: float = 0.1,
    warmup_steps: int = 0,
) -> dict[str, Any]:
    """Stochastic gradient descent.

    The coefficients of schemes (k_n) are not decayed: decay would pull them towards ResNet.

    Args:
        network: whose parameters are trained.
        total_steps: optimiser steps of the training.
        lr: the learning rate, at the start of the schedule.
        momentum: in [0, 1).
        nesterov: whether the momentum is Nesterov's.
        weight_decay: factor of the parameters that is added to their gradients.
        schedule: ``step`` multiplies lr by ``gamma`` at each of ``milestones``; ``exponential`` by the same factor
            after every step, so that it ends at gamma lr; ``cosine`` ends at 0.
        milestones: shares of the training, in [0, 1].
        gamma: see ``schedule``.
        warmup_steps: steps at the beginning in which lr rises linearly.

    Returns:
        Optimiser and scheduler, as Lightning's ``configure_optimizers`` returns them.

    Raises:
        SchemenetError: a value is out of range.
    """
    _require(momentum, nesterov, lr=lr, weight_decay=weight_decay, gamma=gamma, warmup_steps=warmup_steps)
    groups = _groups(network, weight_decay)
    optimizer = torch.optim.SGD(groups, lr=lr, momentum=momentum, nesterov=nesterov)
    return _with_schedule(optimizer, _factor(schedule, milestones, gamma, warmup_steps, total_steps))


@OPTIMIZERS.register("adamw")
def adamw(
    network: nn.Module,
    total_steps: int,
    *,
    lr: float = 1e-3,
    weight_decay: float = 0.01,
    schedule: Literal["step", "cosine", "exponential", "constant"] = "cosine",
    milestones: Sequence[float] = (0.5, 0.75),
    gamma: float = 0.1,
    warmup_steps: int = 0,
) -> dict[str, Any]:
    """Adam with decoupled weight decay; schedules and groups as for ``sgd``."""
    _require(lr=lr, weight_decay=weight_decay, gamma=gamma, warmup_steps=warmup_steps)
    optimizer = torch.optim.AdamW(_groups(network, weight_decay), lr=lr)
    return _with_schedule(optimizer, _factor(schedule, milestones, gamma, warmup_steps, total_steps))


@OPTIMIZERS.register("adamax")
def adamax(
    network: nn.Module,
    total_steps: int,
    *,
    lr: float = 2e-3,
    weight_decay: float = 0.0,
    schedule: Literal["step", "cosine", "exponential", "constant"] = "exponential",
    milestones: Sequence[float] = (0.5, 0.75),
    gamma: float = 0.1,
    warmup_steps: int = 0,
) -> dict[str, Any]:
    """Adam with the largest recent gradient in place of the mean square; schedules and groups as for ``sgd``.

    The weight decay is added to the gradient. One large gradient shortens about a thousand of the steps after it.

    Reference: Kingma and Ba, "Adam: A Method for Stochastic Optimization", ICLR 2015, arXiv:1412.6980, section 7.1.
    """
    _require(lr=lr, weight_decay=weight_decay, gamma=gamma, warmup_steps=warmup_steps)
    optimizer = torch.optim.Adamax(_groups(network, weight_decay), lr=lr)
    return _with_schedule(optimizer, _factor(schedule, milestones, gamma, warmup_steps, total_steps))


def _require(momentum: float = 0.0, nesterov: bool = False, **values: float) -> None:
    wrong = [
        f"optimizer.{key}: expected a number of at least 0, got {value}"
        for key, value in values.items()
        if not 0 <= value < math.inf
    ]
    if not 0 <= momentum < 1:
        wrong.append(f"optimizer.momentum: expected to be in [0, 1), got {momentum}")
    if nesterov and not momentum:
        wrong.append("optimizer.nesterov: needs a momentum above 0")
    if wrong:
        raise SchemenetError("\n".join(wrong))


def _groups(network: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    spared = network.no_weight_decay() if isinstance(network, Model) else set()
    free = [p for name, p in network.named_parameters() if name in spared]
    decayed = [p for name, p in network.named_parameters() if name not in spared]
    groups = [{"params": decayed, "weight_decay": weight_decay}]
    return [*groups, {"params": free, "weight_decay": 0.0}] if free else groups


def _factor(
    schedule: str, milestones: Sequence[float], gamma: float, warmup: int, total: int
) -> Callable[[int], float]:
    """The learning rate's factor at a step."""
    if not all(0 <= share <= 1 for share in milestones):
        raise SchemenetError(f"optimizer.milestones: expected shares of the training in [0, 1], got {milestones!r}")
    ends = sorted(share * total for share in milestones)

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / (warmup + 1)
        passed = min(1.0, (step - warmup) / max(1, total - warmup))
        if schedule == "cosine":
            return 0.5 * (1 + math.cos(math.pi * passed))
        if schedule == "exponential":
            return gamma**passed
        return gamma ** bisect.bisect_right(ends, step) if schedule == "step" else 1.0

    return factor


def _with_schedule(optimizer: torch.optim.Optimizer, factor: Callable[[int], float]) -> dict[str, Any]:
    return {
        "optimizer": optimizer,
        "lr_scheduler": {"scheduler": LambdaLR(optimizer, factor), "interval": "step"},
    }
