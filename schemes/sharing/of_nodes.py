"""Sharings that give each group of nodes weights for itself."""

from __future__ import annotations

from collections.abc import Sequence

from schemes.core.node import Node
from schemes.registry import SHARINGS
from schemes.sharing.base import Group, Sharing, Terms
from schemes.sharing.function_bases import FunctionBasis, PiecewiseConstant


@SHARINGS.register("per_step")
class PerStep(Sharing):
    """Weights for each step, and each component of a coupled state: ResNet."""

    name = "per_step"
    of_steps = True
    steps = 0

    def allocate(self, time: float, nodes: Sequence[Node]) -> None:
        self.steps = len(nodes)

    def functions(self) -> FunctionBasis | None:
        return PiecewiseConstant(self.steps) if self.steps else None

    def terms(self, node: Node) -> Terms:
        return (((node.step, node.component), 1.0),)


@SHARINGS.register("shared")
class Shared(Sharing):
    """One set of weights at all times, for each component of a coupled state: ODE-Net."""

    name = "shared"

    def functions(self) -> FunctionBasis | None:
        return PiecewiseConstant(1)

    def group_of(self, index: int, component: int) -> Group:
        return (component,)

    def terms(self, node: Node) -> Terms:
        return (((node.component,), 1.0),)


@SHARINGS.register("per_stage")
class PerStage(Sharing):
    """Weights for each stage of each step: FractalNet."""

    name = "per_stage"
    of_steps = True
    of_stages = True

    def terms(self, node: Node) -> Terms:
        return ((node.place, 1.0),)
