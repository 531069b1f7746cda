"""Refinement: the weights of a trained network, functions of time, in another basis and over other steps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from architectures.model import Model
from schemes.core.node import Node
from schemes.errors import SchemenetError
from schemes.flow import Flow
from schemes.sharing.base import Group
from schemes.sharing.function_bases import NEAR, projection


class Projection(NamedTuple):
    """One parameter of a field as a function of time, in two bases.

    Attributes:
        old: names of the parameters in the trained network, one for each function.
        new: names in the other one.
        matrix: (new, old), the L2 projection.
    """

    old: tuple[str, ...]
    new: tuple[str, ...]
    matrix: Tensor

    def __call__(self, values: list[Tensor]) -> list[Tensor]:
        """The coefficients in the new basis."""
        stacked = torch.stack(values).double()
        projected = torch.tensordot(self.matrix.to(stacked.device), stacked, 1)
        return [value.to(values[0].dtype) for value in projected]


def is_refinable(trained: Model, refined: Model) -> bool:
    """Whether one of two networks has weights in a basis of functions, so that refinement and no insertion is meant."""
    flows = [flow for network in (trained, refined) for flow in network.flows]
    return any(isinstance(flow, Flow) and flow.sharing.name == "basis" for flow in flows)


@torch.no_grad()
def refine(trained: Model, refined: Model) -> list[Projection]:
    """Give a network the weights of a trained one whose steps, or basis of weights, are others.

    Each parameter of a field is a function theta(t / T) of time: constant where weights are shared, constant in each
    step where they are per step. It is projected in L2 to the basis of ``refined``; where that one contains it, nothing
    but the steps changes. Statistics of norms are functions of time too, and interpolated between the nodes of the
    trained network. Stem, transitions and head are copied.

    Args:
        trained: the network whose weights are taken.
        refined: a network that differs in steps, grid, scheme and sharing alone; it is changed in place.

    Returns:
        The projections, by which what belongs to the parameters (moments of an optimiser) goes over too.

    Raises:
        SchemenetError: where the networks differ in more than that.

    Reference: Queiruga, Erichson, Hodgkinson, Mahoney, "Stateful ODE-Nets using Basis Function Expansions", NeurIPS
    2021, arXiv:2106.10820.
    """
    if len(trained.flows) != len(refined.flows):
        raise SchemenetError(
            f"refine: the trained network has {len(trained.flows)} flows, the other {len(refined.flows)}"
        )
    flows = {name: module for name, module in refined.named_modules() if isinstance(module, Flow)}
    before = {name: module for name, module in trained.named_modules() if isinstance(module, Flow)}
    inside = tuple(f"{name}." for name in flows)
    outer = {name: value for name, value in trained.state_dict().items() if not name.startswith(inside)}
    state = refined.state_dict()
    different = [name for name, value in outer.items() if name not in state or state[name].shape != value.shape]
    if different:
        first = different[0]
        got = f"has shape {tuple(state[first].shape)}" if first in state else "is missing"
        others = f", and {len(different) - 1} others differ" if len(different) > 1 else ""
        raise SchemenetError(
            f"refine: {first} {got}, the trained one has {tuple(outer[first].shape)}{others}; the networks differ in "
            "more than their steps and sharing"
        )
    projections: list[Projection] = []
    try:
        refined.load_state_dict({**state, **outer})
        for name, new in flows.items():
            old = before[name]
            _copy_coefficients(old, new)
            projections += _projections(name, old, new)
            _interpolate_statistics(old, new)
    except (RuntimeError, KeyError) as error:
        text = f"one has no {error}" if isinstance(error, KeyError) else " ".join(str(error).split())
        raise SchemenetError(f"refine: the networks differ in more than their steps and sharing: {text}") from error
    sources, targets = dict(trained.named_parameters()), dict(refined.named_parameters())
    for each in projections:
        for target, value in zip(each.new, each([sources[name] for name in each.old]), strict=True):
            if targets[target].shape != value.shape:
                raise SchemenetError(
                    f"refine: {target} has shape {tuple(targets[target].shape)}, the trained one {tuple(value.shape)}; "
                    "the networks differ in more than their steps and sharing"
                )
            targets[target].copy_(value)
    return projections


def _projections(name: str, old: Flow, new: Flow) -> Iterator[Projection]:
    """Of the parameters of one flow, named as in the network."""
    of_old, of_new = old.sharing.functions(), new.sharing.functions()
    for flow, functions in ((old, of_old), (new, of_new)):
        if functions is None:
            raise SchemenetError(
                f"refine: with sharing={flow.sharing.name} weights are no function of time; use sharing=basis, shared "
                "or per_step"
            )
    if old.scheme.components != new.scheme.components:
        raise SchemenetError(
            f"refine: {type(old.scheme).__name__} and {type(new.scheme).__name__} differ in the parts of a coupled "
            "state"
        )
    assert of_old is not None
    assert of_new is not None
    matrix = projection(of_old, of_new)
    for component in range(new.scheme.components):
        names = [
            [_names(name, flow, flow.sharing.group_of(k, component)) for k in range(functions.size)]
            for flow, functions in ((old, of_old), (new, of_new))
        ]
        for parameter in names[1][0]:
            before, after = (tuple(each[parameter] for each in of_flow) for of_flow in names)
            yield Projection(before, after, matrix)


def _names(prefix: str, flow: Flow, group: Group) -> Mapping[str, str]:
    """The parameters of the field of a group: their names in it, and in the network."""
    field = flow.bank.groups[group]
    index = next(i for i, other in enumerate(flow.bank.fields) if other is field)
    return {name: f"{prefix}.bank.fields.{index}.{name}" for name, _ in field.named_parameters()}


def _copy_coefficients(old: Flow, new: Flow) -> None:
    if next(new.scheme.parameters(), None) is not None or next(old.scheme.parameters(), None) is not None:
        new.scheme.load_state_dict(old.scheme.state_dict())


def _interpolate_statistics(old: Flow, new: Flow) -> None:
    """Buffers at the nodes of a flow, linear in time between those of the trained one at the same stage."""
    for node in new.visits:
        field = new.bank.at(node)
        if next(field.buffers(), None) is None:
            continue
        places = sorted(
            (n for n in old.visits if n.component == node.component and n.stage == node.stage), key=lambda n: n.t
        ) or sorted((n for n in old.visits if n.component == node.component), key=lambda n: n.t)
        (before, after), share = _neighbours(places, node.t / new.time * old.time)
        first, second = (dict(old.bank.at(n).named_buffers()) for n in (before, after))
        for name, buffer in field.named_buffers():
            if buffer.is_floating_point():
                buffer.copy_(torch.lerp(first[name], second[name], share))
            else:
                buffer.copy_(first[name])


def _neighbours(places: list[Node], t: float) -> tuple[tuple[Node, Node], float]:
    """The nodes before and after a time, and the share of the way between them; at the ends the outermost twice."""
    earlier = [n for n in places if n.t <= t + NEAR]
    later = [n for n in places if n.t > t + NEAR]
    if not earlier or not later:
        end = (earlier or later)[-1 if earlier else 0]
        return (end, end), 0.0
    before, after = earlier[-1], later[0]
    if abs(t - before.t) <= NEAR:
        return (before, before), 0.0
    return (before, after), (t - before.t) / (after.t - before.t)


def projected(
    state: Mapping[str, Tensor], projections: Sequence[Projection], floor: float | None = None
) -> dict[str, Tensor]:
    """Tensors by the names of parameters, in the new basis; those that no projection names are kept.

    Args:
        state: such as moments of an optimiser.
        projections: that :func:`refine` returned.
        floor: the least value, such as 0 for second moments.
    """
    taken = {name for each in projections for name in each.old}
    result = {name: value for name, value in state.items() if name not in taken}
    for each in projections:
        if all(name in state for name in each.old):
            values = each([state[name] for name in each.old])
            result |= zip(each.new, values if floor is None else [v.clamp_min(floor) for v in values], strict=True)
    return result
