"""Controls: the baseline without its flows, and with one step in each. They show what the flows contribute."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from architectures.registry import ARCHITECTURES
from architectures.supervised.network import Network
from architectures.supervised.residual import ResidualDesign


def _control(steps: int, widths: Sequence[int] = (16, 32, 64), **options: Any) -> Network:
    stages = len(widths)
    return ResidualDesign(blocks=[1] * stages, steps=[steps] * stages, widths=widths, **options).build()


@ARCHITECTURES.register("stem_only", extends="resnet", without=("depth", "activation"), control=True)
def stem_only(num_classes: int = 10, in_chans: int = 3, **options: Any) -> Network:
    """The ResNet layout with its flows removed: stem, the transitions between flows, head.

    Args:
        num_classes: of the head; 0 for none.
        in_chans: channels of the images.
        **options: as for :func:`architectures.supervised.resnet.resnet`.

    Reference: the "stem alone" control that reproductions of Chen et al., NeurIPS 2018, arXiv:1806.07366, report.
    """
    return _control(0, num_classes=num_classes, in_chans=in_chans, **options)


@ARCHITECTURES.register("one_block", extends="resnet", without=("depth", "activation"), control=True)
def one_block(num_classes: int = 10, in_chans: int = 3, **options: Any) -> Network:
    """The ResNet layout with one step in each flow.

    Args:
        num_classes: of the head; 0 for none.
        in_chans: channels of the images.
        **options: as for :func:`architectures.supervised.resnet.resnet`.

    Reference: He, Zhang, Ren, Sun, ECCV 2016, arXiv:1603.05027 (the layout).
    """
    return _control(1, num_classes=num_classes, in_chans=in_chans, **options)
