"""Products of cases of which the gate runs a part, and `make test-all` all."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest


def rest_is_slow(
    cases: Iterable[tuple[Any, ...]], in_gate: Callable[..., bool], name: Callable[..., str] | None = None
) -> list[Any]:
    """Each case as parameters of a test called ``name`` of it, marked slow where ``in_gate`` of it is false."""
    return [
        pytest.param(*case, id=name and name(*case), marks=[] if in_gate(*case) else pytest.mark.slow) for case in cases
    ]
