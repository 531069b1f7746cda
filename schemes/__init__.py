"""Numerical schemes, flows and their gradients. Importing this imports no torch; names are found when asked for."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from schemes.bank import FieldBank
    from schemes.base import Scheme
    from schemes.errors import SchemenetError, SolverError
    from schemes.flow import Flow
    from schemes.initial_value import solve
    from schemes.node import Node
    from schemes.registry import GRADIENTS, GRIDS, NOISES, SCHEMES
    from schemes.solution import Solution
    from schemes.stability import stability_intervals
    from schemes.tableau import ButcherTableau
    from schemes.torchdiffeq_calls import odeint, odeint_adjoint, odeint_dense, odeint_event

_HOMES = {
    "ButcherTableau": "tableau", "FieldBank": "bank", "Flow": "flow", "GRADIENTS": "registry", "GRIDS": "registry",
    "NOISES": "registry", "Node": "node", "SCHEMES": "registry", "Scheme": "base", "SchemenetError": "errors",
    "Solution": "solution", "SolverError": "errors", "solve": "initial_value", "stability_intervals": "stability",
    **dict.fromkeys(("odeint", "odeint_adjoint", "odeint_dense", "odeint_event"), "torchdiffeq_calls"),
}  # fmt: skip

__all__ = [
    "GRADIENTS", "GRIDS", "NOISES", "SCHEMES", "ButcherTableau", "FieldBank", "Flow", "Node", "Scheme",
    "SchemenetError", "Solution", "SolverError", "odeint", "odeint_adjoint", "odeint_dense", "odeint_event", "solve",
    "stability_intervals",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'schemes' has no attribute {name!r}")
    return getattr(importlib.import_module(f"schemes.{_HOMES[name]}"), name)
