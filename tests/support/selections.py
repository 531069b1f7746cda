"""Which schemes, gradient modes and sharings a test runs on: all of them, or one of each kind."""

from __future__ import annotations

import contextlib
import functools
import itertools
from typing import Any

import pytest

from schemes.errors import SchemenetError
from schemes.flow import Flow
from schemes.registry import GRADIENTS, SCHEMES
from tests.support.problems import make_flow, spec_id

ONE_OF_A_KIND = (
    "forward_euler", "heun", "rk4", "dopri5", "linear_multistep", "symplectic_euler", "leapfrog", "reversible_heun",
    "backward_euler", "gl4", "fractal",
)  # fmt: skip
"""One scheme of each kind of step. What does not depend on the scheme runs on these."""

APPROXIMATE = {"adjoint"}
"""The modes that differentiate the ODE and not the network; all others must equal backprop."""
EXACT = [mode for mode in GRADIENTS if mode not in {"backprop", *APPROXIMATE}]

VARIANTS: list[Any] = [
    {"name": "linear_multistep", "scale": True},
    {"name": "linear_multistep", "k": 0.5, "scale": True},
    {"name": "backward_euler_poly", "degree": 3, "form": "mpoly"},
    {"name": "backward_euler_poly", "form": "way"},
    {"name": "fractal", "columns": 3, "drop_path": 0.4},
]
SPECS: list[Any] = [*SCHEMES.list(), *VARIANTS]

SHARINGS = ("shared", "per_step", "per_stage")
OF_TIME = {"name": "basis", "kind": "legendre", "size": 2}
"""Weights that are functions of time."""


@functools.cache
def accepted_combinations() -> list[tuple[str, Any, Any]]:
    """The gradient modes, schemes and sharings that make a flow: every sharing for one scheme of a kind.

    Others are tried with shared weights, and with other sharings where they accept none.
    """
    cases = []
    for mode, spec, sharing in itertools.product(GRADIENTS, SPECS, (*SHARINGS, OF_TIME)):
        if sharing != "shared" and spec_id(spec) not in ONE_OF_A_KIND and (mode, spec, "shared") in cases:
            continue
        with contextlib.suppress(SchemenetError):
            make_flow(scheme=spec, gradient=mode, sharing=sharing, steps=2)
            cases.append((mode, spec, sharing))
    return cases


def pairs(modes: Any, one_of_a_kind: bool = False) -> list[Any]:
    """Modes with the schemes that they accept where all steps share weights."""
    chosen = [(mode, spec) for mode, spec, sharing in accepted_combinations() if mode in modes and sharing == "shared"]
    return [
        pytest.param(mode, spec, id=f"{mode}-{spec_id(spec)}")
        for mode, spec in chosen
        if not one_of_a_kind or spec_id(spec) in ONE_OF_A_KIND
    ]


def triples(modes: Any) -> list[Any]:
    """Modes with the schemes and sharings that they accept, see :func:`accepted_combinations`."""
    return [
        pytest.param(mode, spec, sharing, id=f"{mode}-{spec_id(spec)}-{spec_id(sharing)}")
        for mode, spec, sharing in accepted_combinations()
        if mode in modes
    ]


def copy_with(flow: Flow, **options: Any) -> Flow:
    """A flow made with other options, and with the weights and buffers of this one."""
    other = make_flow(**options)
    other.load_state_dict(flow.state_dict())
    return other
