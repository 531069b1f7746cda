"""Networks stepped by the two-step leapfrog."""

from __future__ import annotations

from typing import Any

from architectures.registry import ARCHITECTURES
from architectures.supervised.network import Network
from architectures.supervised.resnet import resnet
from schemes.schema import Spec


@ARCHITECTURES.register("leapfrog_net", word="leapfrog", extends="resnet")
def leapfrog_net(*, scheme: Spec = "leapfrog", gradient: Spec = "reversible", **options: Any) -> Network:
    r"""The ResNet layout stepped by the leapfrog, differentiated by undoing its steps.

        u_{n+1} = u_{n-1} + 2 f_n(u_n)

    The paper calls the network of this update the midpoint network; its fields, K^T sigma(K u + b), are not reproduced
    here.

    Args:
        scheme: of the flows.
        gradient: mode; ``reversible`` keeps only the end of each flow.
        **options: as for :func:`architectures.supervised.resnet.resnet`.

    Reference: Chang, Meng, Haber, Ruthotto, Begert, Holtham, AAAI 2018, arXiv:1709.03698.
    """
    return resnet(scheme=scheme, gradient=gradient, **options)
