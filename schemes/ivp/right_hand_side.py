"""A user's f(t, y, *args) as the right-hand side that schemes call as f(node, y)."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils.weak import TensorWeakRef

from schemes.core.node import Node
from schemes.core.purity import BUFFERS_MESSAGE, RANDOM_NUMBERS_MESSAGE, buffer_versions, check_same
from schemes.core.state import State, flatten, in_precision_of
from schemes.core.untracked_leaves import leaves
from schemes.errors import FieldError, SchemenetError
from schemes.field_bank import without_trace
from schemes.integration.loop import FieldOwner, StepCallback
from schemes.ivp.shared_memory import SharedValues

CALLBACKS = ("callback_step", "callback_accept_step", "callback_reject_step")


class RightHandSide(FieldOwner):
    """y' = f(t, y, *args) for a state that is a tensor or a nest of tuples, lists and dicts of them.

    The parameters of ``functions`` (modules, or methods of modules) and the tensors among ``args`` are this module's
    parameters, so that gradient modes find them all in one place. ``functions`` are one, or one for each component of a
    coupled state. f gets t as a tensor of dimension 0 like ``time``.

    ``parameters`` are further tensors that the functions read, from wherever they have them. The methods
    ``callback_step``, ``callback_accept_step`` and ``callback_reject_step`` of a function are called at each attempt at
    a step with the time, the state and the size (positive); those whose names end in ``_adjoint`` at the adjoint's.

    The first call is examined: a value unlike y, or y changed in place, raises FieldError; so does, unless ``random``
    values are allowed, a second evaluation with another value.
    """

    def __init__(
        self,
        functions: Sequence[Callable[..., Any]],
        y0: Any,
        args: Sequence[Any],
        time: Tensor,
        parameters: Iterable[Tensor] | None = None,
        random: bool = False,
    ) -> None:
        super().__init__()
        self.functions, self.coupled = tuple(functions), len(functions) > 1
        owners = (f if isinstance(f, nn.Module) else getattr(f, "__self__", None) for f in functions)
        self.owners = nn.ModuleList(owner for owner in owners if isinstance(owner, nn.Module))
        self._arguments = tuple(args)
        for i, argument in enumerate(args):
            if isinstance(argument, Tensor) and (argument.is_floating_point() or argument.is_complex()):
                self._parameters[f"argument{i}"] = argument  # type: ignore[assignment]  # needs not be a leaf
        self.closed_over = None if parameters is None else tuple(parameters)
        for i, parameter in enumerate(self.closed_over or ()):
            self._parameters[f"closed_over{i}"] = parameter  # type: ignore[assignment]  # as above
        self.time = {"dtype": time.dtype, "device": time.device}
        self.structure = pytree.tree_structure(y0)
        self._like = pytree.tree_unflatten([None] * self.structure.num_leaves, self.structure)
        self.single = isinstance(y0, Tensor)
        self.examined, self.random, self.must_be_constant = False, random, False
        self._leaves_traces, self._differentiates = random, False
        self._values, self.evaluated_again = SharedValues(), False
        for module in () if random else self.owners.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.training:
                raise FieldError(
                    f"f has a {type(module).__name__} in training mode: its statistics would be those of the solver's "
                    "attempts, and f another function at each; use group norm, or eval()"
                )

    def pack(self, y: Any) -> State:
        """The solver's form of a state: a tensor, or a flat tuple of them."""
        return y if self.single else tuple(pytree.tree_leaves(y))

    def unpack(self, y: State) -> Any:
        """The user's form of a state."""
        return y if self.single else pytree.tree_unflatten(list(y), self.structure)

    def spread(self, tolerance: Any) -> Any:
        """A tolerance: as it is, or, where it is a nest like the state, a list with one for each of its tensors."""
        if not isinstance(tolerance, tuple | list | dict):
            return tolerance
        parts = pytree.tree_leaves(_in_order_of(self._like, tolerance))
        if len(parts) != self.structure.num_leaves:
            raise SchemenetError(
                f"rtol and atol: expected a number, a tensor, or a nest like the state ({self.structure.num_leaves} "
                f"tensors), got {tolerance!r}"
            )
        return parts

    def arguments(self) -> list[Any]:
        """The arguments of f after t and y, at present."""
        return [self._parameters.get(f"argument{i}", argument) for i, argument in enumerate(self._arguments)]

    def clock(self, t: Any) -> Tensor:
        """A time as f gets it."""
        return t if isinstance(t, Tensor) else torch.full((), t, **self.time)

    def step_callback(self) -> StepCallback | None:
        return self._callback("", self.unpack)

    def adjoint_callback(self) -> StepCallback | None:
        return self._callback("_adjoint", lambda state: (torch.zeros(()), *flatten(state)[0]))

    def _callback(self, suffix: str, form: Callable[[State], Any]) -> StepCallback | None:
        """Calls the functions' callbacks whose names end in ``suffix``; ``form`` makes the state that they get."""
        functions = {
            name: getattr(f, name + suffix) for f in self.functions for name in CALLBACKS if hasattr(f, name + suffix)
        }

        def callback(event: str, t: float, y: State, h: float) -> None:
            if event in functions:
                functions[event](self.clock(t), form(y), self.clock(abs(h)))

        return callback if functions else None

    def slope(self, t: Any, y: State) -> State:
        """dy/dt, each component of a coupled state driven by the other one."""
        node = Node(0, t, 0.0, trial=True)
        if self.coupled:
            return tuple(self.rate(node._replace(component=i), part) for i, part in enumerate(reversed(y)))
        return self.rate(node, y)

    def reused(self, node: Node) -> nn.Module | None:
        """The modules in which f's calls leave buffers for the next ones; None where they leave none."""
        return self.owners if self._leaves_traces else None

    def rate(self, node: Node, y: State) -> State:
        """f at a node."""
        return without_trace(self, node, y, {}) if node.trial and self._leaves_traces else self.forward(node, y)

    def forward(self, node: Node, y: State) -> State:
        t = self.clock(node.t)
        args = self.arguments()
        user_y = y if self.coupled else self.unpack(y)
        return self._valued(self.functions[node.component], t, y, user_y, args)

    def _valued(self, f: Callable[..., Any], t: Tensor, y: State, user_y: Any, args: list[Any]) -> State:
        value = self._value_of(f, t, user_y, args) if self.examined else self._examine(f, t, y, user_y, args)
        value = value if self.single or self.coupled else _in_order_of(user_y, value)
        alone = isinstance(value, Tensor)
        parts = [value] if alone else pytree.tree_leaves(value)
        del value  # a reference that counts
        if not self.examined:
            self.examined = True
            if self.must_be_constant:
                self._cut(parts, y)
        parts = self._values.copied(parts, self.evaluated_again)
        return in_precision_of(y, parts[0] if alone else tuple(parts))

    def _value_of(self, f: Callable[..., Any], t: Tensor, user_y: Any, args: list[Any]) -> Any:
        """f's value. Where f takes derivatives by t or y itself, they are such as have a graph."""
        if not self._differentiates:
            try:
                return f(t, user_y, *args)
            except RuntimeError as error:
                if "require grad" not in str(error):
                    raise
                on_graph = self._value_on_graph(f, t, user_y, args)
                self._differentiates = True
                return on_graph
        return self._value_on_graph(f, t, user_y, args)

    def _value_on_graph(self, f: Callable[..., Any], t: Tensor, user_y: Any, args: list[Any]) -> Any:
        outside = torch.is_grad_enabled()
        known = outside and any(part.requires_grad for part in pytree.tree_leaves((t, user_y)))
        with torch.inference_mode(False), torch.enable_grad():
            t, user_y = pytree.tree_map(
                lambda part: part if outside and part.requires_grad else _leaf(part), (t, user_y)
            )
            value = f(t, user_y, *args)
        parts = [part for part in pytree.tree_leaves(value) if isinstance(part, Tensor)]
        if known or (outside and leaves(parts, pytree.tree_leaves((t, user_y)))):
            return value
        return pytree.tree_map(lambda part: part.detach() if isinstance(part, Tensor) else part, value)

    def _cut(self, parts: list[Tensor], y: State) -> None:
        """Detach values from their graphs, which must end in nothing but what f itself has made."""
        state = [y] if isinstance(y, Tensor) else y
        known = set(map(id, state))
        ends = [TensorWeakRef(leaf) for leaf in leaves(parts, state) if id(leaf) not in known]
        if not any(leaf.requires_grad for leaf in state):  # an implicit scheme differentiates f by a leaf of its own
            parts[:] = [part.detach() for part in parts]
        if any(end() is not None for end in ends):
            gc.collect()
        if any(end() is not None for end in ends):
            raise FieldError(
                "f depends on a tensor that needs a gradient, and nothing that was handed to the solve does: this "
                "gradient mode would lose it. Hand it over (args, parameters, or f as a module), use "
                "gradient=backprop, or solve under torch.no_grad()"
            )

    def _examine(self, f: Callable[..., Any], t: Tensor, y: State, user_y: Any, args: list[Any]) -> Any:
        leaves = [y] if isinstance(y, Tensor) else list(y)
        versions = [leaf._version for leaf in leaves if not leaf.is_inference()]
        random, buffers = torch.get_rng_state(), buffer_versions(self.owners)
        with torch.set_grad_enabled(torch.is_grad_enabled() or self.must_be_constant):
            value = self._value_of(f, t, user_y, args)
        drawn, moved = not torch.equal(random, torch.get_rng_state()), buffers != buffer_versions(self.owners)
        self._leaves_traces = self.random and (drawn or moved)
        if (drawn or moved) and not self.random:
            with torch.no_grad():
                again = self._value_of(f, t, user_y, args)
            check_same(again, value, RANDOM_NUMBERS_MESSAGE if drawn else BUFFERS_MESSAGE)
        if versions != [leaf._version for leaf in leaves if not leaf.is_inference()]:
            raise FieldError("f changes y in place; compute the derivative into a new tensor (y.clone() first)")
        value = _in_order_of(user_y, value)
        expected, structure = pytree.tree_structure(user_y), pytree.tree_structure(value)
        if expected != structure or not all(isinstance(v, Tensor) for v in pytree.tree_leaves(value)):
            raise FieldError(f"f returned {_described(value)} for a state that is {_described(user_y)}")
        autocast = not leaves[0].is_meta and torch.is_autocast_enabled(leaves[0].device.type)  # meta knows of none
        for v, part in zip(pytree.tree_leaves(value), leaves, strict=True):
            if v.shape != part.shape or (v.dtype != part.dtype and not autocast):
                raise FieldError(
                    f"f returned {tuple(v.shape)} in {v.dtype} for a state of shape {tuple(part.shape)} in "
                    f"{part.dtype}; the derivative must be like the state"
                )
        return value


def _leaf(part: Tensor) -> Tensor:
    return (part.clone() if part.is_inference() else part.detach()).requires_grad_()


def _in_order_of(like: Any, value: Any) -> Any:
    """A dict's entries in the order of another one with the same keys, at any depth of a nest."""
    if isinstance(like, dict) and isinstance(value, dict) and like.keys() == value.keys():
        return type(like)((key, _in_order_of(part, value[key])) for key, part in like.items())
    if type(like) in (tuple, list) and type(value) is type(like) and len(value) == len(like):
        return type(like)(_in_order_of(a, b) for a, b in zip(like, value, strict=True))
    return value


def _described(tree: Any) -> str:
    if isinstance(tree, Tensor):
        return f"a tensor of shape {tuple(tree.shape)}"
    return (
        f"a {type(tree).__name__} of {len(pytree.tree_leaves(tree))} tensors"
        if isinstance(tree, tuple | list | dict)
        else repr(tree)
    )
