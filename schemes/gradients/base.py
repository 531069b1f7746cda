"""What a gradient mode is."""

from __future__ import annotations

import abc
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from schemes.base import Scheme
    from schemes.flow import Flow
    from schemes.loop import Carry, Loop, Pass


class GradientMode(abc.ABC):
    """Takes the loop's steps from a carry (state, memory) to the last one, differentiably. Step sizes are constants."""

    def refuses(self, flow: Flow) -> str | None:
        """The reason why this mode cannot differentiate a flow with its axes; None where it can."""
        return None

    def refuses_scheme(self, scheme: Scheme) -> str | None:
        """The part of :meth:`refuses` that is the scheme's, for an initial value problem."""
        return None

    @abc.abstractmethod
    def __call__(self, loop: Loop, carry: Carry) -> Pass: ...
