"""Networks made of flows. Importing this imports no torch: each name is imported at its first use."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from architectures.costs.matching import match_budget
    from architectures.factory import create_model, for_scheme, list_models, networks_for_scheme
    from architectures.registry import ARCHITECTURES, FIELDS
    from architectures.supervised.insertion import insert
    from architectures.supervised.network import Network
    from architectures.timm_models import register_with_timm

_HOMES = {
    "ARCHITECTURES": "registry",
    "FIELDS": "registry",
    "Network": "supervised.network",
    "create_model": "factory",
    "for_scheme": "factory",
    "insert": "supervised.insertion",
    "list_models": "factory",
    "match_budget": "costs.matching",
    "networks_for_scheme": "factory",
    "register_with_timm": "timm_models",
}

__all__ = [
    "ARCHITECTURES", "FIELDS", "Network", "create_model", "for_scheme", "insert", "list_models",
    "match_budget", "networks_for_scheme", "register_with_timm",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'architectures' has no attribute {name!r}")
    return getattr(importlib.import_module(f"architectures.{_HOMES[name]}"), name)
