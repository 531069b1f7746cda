"""What a gradient mode is."""

from __future__ import annotations

import abc
from typing import TYPE_CHECKING

from schemes.base import Scheme

if TYPE_CHECKING:
    from schemes.flow import Carry, Loop


class GradientMode(abc.ABC):
    """Takes the loop's steps from a carry (state, memory) to the last one, differentiably. Step sizes are constants."""

    def refuses(self, scheme: Scheme, projected: bool = False) -> str | None:
        """The reason why this mode cannot differentiate a scheme (its steps projected); None where it can."""
        return None

    @abc.abstractmethod
    def __call__(self, loop: Loop, carry: Carry) -> Carry: ...
