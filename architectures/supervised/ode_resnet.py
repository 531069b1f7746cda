"""A residual network whose flows are those of an ODE-Net."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from architectures.arguments import require
from architectures.registry import ARCHITECTURES
from architectures.supervised.network import Network
from architectures.supervised.residual import ResidualDesign
from schemes.schema import Spec


@ARCHITECTURES.register("ode_resnet", word="ode_net", extends="resnet", without=("depth", "activation"))
def ode_resnet(
    num_classes: int = 10,
    in_chans: int = 3,
    *,
    steps: int = 2,
    field: Spec = {"name": "basic_time", "bias": False},  # noqa: B006  read only
    widths: Sequence[int] = (16, 32, 64),
    scheme: Spec = "heun",
    sharing: Spec | None = "shared",
    grid: Spec = {"name": "uniform", "time": 1.0},  # noqa: B006  read only
    gradient: Spec = "checkpoint",
    augment: int = 0,
    **options: Any,
) -> Network:
    r"""A residual network in which each flow integrates one field over [0, 1].

        u' = f(t, u),   u(1) by ``steps`` steps of ``scheme`` on a uniform grid

    Stem, three flows with time as a channel in every convolution, residual transitions between them: the ODE-Net that
    shares stem and head with the ResNets it is compared with (``odenet`` is the paper's). Batch norm keeps its
    statistics per visited node.

    Args:
        num_classes: of the head; 0 for none.
        in_chans: channels of the images.
        steps: of each flow.
        field: f.
        widths: of the flows.
        scheme: of the flows.
        sharing: of the weights between steps; "shared" is one field in each flow.
        grid: of the flows.
        gradient: mode; ``checkpoint`` is the discrete adjoint, ``adjoint`` the paper's, right to the order of the
            scheme.
        augment: zero channels appended to the state before each flow; the head reads those of the last.
        **options: as for :func:`architectures.supervised.resnet.resnet`.

    Reference: Chen, Rubanova, Bettencourt, Duvenaud, NeurIPS 2018, arXiv:1806.07366; ``augment``: Dupont, Doucet, Teh,
    NeurIPS 2019, arXiv:1904.01681.
    """
    require(steps=steps, widths=widths)
    return ResidualDesign(
        num_classes=num_classes, in_chans=in_chans, blocks=[steps] * len(widths),
        steps=[steps] * len(widths), widths=widths, field=field, scheme=scheme, sharing=sharing, grid=grid,
        gradient=gradient, augment=augment, **options,
    ).build()  # fmt: skip
