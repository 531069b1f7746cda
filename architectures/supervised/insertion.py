"""Initialisation by insertion: a deeper network from a trained one (PolyNet)."""

from __future__ import annotations

import torch

from architectures.model import Model
from schemes.errors import SchemenetError
from schemes.flow import Flow


def insert(trained: Model, grown: Model) -> Model:
    """Copy the weights of a trained network into a deeper one of the same layout.

    Stem, transitions, head and steps are copied, the steps spread evenly over each flow, so that the new ones stand
    between them: "first train the network without them, then insert". Steps that ``grown`` has in addition keep their
    initialisation; so does what belongs to a stage that the trained scheme lacks (ResNet into poly-2). Of flows along
    given times, which have no steps, all weights are copied.

    Args:
        trained: the network whose weights are taken.
        grown: a network that differs in depth and scheme alone; it is changed in place.

    Returns:
        ``grown``.

    Raises:
        SchemenetError: where a weight has another shape, or a flow fewer steps.

    Reference: Zhang, Li, Loy, Lin, "PolyNet", CVPR 2017, arXiv:1611.05725, section 5 (training).
    """
    if len(trained.flows) != len(grown.flows):
        raise SchemenetError(
            f"insert: the trained network has {len(trained.flows)} flows, the other {len(grown.flows)}"
        )
    fields = {name for name, module in grown.named_modules() if isinstance(module, Flow)}
    outside = {k: v for k, v in trained.state_dict().items() if not any(k.startswith(f"{name}.") for name in fields)}
    try:
        grown.load_state_dict({**grown.state_dict(), **outside})
        for old, new in zip(trained.flows, grown.flows, strict=True):
            if isinstance(new, Flow):
                _insert_steps(old, new)
    except RuntimeError as error:
        raise SchemenetError(f"insert: the networks differ in more than their steps: {error}") from error
    return grown


@torch.no_grad()
def _insert_steps(old: Flow, new: Flow) -> None:
    if old.adaptive or new.adaptive:
        _copy_field(old, new)
        return
    if len(old.nodes) > len(new.nodes):
        raise SchemenetError(f"insert: a flow of {len(old.nodes)} trained steps does not fit into {len(new.nodes)}")
    places = {node.place: node for node in old.visits}
    position = {index * len(new.nodes) // len(old.nodes): index for index in range(len(old.nodes))}
    for node in new.visits:
        source = places.get((position.get(node.step, -1), node.stage, node.component))
        if source is not None:
            new.bank.at(node).load_state_dict(old.bank.at(source).state_dict())


def _copy_field(old: Flow, new: Flow) -> None:
    """Where the steps are not known, one field serves at all times, in both flows."""
    if (owner := next((flow for flow in (old, new) if flow.sharing.name != "shared"), None)) is not None:
        raise SchemenetError(
            "insert: on an adaptive grid one field serves at all times, and a flow with "
            f"sharing={owner.sharing.name} has several; use sharing=shared in both networks"
        )
    for key, field in new.bank.groups.items():
        field.load_state_dict(old.bank.groups[key].state_dict())
