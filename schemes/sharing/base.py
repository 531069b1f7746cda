"""Sharing: which weights serve at a node."""

from __future__ import annotations

import abc
from collections.abc import Hashable, Sequence
from typing import Any, ClassVar, TypeAlias

from schemes.core.node import Node
from schemes.sharing.function_bases import FunctionBasis

Group: TypeAlias = Hashable
"""What stands for one set of weights."""

Terms: TypeAlias = tuple[tuple[Group, Any], ...]
"""Sets of weights, each with its coefficient: a number, or a tensor without dimensions where times are tensors."""


class Sharing(abc.ABC):
    """The weights of a node: theta(node) = sum over groups of coefficient x weights.

    A subclass sets ``name``, as it is registered, and ``of_steps`` to True where weights belong to steps, which then
    have to be known before the solve; ``of_stages`` where they belong to single stages.
    """

    name: ClassVar[str]
    of_steps: ClassVar[bool] = False
    of_stages: ClassVar[bool] = False

    @abc.abstractmethod
    def terms(self, node: Node) -> Terms:
        """The sets of weights that serve at a node, those with the coefficient 0 left out."""

    def group(self, node: Node) -> Group:
        """The set of weights with the largest coefficient: of its field a node takes everything but the weights."""
        return self.terms(node)[0][0]

    def allocate(self, time: float, nodes: Sequence[Node]) -> None:  # noqa: B027  # most need neither
        """Set the interval [0, time] of a flow, and its steps where they are known."""

    def groups(self, components: int) -> Sequence[Group]:
        """All groups, where they do not depend on the steps; those that no node uses have weights too."""
        return ()

    def begins_at_zero(self, group: Group) -> bool:
        """Whether the weights of a group are zero at first."""
        return False

    def functions(self) -> FunctionBasis | None:
        """The functions of time, on [0, 1], whose sum the weights are; None where they are no function of time."""
        return None

    @property
    def is_constant(self) -> bool:
        """Whether the weights are known to be the same at all times."""
        functions = self.functions()
        return functions is not None and functions.size == 1

    def group_of(self, index: int, component: int) -> Group:
        """The group of the coefficient of one of the functions."""
        return index, component

    @property
    def described(self) -> str:
        """The sharing in a word or two, for tables."""
        return self.name

    @property
    def jumps(self) -> tuple[float, ...]:
        """Times in (0, T) at which weights jump, and with them f."""
        return ()

    @property
    def kinks(self) -> tuple[float, ...]:
        """Times in (0, T) at which a derivative of the weights jumps."""
        return ()
