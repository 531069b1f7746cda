"""Single terms of a step dropped at random."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from schemes.core.node import Node
from schemes.core.weighting import Weights
from schemes.noise.base import Blocks, Dropping
from schemes.registry import NOISES


@NOISES.register("stochastic_paths")
class StochasticPaths(Dropping):
    r"""Each term of a step is dropped independently, e.g. I + F + GF + HGF to I + GF.

        u_{n+1} = u_n + sum_s eta_{n,s} T_s(u_n),      eta = 0 with probability d_l, else 1 / (1 - d_l)

    The T_s are the terms that a scheme adds to the state: powers or ways of PolyNet, stages of a Runge-Kutta method,
    kicks of a coupled scheme. A dropped term is still the argument of the next one. Rates, draws and the mean as for
    ``stochastic_depth``. The released PolyNet has the keep probabilities folded into its weights; dividing in training
    has the same mean.

    Reference: Zhang, Li, Loy, Lin, "PolyNet: A Pursuit of Structural Diversity in Very Deep Networks", CVPR 2017,
    arXiv:1611.05725.
    """

    of_steps = False

    def draw(self, visits: Sequence[Node], blocks: Blocks, y: Tensor, training: bool) -> Weights:
        if not (training and self.drop):
            return {}
        return {node.place: self.survival(blocks, node.step, y) for node in visits}
