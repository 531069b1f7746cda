"""PolyNet's modules on the ResNet layout: truncated backward Euler."""

from __future__ import annotations

from typing import Any

from architectures.registry import ARCHITECTURES
from architectures.supervised.network import Network
from architectures.supervised.resnet import resnet
from schemes.schema import Spec


@ARCHITECTURES.register(
    "polynet",
    word="backward_euler_poly",
    extends="resnet",
    sizes={"polynet20": {"depth": 20}, "polynet32": {"depth": 32}, "polynet56": {"depth": 56}},
)
def polynet(*, scheme: Spec = "backward_euler_poly", **options: Any) -> Network:
    r"""The ResNet layout with PolyNet's polynomial modules; poly-2 by default, whose F is shared by both powers.

        u_{n+1} = u_n + F(u_n) + F(F(u_n))

    poly adds no parameter to ResNet; mpoly-2 and way-2 double those of F. Batch norm keeps its statistics per power;
    with ``statistics=per_node_affine`` its affine weights are per power too, as in the released network, whose
    projection and ReLU at each power are not reproduced. The paper's other measures: residual scaling
    (``scheme.scaling``), stochastic paths (``noise=stochastic_paths``), and initialisation by insertion
    (``architectures.insert``). PolyNet published ImageNet results only, with Inception branches: on small images this
    is a baseline of this project. What it shares with backward Euler and what not: see the scheme
    ``backward_euler_poly``.

    Args:
        scheme: of the flows; its parameters are form, degree and scaling.
        **options: as for :func:`architectures.supervised.resnet.resnet`.

    Reference: Zhang, Li, Loy, Lin, CVPR 2017, arXiv:1611.05725.
    """
    return resnet(scheme=scheme, **options)
