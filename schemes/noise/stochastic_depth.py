"""Whole steps dropped at random."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from schemes.node import Node
from schemes.noise.base import Blocks, Dropping
from schemes.registry import NOISES
from schemes.weighted import Weights


@NOISES.register("stochastic_depth")
class StochasticDepth(Dropping):
    r"""Each step keeps f with probability 1 - d_l, divided by it; one draw for all evaluations of a step.

        u_{n+1} = u_n + eta_n f_n(u_n),      eta_n = 0 with probability d_l, else 1 / (1 - d_l)

    d_l grows from 0 at the network's first block to ``drop`` = 1 - p_L at its last (``schedule`` linear, the papers'
    rule). Only f is dropped: a multistep scheme keeps its linear terms, a transition its shortcut. One draw a
    mini-batch as in the papers, or one a sample (timm's ``drop_path``). Evaluation is the plain step; the paper scales
    there instead of dividing here, which has the same mean. A dropped f is evaluated all the same: every parameter has
    a gradient (plain DDP asks for it) and batch norm sees every batch.

    References: Huang, Sun, Liu, Sedra, Weinberger, "Deep Networks with Stochastic Depth", ECCV 2016, arXiv:1603.09382;
    for multistep schemes Lu, Zhong, Li, Dong, ICML 2018, arXiv:1710.10121.
    """

    def draw(self, visits: Sequence[Node], blocks: Blocks, y: Tensor, training: bool) -> Weights:
        if not (training and self.drop):
            return {}
        drawn = {step: self.survival(blocks.depth(step), y) for step in dict.fromkeys(node.step for node in visits)}
        return {node.place: drawn[node.step] for node in visits}
