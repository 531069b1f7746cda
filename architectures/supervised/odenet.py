"""ODE-Net and RK-Net: the continuous limit of a residual network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from architectures.registry import ARCHITECTURES
from architectures.supervised.network import Network
from architectures.supervised.ode_resnet import ode_resnet
from schemes.schema import Spec


@ARCHITECTURES.register("odenet", extends="ode_resnet", sizes={"rknet": {"gradient": "backprop"}})
def odenet(
    *,
    stem: Literal["3x3", "7x7", "conv", "res"] = "conv",
    field: Spec = "basic_time",
    widths: Sequence[int] = (64,),
    norm: Literal["batch", "group", "none"] = "group",
    scheme: Spec = "dopri5",
    grid: Spec = "adaptive",
    gradient: Spec = "checkpoint",
    **options: Any,
) -> Network:
    r"""ODE-Net: a stem that reduces the image, one flow over [0, 1] whose field serves at all times, the head.

        u' = f(t, u),   t in [0, 1],   u(0) = stem(x),   logits = head(u(1))

    f is norm, ReLU, 3x3, norm, ReLU, 3x3, norm on 64 channels, with time as one more in front of them; group norm
    everywhere, in groups of two channels at every ``width``. The paper says 0.22 M parameters. Initial weights are
    those of all networks here (He).

    Args:
        stem: three convolutions ("conv": states 64x6x6 for MNIST, 208,266 parameters), or one and two residual blocks
            ("res": 64x7x7, 232,970), as in the authors' example.
        field: f.
        widths: of the flow.
        norm: of stem, field and head.
        scheme: of the flow.
        grid: of the flow.
        gradient: mode; ``checkpoint`` is the discrete adjoint, equal to backprop, ``adjoint`` is the paper's, and
            ``rknet``, the paper's RK-Net, backpropagates through the solver.
        **options: as for :func:`architectures.supervised.ode_resnet.ode_resnet`; ``augment`` is ANODE's.

    Reference: Chen, Rubanova, Bettencourt, Duvenaud, NeurIPS 2018, arXiv:1806.07366; ``augment``: Dupont, Doucet, Teh,
    NeurIPS 2019, arXiv:1904.01681.
    """
    return ode_resnet(
        stem=stem, field=field, widths=widths, norm=norm, scheme=scheme, grid=grid, gradient=gradient, **options
    )
