"""ResNet: forward Euler."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from architectures.arguments import field_facts
from architectures.registry import ARCHITECTURES
from architectures.supervised.network import Network
from architectures.supervised.residual import ResidualDesign, blocks_of
from schemes.schema import Spec


@ARCHITECTURES.register(
    "resnet",
    word="forward_euler",
    sizes={
        "resnet20": {"depth": 20},
        "resnet32": {"depth": 32},
        "resnet44": {"depth": 44},
        "resnet56": {"depth": 56},
        "resnet110": {"depth": 110},
        "resnet164": {"depth": 164, "field": "bottleneck", "transition": "C"},
        "resnet1001": {"depth": 1001, "field": "bottleneck", "transition": "C"},
        "resnet20_v1": {"depth": 20, "activation": "post", "transition": "A"},
        "resnet32_v1": {"depth": 32, "activation": "post", "transition": "A"},
        "resnet44_v1": {"depth": 44, "activation": "post", "transition": "A"},
        "resnet56_v1": {"depth": 56, "activation": "post", "transition": "A"},
        "resnet110_v1": {"depth": 110, "activation": "post", "transition": "A"},
        "resnet1202_v1": {"depth": 1202, "activation": "post", "transition": "A"},
        "resnet18": {
            "depth": (2, 2, 2, 2), "widths": (64, 128, 256, 512), "stem": "7x7",
            "activation": "post", "transition": "B",
        },
        "resnet34": {
            "depth": (3, 4, 6, 3), "widths": (64, 128, 256, 512), "stem": "7x7",
            "activation": "post", "transition": "B",
        },
        "resnet50": {
            "depth": (3, 4, 6, 3), "widths": (64, 128, 256, 512), "stem": "7x7",
            "field": "bottleneck", "activation": "post", "transition": "B",
        },
        "resnet101": {
            "depth": (3, 4, 23, 3), "widths": (64, 128, 256, 512), "stem": "7x7",
            "field": "bottleneck", "activation": "post", "transition": "B",
        },
        "resnet152": {
            "depth": (3, 8, 36, 3), "widths": (64, 128, 256, 512), "stem": "7x7",
            "field": "bottleneck", "activation": "post", "transition": "B",
        },
        "resnet50_v2": {
            "depth": (3, 4, 6, 3), "widths": (64, 128, 256, 512), "stem": "7x7",
            "field": "bottleneck",
        },
        "resnet101_v2": {
            "depth": (3, 4, 23, 3), "widths": (64, 128, 256, 512), "stem": "7x7",
            "field": "bottleneck",
        },
        "resnet_chen": {"depth": (6,), "widths": (64,), "stem": "conv", "norm": "group"},
    },
)  # fmt: skip
def resnet(
    num_classes: int = 10,
    in_chans: int = 3,
    *,
    depth: int | Sequence[int] = 20,
    stem: Literal["3x3", "7x7", "conv", "res"] = "3x3",
    field: Spec = "basic",
    widths: Sequence[int] = (16, 32, 64),
    width: float = 1.0,
    inner: float = 1.0,
    activation: Literal["pre", "post"] = "pre",
    transition: Literal["A", "B", "C", "D", "pool"] = "D",
    history: Literal["shortcut", "restart", "project"] = "shortcut",
    norm: Literal["batch", "group", "none"] = "batch",
    scheme: Spec = "forward_euler",
    sharing: Spec | None = None,
    grid: Spec = "uniform",
    gradient: Spec = "backprop",
    statistics: Literal["per_node", "shared", "per_node_affine"] = "per_node",
    noise: Spec = "none",
) -> Network:
    r"""ResNet: one residual block is one forward Euler step, exactly, with h absorbed in f.

        u_{n+1} = u_n + f_n(u_n)

    For small images: stem 3x3 to 16, three stages of widths 16, 32, 64 (times 4 for ``bottleneck``), n blocks each; the
    first block of stages 2 and 3 is the transition. Pre-activation by default (He et al. 2016); ``activation="post"``
    with transition A is He et al. 2015 (the names with ``_v1``). ``resnet20`` ... ``resnet110`` differ from
    ``lm_resnet20`` ... in nothing but k.

    For ImageNet (``resnet18`` ... ``resnet152``): the 7x7 stem, four stages of widths 64 ... 512 whose blocks ``depth``
    lists, post-activation, transition B, the stride of a bottleneck on its 3x3 convolution: the layout that torchvision
    has as v1.5 (the paper strides the first 1x1). ``resnet50_v2`` and ``resnet101_v2`` are pre-activated, and differ
    from ``lm_resnet50`` and ``lm_resnet101`` in nothing but k.

    ``resnet_chen`` is what Chen et al. (NeurIPS 2018, arXiv:1806.07366) compare their ODE-Net with: their stem, six
    blocks of 64 channels, group norm; 576,778 parameters on MNIST, 601,482 with ``stem=res``.

    Args:
        num_classes: of the head; 0 for none.
        in_chans: channels of the images.
        depth: number of weighted layers, 6n + 2 (``basic``) or 9n + 2 (``bottleneck``); or the blocks of each stage.
        stem: 3x3 convolution; 7x7 with pooling (ImageNet); three convolutions or residual blocks that reduce the image
            ("conv", "res").
        field: f of a block.
        widths: channels of each stage.
        width: factor of ``widths``.
        inner: factor of the widths inside a branch.
        activation: norm and ReLU before each convolution ("pre"), or after it, with a ReLU after each step ("post").
        transition: the shortcut between stages.
        history: for schemes with past states, such as linear multistep. After a transition S(u_N) + F(u_N) the state
            before it is S(u_N) ("shortcut"); none, so that the first step is plain ("restart"); or u_{N-1} by a strided
            1x1 convolution ("project").
        norm: of stem, branches and head.
        scheme: of the flows.
        sharing: of the weights between steps; None for the scheme's default.
        grid: of the flows.
        gradient: mode.
        statistics: of batch norm, at each node of a shared field or not.
        noise: on the steps.

    Reference: He, Zhang, Ren, Sun, CVPR 2016, arXiv:1512.03385, and ECCV 2016, arXiv:1603.05027.
    """
    blocks = blocks_of(depth, field_facts(field).convolutions, widths)
    return ResidualDesign(
        num_classes=num_classes, in_chans=in_chans, blocks=blocks, stem=stem,
        normalised_stem=activation == "post", field=field, widths=widths, width=width, inner=inner,
        activation=activation, transition=transition, history=history, norm=norm, scheme=scheme, sharing=sharing,
        grid=grid, gradient=gradient, statistics=statistics, noise=noise,
    ).build()  # fmt: skip
