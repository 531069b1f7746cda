"""Plain network: the blocks of a residual network without the identity."""

from __future__ import annotations

from typing import Any

from architectures.registry import ARCHITECTURES
from architectures.supervised.network import Network
from architectures.supervised.resnet import resnet
from schemes.core.node import Node
from schemes.core.scheme import Scheme
from schemes.core.state import State, VectorField


class Composition(Scheme):
    """u_{n+1} = f_n(u_n).

    Not registered: it is no method for u' = f, whatever the step size is. As a step it gives a plain network all that
    flows have: gradient modes, statistics of batch norm, counted evaluations, costates.
    """

    order = None
    stages = 1

    def step(
        self, f: VectorField, node: Node, y: State, solver_state: tuple[State, ...]
    ) -> tuple[State, tuple[State, ...]]:
        return f(node, y), solver_state


@ARCHITECTURES.register(
    "plain", extends="resnet", without=("scheme", "grid", "sharing", "statistics", "noise", "history"),
    sizes={
        "plain20": {"depth": 20},
        "plain56": {"depth": 56},
    },
)  # fmt: skip
def plain(num_classes: int = 10, in_chans: int = 3, **options: Any) -> Network:
    r"""The ResNet without the identity: the same blocks, one after the other, and as many parameters.

        u_{n+1} = f_n(u_n)      in place of      u_{n+1} = u_n + f_n(u_n)

    With ``activation=post`` a ReLU follows each block. Transitions between the stages are the ResNet's, with their
    shortcuts: they change the size of the state, so that no identity is in them. A control for what is said of residual
    networks and their gradients.

    Args:
        num_classes: of the head; 0 for none.
        in_chans: channels of the images.
        **options: as for :func:`architectures.supervised.resnet.resnet`.

    Reference: the plain networks of He, Zhang, Ren, Sun, CVPR 2016, arXiv:1512.03385, whose transitions have no
    shortcuts either.
    """
    return resnet(num_classes, in_chans, scheme=Composition, **options)
