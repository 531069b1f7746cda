"""The Runge-Kutta network of one field per step."""

from __future__ import annotations

from typing import Any

from architectures.registry import ARCHITECTURES
from architectures.supervised.network import Network
from architectures.supervised.resnet import resnet
from schemes.schema import Spec


@ARCHITECTURES.register("rk_resnet", word="rk2", extends="resnet")
def rk_resnet(*, scheme: Spec = "heun", **options: Any) -> Network:
    r"""The ResNet layout stepped by a Runge-Kutta method, Heun's by default: one f a step, evaluated at each stage.

        u_{n+1} = u_n + 1/2 [f_n(u_n) + f_n(u_n + f_n(u_n))]

    Batch norm keeps its statistics per stage. As many parameters as ResNet, as many times its evaluations as stages.

    Args:
        scheme: of the flows.
        **options: as for :func:`architectures.supervised.resnet.resnet`.

    Reference: Lu, Zhong, Li, Dong, ICML 2018, arXiv:1710.10121, section 2 (the link); no published network has it.
    """
    return resnet(scheme=scheme, **options)
