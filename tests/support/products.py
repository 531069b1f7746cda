"""Products of cases of which the gate runs a part, and `make test-all` all."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest

ONE_OF_A_KIND = (
    "forward_euler", "heun", "rk4", "dopri5", "linear_multistep", "symplectic_euler", "leapfrog", "reversible_heun",
    "backward_euler", "gl4", "fractal",
)  # fmt: skip
"""Schemes in the gate: one of each kind of step."""


def rest_is_slow(
    cases: Iterable[tuple[Any, ...]], in_gate: Callable[..., bool], name: Callable[..., str] | None = None
) -> list[Any]:
    """Each case as parameters of a test called ``name`` of it, marked slow where ``in_gate`` of it is false."""
    return [
        pytest.param(*case, id=name and name(*case), marks=[] if in_gate(*case) else pytest.mark.slow) for case in cases
    ]
