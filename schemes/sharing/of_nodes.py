"""Sharings that give each group of nodes weights for itself."""

from __future__ import annotations

from schemes.core.node import Node
from schemes.registry import SHARINGS
from schemes.sharing.base import Sharing, Terms


@SHARINGS.register("per_step")
class PerStep(Sharing):
    """Weights for each step, and each component of a coupled state: ResNet."""

    name = "per_step"
    of_steps = True

    def terms(self, node: Node) -> Terms:
        return (((node.step, node.component), 1.0),)


@SHARINGS.register("shared")
class Shared(Sharing):
    """One set of weights at all times, for each component of a coupled state: ODE-Net."""

    name = "shared"

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
