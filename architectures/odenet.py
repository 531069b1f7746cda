"""ODE-Net on a uniform grid: one field per flow, its weights shared by all times."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from architectures.network import Network
from architectures.registry import ARCHITECTURES
from architectures.residual import require, residual_network
from schemes.signature import Spec


@ARCHITECTURES.register("odenet", word="ode_net", extends="resnet", without=("depth", "activation"))
def odenet(
    num_classes: int = 10,
    in_chans: int = 3,
    *,
    steps: int = 2,
    field: Spec = "basic_time",
    widths: Sequence[int] = (16, 32, 64),
    scheme: Spec = "heun",
    sharing: Literal["per_step", "shared", "per_stage"] | None = "shared",
    grid: Spec = {"name": "uniform", "time": 1.0},  # noqa: B006  read only
    gradient: Spec = "checkpoint",
    **options: Any,
) -> Network:
    r"""A residual network in which each flow integrates one field over [0, 1].

        u' = f(t, u),   u(1) by ``steps`` steps of ``scheme`` on a uniform grid

    Stem, three flows with time as a channel in every convolution, residual transitions between them. Batch norm keeps
    its statistics per visited node. Checkpointed by default (the discrete adjoint); ``gradient=adjoint`` is the
    paper's, right to the order of the scheme.

    Reference: Chen, Rubanova, Bettencourt, Duvenaud, NeurIPS 2018, arXiv:1806.07366.
    """
    require(steps=steps, widths=widths)
    return residual_network(
        num_classes=num_classes, in_chans=in_chans, blocks=[steps] * len(widths),
        steps=[steps] * len(widths), widths=widths, field=field, scheme=scheme, sharing=sharing, grid=grid,
        gradient=gradient, **options,
    )  # fmt: skip
