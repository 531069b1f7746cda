"""Two branches in random proportions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from schemes.core.node import Node
from schemes.core.scheme import Scheme
from schemes.core.weighting import Weight, Weights
from schemes.noise.base import Blocks, Noise, Per, shape_of
from schemes.registry import NOISES


@NOISES.register("shake_shake")
class ShakeShake(Noise):
    r"""A convex combination of two branches, random in training, the mean in evaluation.

        u_{n+1} = u_n + eta f_n(u_n) + (1 - eta) g_n(u_n),      eta ~ U(0, 1), in evaluation 1/2

    For steps of two ways (``backward_euler_poly`` with form=way, degree=2). The gradient is weighted by another draw
    (``backward`` shake), by 1/2 (even) or by eta (keep); one draw a sample, or one a mini-batch. Transitions have one
    branch and stay as they are. Weak limit: dX = (f + g)/2 dt + (f - g)/sqrt(12) dB.

    References: Gastaldi, "Shake-Shake regularization", 2017, arXiv:1705.07485; Lu, Zhong, Li, Dong, ICML 2018,
    arXiv:1710.10121, section 3 (the stochastic differential equation).
    """

    of_steps = False

    def __init__(
        self,
        per: Literal["batch", "sample"] = "sample",
        backward: Literal["shake", "even", "keep"] = "shake",
    ) -> None:
        self.per: Per = per
        self.backward = backward

    def unsupported_reason(self, scheme: Scheme) -> str | None:
        if scheme.parallel_branches == 2:
            return None
        return (
            f"noise 'shake_shake' mixes two branches, and a step of {type(scheme).__name__} as configured does not "
            "have two; use scheme=backward_euler_poly scheme.form=way scheme.degree=2"
        )

    def draw(self, visits: Sequence[Node], blocks: Blocks, y: Tensor, training: bool) -> Weights:
        steps = dict.fromkeys(node.step for node in visits)
        drawn = {n: self._pair(shape_of(self.per, y), y) if training else (Weight(0.5), Weight(0.5)) for n in steps}
        return {node.place: drawn[node.step][node.stage] for node in visits}

    def _pair(self, shape: tuple[int, ...], y: Tensor) -> tuple[Weight, Weight]:
        eta = torch.rand(shape, device=y.device)
        back = {"shake": lambda: torch.rand(shape, device=y.device), "even": lambda: 0.5, "keep": lambda: eta}
        beta = back[self.backward]()
        return Weight(eta, beta), Weight(1 - eta, 1 - beta)
