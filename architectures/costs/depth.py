"""Depth of a network as the option of its architecture that sets it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from architectures.arguments import depth_of, field_facts
from architectures.model import Model
from architectures.registry import ARCHITECTURES
from schemes.errors import SchemenetError

MOST = 256


class Depth(NamedTuple):
    """The option that sets the depth, its value for n = 1, 2, ... ``most``, and the n of the network."""

    option: str
    value: Callable[[int], Any]
    current: int
    most: int = MOST


def depth_in(name: str, network: Model, options: Mapping[str, Any]) -> Depth:
    """The depth of ``network``, which was built from ``name`` and ``options``.

    n counts blocks of a stage (``depth``, as a number of layers or as a list whose largest entry n is, the others in
    proportion), steps of a flow (``steps``), or columns of a fractal (``columns``).

    Raises:
        SchemenetError: for a network without flows, or whose solver finds its steps.
    """
    values = {**ARCHITECTURES.defaults(name), **options}
    takes = ARCHITECTURES.options(name)
    if not any(flow.adaptive for flow in network.flows):
        if "depth" in takes:
            return _of_blocks(name, values, network)
        if "steps" in takes:
            return Depth("steps", int, values["steps"])
        if "columns" in takes:
            return Depth("columns", int, values["columns"], most=7)  # whose columns are 64 units deep
    reason = "the solver finds its steps" if network.flows else "it has no flow"
    raise SchemenetError(f"architecture {name!r} has no depth to match a budget with: {reason}; match it by width")


def _of_blocks(name: str, values: Mapping[str, Any], network: Model) -> Depth:
    depth = values["depth"]
    if not isinstance(depth, int):
        return Depth("depth", lambda n: [max(1, round(blocks * n / max(depth))) for blocks in depth], max(depth))
    layout, branches = network.layout, ARCHITECTURES.entry(name).facts.get("branches", 1)
    layers = branches * field_facts(values["field"]).convolutions * len(layout["widths"])
    return Depth("depth", lambda n: depth_of(n, layers), (depth - depth_of(0, layers)) // layers)
