"""Numerical schemes, flows and their gradients. Importing this imports no torch: names are imported on first use."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from schemes.analysis.costates import costates
    from schemes.analysis.stability import stability_intervals
    from schemes.core.node import Node
    from schemes.core.scheme import Scheme
    from schemes.core.tableau import ButcherTableau
    from schemes.errors import SchemenetError, SolverError
    from schemes.field_bank import FieldBank
    from schemes.flow import Flow
    from schemes.ivp.solution import Solution
    from schemes.ivp.solve import solve
    from schemes.ivp.torchdiffeq_api import odeint, odeint_adjoint, odeint_dense, odeint_event
    from schemes.registry import GRADIENTS, GRIDS, NOISES, SCHEMES, SHARINGS

_HOMES = {
    "ButcherTableau": "core.tableau",
    "FieldBank": "field_bank",
    "Flow": "flow",
    "GRADIENTS": "registry",
    "GRIDS": "registry",
    "NOISES": "registry",
    "Node": "core.node",
    "SCHEMES": "registry",
    "SHARINGS": "registry",
    "Scheme": "core.scheme",
    "SchemenetError": "errors",
    "Solution": "ivp.solution",
    "SolverError": "errors",
    "costates": "analysis.costates",
    "odeint": "ivp.torchdiffeq_api",
    "odeint_adjoint": "ivp.torchdiffeq_api",
    "odeint_dense": "ivp.torchdiffeq_api",
    "odeint_event": "ivp.torchdiffeq_api",
    "solve": "ivp.solve",
    "stability_intervals": "analysis.stability",
}

__all__ = [
    "GRADIENTS", "GRIDS", "NOISES", "SCHEMES", "SHARINGS", "ButcherTableau", "FieldBank", "Flow", "Node", "Scheme",
    "SchemenetError", "Solution", "SolverError", "costates", "odeint", "odeint_adjoint", "odeint_dense", "odeint_event",
    "solve", "stability_intervals",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'schemes' has no attribute {name!r}")
    return getattr(importlib.import_module(f"schemes.{_HOMES[name]}"), name)
