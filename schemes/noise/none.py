"""No noise."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from schemes.core.node import Node
from schemes.core.weighting import Weights
from schemes.noise.base import Blocks, Noise
from schemes.registry import NOISES


@NOISES.register("none")
class NoNoise(Noise):
    """Steps as the scheme takes them."""

    weighs_steps = False

    random = False

    def draw(self, visits: Sequence[Node], blocks: Blocks, y: Tensor, training: bool) -> Weights:
        return {}
