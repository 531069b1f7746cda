"""One resolution level of a network, integrated in time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from schemes.bank import SHARING, FieldBank, visited
from schemes.base import Scheme
from schemes.errors import SchemenetError, unknown
from schemes.node import Node
from schemes.noise.base import Blocks, Noise
from schemes.registry import GRADIENTS, GRIDS, NOISES, SCHEMES
from schemes.signature import Spec
from schemes.state import RightHandSide, State
from schemes.weighted import Weighted, Weights

Carry = tuple[State, tuple[State, ...]]


@dataclass(frozen=True)
class Loop:
    """What a gradient mode is handed: the steps still to be taken, and the module that owns their tensors."""

    scheme: Scheme
    f: FieldBank
    nodes: Sequence[Node]
    module: nn.Module
    projection: Callable[[Tensor], Tensor] | None = None
    weights: Weights = field(default_factory=dict)

    def weighted(self, f: RightHandSide) -> RightHandSide:
        """f with the weights that noise has drawn for this pass."""
        return Weighted(f, self.weights) if self.weights else f

    def step(self, node: Node, carry: Carry, f: RightHandSide | None = None) -> Carry:
        y, memory = self.scheme.step(self.weighted(f or self.f), node, *carry)
        return (y if self.projection is None else self.projection(y)), memory

    def inverse(self, node: Node, carry: Carry, f: RightHandSide | None = None) -> Carry:
        return self.scheme.inverse(self.weighted(f or self.f), node, *carry)

    def run(self, carry: Carry) -> Carry:
        """All steps, one after the other."""
        for node in self.nodes:
            carry = self.step(node, carry)
        return carry


class Flow(nn.Module):
    """Integrates u' = f(t, u) over [0, T]: scheme x field x sharing x grid x gradient, and noise on the steps.

    ``make(node)`` makes the field that serves at a node (see ``schemes.bank``). ``scheme``, ``grid``,
    ``gradient`` and ``noise`` are names or mappings with parameters; ``steps`` is the number of steps where the grid
    does not set one. ``sharing`` None takes what the scheme wants. ``past`` older states are handed to ``forward`` by
    what precedes.
    ``projection`` is applied to the state after each step: with a ReLU, the post-activation network
    u_{n+1} = P(u_n + h f(u_n)) is projected Euler on the cone u >= 0. ``blocks`` says where the steps stand in the
    network (index of the first, number of all), for noise that grows with depth; None: they are all there are.

    Input and output: (batch, channels, ...) tensors; a coupled scheme splits the channels into equal components inside
    and joins them at the end. With ``remember`` the output is that and the scheme's memory after the last step.
    """

    def __init__(
        self,
        make: Callable[[Node], nn.Module],
        steps: int,
        scheme: Spec = "forward_euler",
        sharing: str | None = None,
        grid: Spec = "uniform",
        gradient: Spec = "backprop",
        statistics: str = "per_node",
        past: int = 0,
        projection: nn.Module | None = None,
        noise: Spec = "none",
        blocks: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        self.scheme: Scheme = SCHEMES.build(scheme)
        self.gradient: Any = GRADIENTS.build(gradient)
        self.nodes: tuple[Node, ...] = GRIDS.build(grid).nodes(steps)
        sharing = sharing or self.scheme.sharing
        if sharing not in SHARING:
            raise SchemenetError(unknown("sharing", sharing, SHARING))
        if projection is not None and self.scheme.components > 1:
            raise SchemenetError(
                f"a coupled state ({type(self.scheme).__name__}) has no post-activation projection; use activation=pre"
            )
        self.noise: Noise = NOISES.build(noise)
        self.blocks = Blocks(*(blocks or (0, len(self.nodes))))
        self.projection, self.sharing, self.statistics = projection, sharing, statistics
        if (reason := self.noise.refuses(self.scheme) or self.gradient.refuses(self)) is not None:
            raise SchemenetError(reason)
        self.scheme.prepare(len(self.nodes), past)
        self.visits = tuple(visited(self.scheme, self.nodes))
        self.bank = FieldBank(make, self.visits, sharing, statistics)

    def forward(self, x: Tensor, past: tuple[Tensor, ...] = (), remember: bool = False) -> Any:
        parts = self.scheme.components
        if x.shape[1] % parts:
            raise SchemenetError(
                f"scheme {type(self.scheme).__name__} splits the channels into {parts} equal components, got "
                f"{x.shape[1]} channels; use a width that {parts} divides"
            )
        y = x if parts == 1 else x.chunk(parts, dim=1)
        carry = (y, self.scheme.start(y, past))
        weights = self.noise.draw(self.visits, self.blocks, x, self.training)
        y, memory = self.gradient(Loop(self.scheme, self.bank, self.nodes, self, self.projection, weights), carry)
        y = y if parts == 1 else torch.cat(y, dim=1)
        return (y, memory) if remember else y

    def extra_repr(self) -> str:
        return f"steps={len(self.nodes)}, h={self.nodes[0].h:g}, sharing={self.bank.sharing}"
