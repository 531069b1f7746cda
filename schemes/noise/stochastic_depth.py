"""Whole steps dropped at random."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from schemes.core.node import Node
from schemes.core.weighting import Weights
from schemes.noise.base import Blocks, Dropping
from schemes.registry import NOISES


@NOISES.register("stochastic_depth")
class StochasticDepth(Dropping):
    r"""Each step keeps f with probability 1 - d_l, divided by it; one draw for all evaluations of a step.

        u_{n+1} = u_n + eta_n f_n(u_n),      eta_n = 0 with probability d_l, else 1 / (1 - d_l)

    With ``drop`` = 1 - p_L, ``schedule`` linear is d_l = drop (l - 1) / (L - 1), the rule of the released codes and of
    timm, linear_paper d_l = drop l / L, the papers'. Only f is dropped: a multistep scheme keeps its linear terms, a
    transition its shortcut. One draw a mini-batch as in the papers, or one a sample (timm's ``drop_path``). Evaluation
    is the plain step; the paper scales there instead of dividing here, which has the same mean. A dropped f is
    evaluated all the same: every parameter has a gradient (plain DDP needs it) and batch norm sees every batch.

    The mean of a noisy step is the step where the weight enters linearly: a Runge-Kutta method's stages, PolyNet's
    powers and the slopes of a multistep method are weighted where they are added, not where f is evaluated at them.
    It is not for coupled schemes (symplectic_euler, verlet), whose second part is moved by f at the first one's noisy
    value, for adams_moulton, whose corrector is f at the noisy predictor, for steps of several substeps, each of which
    starts from the noisy result of the one before, and in the first step of asynchronous_leapfrog and reversible_heun,
    which are started by an evaluation of that step. There evaluation is another network than the mean of those that
    were trained, by terms of order h^2.

    References: Huang, Sun, Liu, Sedra, Weinberger, "Deep Networks with Stochastic Depth", ECCV 2016, arXiv:1603.09382;
    for multistep schemes Lu, Zhong, Li, Dong, ICML 2018, arXiv:1710.10121.
    """

    def draw(self, visits: Sequence[Node], blocks: Blocks, y: Tensor, training: bool) -> Weights:
        if not (training and self.drop):
            return {}
        drawn = {step: self.survival(blocks, step, y) for step in dict.fromkeys(node.step for node in visits)}
        return {node.place: drawn[node.step] for node in visits}
