"""Field bank: the right-hand side made of modules, and which weights serve at which node."""

from __future__ import annotations

import copy
import inspect
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from schemes.core.node import Node
from schemes.core.random_state import unmoved_random_state
from schemes.core.scheme import Scheme
from schemes.core.state import State, VectorField, flatten
from schemes.errors import SchemenetError, unknown
from schemes.registry import SHARINGS
from schemes.schema import Spec
from schemes.sharing.base import Group, Sharing

Statistics = Literal["per_node", "shared", "per_node_affine"]


class PlainField(nn.Module):
    """A module with ``forward(y)`` or ``forward(t, y)`` as a field, which gets its node."""

    def __init__(self, module: nn.Module, takes_time: bool) -> None:
        super().__init__()
        self.module, self.takes_time = module, takes_time

    def forward(self, node: Node, y: State) -> State:
        return self.module(node.t, y) if self.takes_time else self.module(y)


def as_field(module: nn.Module) -> nn.Module:
    """A module as a field, ``forward(node, y)``.

    Args:
        module: with ``forward(y)``, ``forward(t, y)``, whose first parameter is called ``t`` or ``time``, or
            ``forward(node, y)``, which is returned as it is.

    Raises:
        SchemenetError: for another object, or a ``forward`` with other parameters.
    """
    if not isinstance(module, nn.Module) or isinstance(module, Scheme):
        raise SchemenetError(f"a field is a torch.nn.Module, and no scheme, got {module!r}")
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = inspect.signature(module.forward).parameters.values()
    required = [p.name for p in parameters if p.kind in kinds and p.default is p.empty]
    if any(p.kind is p.VAR_POSITIONAL for p in parameters) or not required:
        return module
    if len(required) > 2:
        raise SchemenetError(
            f"field {type(module).__name__}: expected forward(y), forward(t, y) or forward(node, y), got "
            f"forward({', '.join(required)})"
        )
    takes_time = required[0] in ("t", "time")
    return PlainField(module, takes_time) if len(required) == 1 or takes_time else module


class _Fields(nn.ModuleList):
    """Fields that find their entries of a state dict in one pass over it.

    torch looks through all entries of a module for those of each of its children, which for n fields takes a time
    quadratic in n. Here each field receives its entries from a hook, and torch has none left to look through.
    """

    def __init__(self, fields: Iterable[nn.Module] | None = None) -> None:
        super().__init__(fields)
        self._loading: list[RemovableHandle] = []
        self.register_load_state_dict_post_hook(_Fields._end_loading)

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: Any,
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )
        entries: dict[str, dict[str, Any]] = {f"{prefix}{name}.": {} for name in self._modules}
        for key in list(state_dict):
            of_field = entries.get(f"{prefix}{key[len(prefix) :].partition('.')[0]}.")
            if of_field is not None:
                of_field[key] = state_dict.pop(key)

        def receive(_: nn.Module, state_dict: dict[str, Any], prefix: str, *__: Any) -> None:
            state_dict.update(entries.pop(prefix, {}))

        self._end_loading()  # where an earlier load has failed
        for field in self:
            handle = field.register_load_state_dict_pre_hook(receive)
            hooks: Any = field._load_state_dict_pre_hooks  # an OrderedDict
            hooks.move_to_end(handle.id, last=False)  # before those that rename entries
            self._loading.append(handle)

    def _end_loading(self, *_: Any) -> None:
        while self._loading:
            self._loading.pop().remove()


class FieldBank(nn.Module):
    """f(node, y), with the module chosen by the node, or its weights mixed from those of several modules.

    A field with buffers that serves at several nodes has a *twin* for each of the others: the same parameters, buffers
    of its own. So batch norm keeps its running statistics per visited node (with one set, evaluation normalises by the
    average of different distributions: the network trains and then fails), whatever kind of norm it is, while
    parameter counts do not change.

    Args:
        make: makes a field for the first node of each group of nodes that share weights (see :func:`as_field`).
        nodes: all nodes at which f will be evaluated.
        sharing: one group a step and component (``per_step``, ResNet), one a component (``shared``, ODE-Net), one a
            node (``per_stage``, FractalNet), or weights that are functions of time (``basis``); see
            ``schemes.sharing``. An object has to be allocated.
        statistics: ``per_node`` has twins; ``shared`` is the control without them; with ``per_node_affine`` a twin has
            the affine weights of its norms (all parameters of modules with buffers) for itself too, as the released
            PolyNet has.
    """

    def __init__(
        self,
        make: Callable[[Node], nn.Module],
        nodes: Sequence[Node],
        sharing: Spec = "per_step",
        statistics: str = "per_node",
    ) -> None:
        super().__init__()
        if statistics not in get_args(Statistics):
            raise SchemenetError(unknown("statistics", statistics, get_args(Statistics)))
        self.sharing: Sharing = SHARINGS.built(sharing)
        self.statistics = statistics
        if statistics == "per_node_affine" and self.sharing.groups(1):
            raise SchemenetError(
                f"statistics=per_node_affine gives weights to nodes, and sharing={self.sharing.name} makes them "
                "functions of time; use statistics=per_node"
            )
        self.fields = _Fields()
        self._twin_of: dict[int, int] = {}
        self._by_weights: dict[Group, int] = {}
        self._by_place: dict[tuple[int, int, int], int] = {}
        served = set[Group]()
        places = dict[int, int]()  # of the modules that were made so far, by identity
        for node in nodes:
            for group, _ in self.sharing.terms(node):
                self._make(group, make, node, places)
            if node.place not in self._by_place:
                group = self.sharing.group(node)
                first = self._by_weights[group]
                has_twin = (
                    group in served and statistics != "shared" and next(self.fields[first].buffers(), None) is not None
                )
                self._by_place[node.place] = len(self.fields) if has_twin else first
                if has_twin:
                    self._twin_of[len(self.fields)] = first
                    self.fields.append(self._twin(self.fields[first]))
                served.add(group)
        for group in self.sharing.groups(1 + max(node.component for node in nodes)):
            self._make(group, make, nodes[-1], places)
        self.set_zero_groups()
        self._reused = {i for i, count in Counter(self._by_place.values()).items() if count > 1}
        self.register_state_dict_post_hook(_each_weight_once)
        self.register_load_state_dict_pre_hook(_weights_of_twins)
        self.register_load_state_dict_post_hook(FieldBank._tie)  # assign=True makes new parameters as well

    def _make(self, group: Group, make: Callable[[Node], nn.Module], node: Node, places: dict[int, int]) -> None:
        if group not in self._by_weights:
            module = make(node)
            index = self._by_weights[group] = places.setdefault(id(module), len(self.fields))
            if index == len(self.fields):
                self.fields.append(as_field(module))
                places[id(self.fields[index])] = index

    @torch.no_grad()
    def set_zero_groups(self) -> None:
        """Set the weights of the groups that begin at zero to it: at first, and after an initialisation of all."""
        for group, index in self._by_weights.items():
            if self.sharing.begins_at_zero(group):
                for parameter in self.fields[index].parameters():
                    parameter.zero_()

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> FieldBank:
        # Between the meta device and a real one torch makes new parameters, one for each of their places.
        super()._apply(fn, recurse)
        self._tie()
        return self

    def _tie(self, *_: Any) -> None:
        """Give twins the parameters of their fields again."""
        for copied, first in self._twin_of.items():
            for module, original in zip(self.fields[copied].modules(), self.fields[first].modules(), strict=True):
                for name, parameter in self._tied(original):
                    setattr(module, name, parameter)

    def _tied(self, part: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
        """The parameters of one module of a field that a twin has in common with it."""
        if self.statistics != "per_node_affine" or next(part.buffers(recurse=False), None) is None:
            yield from part.named_parameters(recurse=False)

    def _twin(self, field: nn.Module) -> nn.Module:
        """A copy with the very same parameters, but for those that a twin has for itself, and its own buffers."""
        return copy.deepcopy(field, {id(p): p for part in field.modules() for _, p in self._tied(part)})

    @property
    def groups(self) -> dict[Group, nn.Module]:
        """For each group of nodes that share weights the field that was made for it, whose twins the others are."""
        return {key: self.fields[index] for key, index in self._by_weights.items()}

    def at(self, node: Node) -> nn.Module:
        """The module of a node; one that was not visited forward (an adjoint's start) gets its group's first."""
        return self.fields[self._index(node)]

    def _index(self, node: Node) -> int:
        index = self._by_place.get(node.place)
        return self._by_weights[self.sharing.group(node)] if index is None else index

    def weights(self, node: Node) -> dict[str, Tensor]:
        """The parameters of f at a node, by their names in its module, where that one has others."""
        terms, index = self.sharing.terms(node), self._index(node)
        first = self._twin_of.get(index, index)
        group, coefficient = terms[0]
        alone = len(terms) == 1 and isinstance(coefficient, float) and coefficient == 1.0
        if alone and self._by_weights[group] == first:
            return {}
        fields = [(dict(self.fields[self._by_weights[group]].named_parameters()), c) for group, c in terms]
        (parameters, c), *others = fields
        mixed: dict[str, Tensor] = {name: c * parameter for name, parameter in parameters.items()}
        for parameters, c in others:
            mixed = {name: value + c * parameters[name] for name, value in mixed.items()}
        return mixed

    def reused(self, node: Node) -> nn.Module | None:
        """The field of a node where it serves at others too, so that a call finds the buffers that another one left."""
        index = self._by_place.get(node.place)
        return self.fields[index] if index in self._reused else None

    def function(self, node: Node) -> VectorField:
        """f with the weights and the buffers of one node, at all others too."""
        field, weights = self.at(node), self.weights(node)
        return partial(_with_weights, field, weights) if weights else field

    def forward(self, node: Node, y: State) -> State:
        if node.trial:
            return without_trace(self.at(node), node, y, self.weights(node))
        return self.function(node)(node, y)


def _with_weights(field: nn.Module, weights: dict[str, Tensor], node: Node, y: State) -> State:
    return torch.func.functional_call(field, weights, (node, y))


def without_trace(field: nn.Module, node: Node, y: State, weights: Mapping[str, Tensor]) -> State:
    """The value of a field, with other weights where there are some; its buffers and the random state stay."""
    buffers = {name: buffer.clone() for name, buffer in field.named_buffers()}
    with unmoved_random_state(flatten(y)[0][0]):
        return torch.func.functional_call(field, {**weights, **buffers}, (node, y))


def _names_of_tied(bank: FieldBank, prefix: str) -> Iterator[tuple[str, str]]:
    """The names of each parameter that a twin shares: in the twin, and in the field that it is a twin of."""
    for copied, first in bank._twin_of.items():
        for path, part in bank.fields[first].named_modules():
            for name, _ in bank._tied(part):
                locate = f"{path}.{name}" if path else name
                yield f"{prefix}fields.{copied}.{locate}", f"{prefix}fields.{first}.{locate}"


def _each_weight_once(bank: FieldBank, state: dict[str, Any], prefix: str, _: Any) -> None:
    # Averages of weights (timm's ModelEmaV3) go through the state, and would average a twin's weights twice.
    for copied, _first in _names_of_tied(bank, prefix):
        state.pop(copied, None)


def _weights_of_twins(bank: FieldBank, state: dict[str, Any], prefix: str, *_: Any) -> None:
    for copied, first in _names_of_tied(bank, prefix):
        if first in state:
            state.setdefault(copied, state[first])
