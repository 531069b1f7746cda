"""ResNeXt: forward Euler of a sum of vector fields."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from architectures.arguments import require
from architectures.registry import ARCHITECTURES
from architectures.supervised.network import Network
from architectures.supervised.residual import ResidualDesign, blocks_of

ENTRY_WIDTH = 64


@ARCHITECTURES.register(
    "resnext",
    extends="resnet",
    without=("field", "widths"),
    sizes={
        "resnext29_8x64d": {"depth": 29, "groups": 8, "group_width": 64},
        "resnext29_16x64d": {"depth": 29, "groups": 16, "group_width": 64},
        "resnext29_32x4d": {"depth": 29, "groups": 32, "group_width": 4},
        "resnext50_32x4d": {"depth": (3, 4, 6, 3), "groups": 32, "group_width": 4, "stem": "7x7"},
    },
)
def resnext(
    num_classes: int = 10,
    in_chans: int = 3,
    *,
    depth: int | Sequence[int] = 29,
    groups: int = 8,
    group_width: int = 64,
    width: float = 1.0,
    inner: float = 1.0,
    activation: Literal["pre", "post"] = "post",
    transition: Literal["A", "B", "C", "D", "pool"] = "B",
    **options: Any,
) -> Network:
    r"""ResNeXt: an Euler step whose f is a sum of ``groups`` narrow bottlenecks.

        u_{n+1} = P(u_n + sum_{i=1..C} T_i(u_n))

    Stem to 64, stages of output widths 256, 512, 1024 ... with inner widths groups * group_width * {1, 2, 4 ...}. The
    published network is post-activation (P = ReLU), transition B; ``activation="pre"`` is what the LM-ResNet paper
    compares with.

    Args:
        num_classes: of the head; 0 for none.
        in_chans: channels of the images.
        depth: 9n + 2 in three stages, or the blocks of each stage (``resnext50_32x4d``: ImageNet's four, with the 7x7
            stem).
        groups: C, the bottlenecks of a block.
        group_width: channels of each of them in the first stage.
        width: factor of all widths.
        inner: further factor of the inner widths.
        activation: "pre" or "post".
        transition: the shortcut between stages.
        **options: as for :func:`architectures.supervised.resnet.resnet`.

    Reference: Xie, Girshick, Dollár, Tu, He, CVPR 2017, arXiv:1611.05431.
    """
    require(groups=groups, group_width=group_width)
    doublings = [2**i for i in range(3 if isinstance(depth, int) else len(depth))]
    widths, inner_widths = [ENTRY_WIDTH * k for k in doublings], [groups * group_width * k for k in doublings]
    return ResidualDesign(
        num_classes=num_classes, in_chans=in_chans, blocks=blocks_of(depth, 3, widths), widths=widths,
        inner_widths=inner_widths, width=width, inner=inner, activation=activation, transition=transition,
        normalised_stem=activation == "post", field={"name": "resnext", "groups": groups},
        **options,
    ).build()  # fmt: skip
