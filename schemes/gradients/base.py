"""What a gradient mode is."""

from __future__ import annotations

import abc
from typing import TYPE_CHECKING

from schemes.base import Scheme

if TYPE_CHECKING:
    from schemes.flow import Carry, Loop


class GradientMode(abc.ABC):
    """Takes the loop's steps from a carry (state, memory) to the last one, differentiably. Step sizes are constants."""

    def refuses(self, scheme: Scheme, sharing: str, projected: bool) -> str | None:
        """The reason why this mode cannot differentiate a scheme with this sharing of weights; None where it can.

        ``projected`` says that each step ends with a projection (post-activation).
        """
        return None

    @abc.abstractmethod
    def __call__(self, loop: Loop, carry: Carry) -> Carry: ...
