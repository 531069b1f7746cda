"""LM-ResNet and LM-ResNeXt: linear multistep."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import nn

from architectures.fields.convolutional import EXPANSION
from architectures.registry import ARCHITECTURES
from architectures.supervised.network import Network
from architectures.supervised.resnet import resnet
from architectures.supervised.resnext import resnext
from schemes.schema import Spec


class DeadWeights(nn.Module):
    """Weights of the released code that no output depends on; for parameter tables only (plain DDP rejects them).

    Args:
        in_width: channels of the stem.
        out_width: channels of the first stage.
        unused_k: coefficients.
    """

    def __init__(self, in_width: int, out_width: int, unused_k: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(in_width)
        if in_width == out_width:
            expanded = nn.Conv2d(in_width, EXPANSION * out_width, 1, bias=False)
            self.projection = nn.Sequential(nn.BatchNorm2d(in_width), expanded)
        self.k = nn.Parameter(torch.zeros(unused_k))


@ARCHITECTURES.register(
    "lm_resnet",
    word="linear_multistep",
    extends="resnet",
    sizes={
        "lm_resnet20": {"depth": 20},
        "lm_resnet32": {"depth": 32},
        "lm_resnet44": {"depth": 44},
        "lm_resnet56": {"depth": 56},
        "lm_resnet110": {"depth": 110},
        "lm_resnet164": {"depth": 164, "field": "bottleneck"},
        "lm_resnet50": {
            "depth": (3, 4, 6, 3), "widths": (64, 128, 256, 512), "stem": "7x7",
            "field": "bottleneck",
        },
        "lm_resnet101": {
            "depth": (3, 4, 23, 3), "widths": (64, 128, 256, 512), "stem": "7x7",
            "field": "bottleneck",
        },
    },
)  # fmt: skip
def lm_resnet(*, scheme: Spec = "linear_multistep", released_dead_weights: bool = False, **options: Any) -> Network:
    r"""ResNet (pre-activation, transition D) with a trained two-step coefficient per block.

        u_{n+1} = (1 - k_n) u_n + k_n u_{n-1} + f_n(u_n)

    The first block of the network and the transitions are plain; with ``history="shortcut"`` (the released code)
    3(n - 1) coefficients are live. The published comparison with ResNet is not controlled (its ResNet rows are copied
    from a post-activation network trained on fewer images): compare with ``resnet20`` ... here, which differ in k only.
    ``lm_resnet50`` and ``lm_resnet101`` are the same rule on ImageNet's layout, whose code was not released:
    ``resnet50_v2`` and ``resnet101_v2`` with k.

    Args:
        scheme: of the flows.
        released_dead_weights: whether the network has the weights that the authors' code allocates and never uses, to
            reach its printed counts.
        **options: as for :func:`architectures.supervised.resnet.resnet`, ``history`` among them: the older state after
            a transition.

    Reference: Lu, Zhong, Li, Dong, ICML 2018, arXiv:1710.10121.
    """
    network = resnet(scheme=scheme, **options)
    if released_dead_weights:
        widths = network.layout["widths"]
        network.dead_weights = DeadWeights(16, widths[0], unused_k=3)
    return network


@ARCHITECTURES.register(
    "lm_resnext",
    extends="resnext",
    sizes={
        "lm_resnext29_8x64d": {"depth": 29, "groups": 8, "group_width": 64},
        "lm_resnext29_16x64d": {"depth": 29, "groups": 16, "group_width": 64},
    },
)
def lm_resnext(
    *,
    scheme: Spec = "linear_multistep",
    activation: Literal["pre"] = "pre",
    transition: Literal["A", "B", "C", "D", "pool"] = "D",
    **options: Any,
) -> Network:
    r"""Pre-activation ResNeXt with a trained two-step coefficient per block.

        u_{n+1} = (1 - k_n) u_n + k_n u_{n-1} + sum_i T_i(u_n)

    The published counts (35.1 M, 68.8 M) exceed those of this network by 0.7 M, and suggest that the authors projected
    the older state by a second set of 1x1 convolutions; no code was released. ``history="project"`` has such a set,
    but for the first transition, which has no older state: 655,360 weights. By default this follows their LM-ResNet.

    Args:
        scheme: of the flows.
        activation: before the convolutions.
        transition: the shortcut between stages.
        **options: as for :func:`architectures.supervised.resnext.resnext`.

    Reference: Lu, Zhong, Li, Dong, ICML 2018, arXiv:1710.10121.
    """
    return resnext(scheme=scheme, activation=activation, transition=transition, **options)
