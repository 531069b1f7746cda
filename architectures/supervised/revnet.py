"""RevNet: symplectic Euler of a coupled system, differentiated by undoing its steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from architectures.arguments import field_facts, name_of
from architectures.registry import ARCHITECTURES
from architectures.supervised.network import Network
from architectures.supervised.residual import ResidualDesign, blocks_of
from schemes.schema import Spec


@ARCHITECTURES.register(
    "revnet",
    word="symplectic_euler",
    extends="resnet",
    without=("activation", "transition"),
    branches=2,  # of a unit, all of which depth counts
    sizes={
        "revnet38": {"depth": 38, "widths": (32, 64, 112)},
        "revnet110": {"depth": 110, "widths": (32, 64, 128)},
        "revnet164": {"depth": 164, "widths": (32, 64, 128), "field": "bottleneck"},
        "revnet56": {
            "depth": (2, 2, 3, 2), "widths": (128, 256, 512, 832), "stem": "7x7", "field": "bottleneck",
        },
        "revnet104": {
            "depth": (2, 2, 11, 2), "widths": (128, 256, 512, 832), "stem": "7x7", "field": "bottleneck",
        },
    },
)  # fmt: skip
def revnet(
    num_classes: int = 10,
    in_chans: int = 3,
    *,
    depth: int | Sequence[int] = 38,
    field: Spec = "basic",
    widths: Sequence[int] = (32, 64, 112),
    layout: Literal["revnet", "memcnn"] = "revnet",
    scheme: Spec = "symplectic_euler",
    gradient: Spec = "reversible",
    **options: Any,
) -> Network:
    r"""RevNet: channel halves that drive each other.

        x_{n+1} = x_n + F_n(y_n),      y_{n+1} = y_n + G_n(x_{n+1})

    The papers call this forward Euler of a coupled system; the map is symplectic Euler, and reversible for any F, G.
    Stem conv-norm-ReLU to the first of ``widths``; three stages, their halves half as wide; a unit has two branches.
    ImageNet's layouts (``revnet56``, ``revnet104``) have the 7x7 stem and four stages.

    Args:
        num_classes: of the head; 0 for none.
        in_chans: channels of the images.
        depth: 12n + 2 (``basic``) or 18n + 2 (``bottleneck``), or the units of each stage.
        field: F and G.
        widths: channels of each stage, of both halves together.
        layout: "revnet" is the authors' (first unit of a stage coupled as well, shortcuts by average pooling and zero
            channels, or raw 1x1 convolutions for ``bottleneck``); "memcnn" is that library's (first units are plain
            residual blocks of full width).
        scheme: of coupled systems.
        gradient: mode; ``reversible`` keeps only the end of each flow.
        **options: as for :func:`architectures.supervised.resnet.resnet`.

    Reference: Gomez, Ren, Urtasun, Grosse, NeurIPS 2017, arXiv:1707.04585.
    """
    convolutions = 2 * field_facts(field).convolutions
    crossing: dict[str, Any] = {"transition": "B", "without_leading_norm": "all"}
    if layout == "revnet":
        kind = "pool" if name_of(field) == "basic" else "C"
        crossing = {"transition": kind, "coupled_transitions": True}
    blocks = blocks_of(depth, convolutions, widths)
    return ResidualDesign(
        num_classes=num_classes, in_chans=in_chans, blocks=blocks, widths=widths, normalised_stem=True,
        field=field, scheme=scheme, gradient=gradient, **crossing, **options,
    ).build()  # fmt: skip
