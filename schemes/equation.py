"""A user's f(t, y, *args) as the right-hand side that schemes call as f(node, y)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from schemes.errors import FieldError
from schemes.loop import Told
from schemes.node import Node
from schemes.state import State, in_precision_of

CALLBACKS = ("callback_step", "callback_accept_step", "callback_reject_step")


class Equation(nn.Module):
    """y' = f(t, y, *args) for a state that is a tensor or a nest of tuples, lists and dicts of them.

    The parameters of ``functions`` (modules, or methods of modules) and the tensors among ``args`` are this module's
    parameters, so that gradient modes find them all in one place. ``functions`` are one, or one for each component of a
    coupled state. t is handed on as a tensor of dimension 0 like ``time``.

    ``parameters`` are further tensors that the functions read, from wherever they have them. A function that has
    methods ``callback_step``, ``callback_accept_step`` or ``callback_reject_step`` hears of each attempt at a step: the
    time, the state and the size (positive) are handed to it; names ending in ``_adjoint`` hear of the adjoint's steps.

    The first call is examined: a value unlike y or y changed in place is told as FieldError; so is, unless ``random``
    values are allowed, one that is another one when asked for again.
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
        self._given = tuple(args)
        for i, argument in enumerate(args):
            if isinstance(argument, Tensor) and argument.is_floating_point():
                self._parameters[f"argument{i}"] = argument  # type: ignore[assignment]  # needs not be a leaf
        self.closed_over = None if parameters is None else tuple(parameters)
        for i, parameter in enumerate(self.closed_over or ()):
            self._parameters[f"closed_over{i}"] = parameter  # type: ignore[assignment]
        self.time = {"dtype": time.dtype, "device": time.device}
        self.structure = pytree.tree_structure(y0)
        self.single = isinstance(y0, Tensor)
        self.examined, self.random = False, random
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

    def arguments(self) -> list[Any]:
        """What f takes beside t and y, at present."""
        return [self._parameters.get(f"argument{i}", argument) for i, argument in enumerate(self._given)]

    def clock(self, t: Any) -> Tensor:
        """A time as f gets it."""
        return t if isinstance(t, Tensor) else torch.full((), t, **self.time)

    def listener(self, suffix: str = "", form: Callable[[State], Any] | None = None) -> Told | None:
        """Hands on what happens at a step to the functions that want to hear of it, in the user's form of a state."""
        hear = {
            name: getattr(f, name + suffix) for f in self.functions for name in CALLBACKS if hasattr(f, name + suffix)
        }

        def tell(what: str, t: float, y: State, h: float) -> None:
            if what in hear:
                hear[what](self.clock(t), (form or self.unpack)(y), self.clock(abs(h)))

        return tell if hear else None

    def slope(self, t: Any, y: State) -> State:
        """dy/dt, each component of a coupled state driven by the other one; no gradient passes."""
        with torch.no_grad():
            if self.coupled:
                return tuple(self.rate(Node(0, t, 0.0, component=i), part) for i, part in enumerate(reversed(y)))
            return self.rate(Node(0, t, 0.0), y)

    def rate(self, node: Node, y: State) -> State:
        """f at a node."""
        t = self.clock(node.t)
        args = self.arguments()
        given = y if self.coupled else self.unpack(y)
        return self._valued(self.functions[node.component], t, y, given, args)

    def _valued(self, f: Callable[..., Any], t: Tensor, y: State, given: Any, args: list[Any]) -> State:
        value = f(t, given, *args) if self.examined else self._examine(f, t, y, given, args)
        return in_precision_of(y, value if isinstance(value, Tensor) else tuple(pytree.tree_leaves(value)))

    def _examine(self, f: Callable[..., Any], t: Tensor, y: State, given: Any, args: list[Any]) -> Any:
        leaves = [y] if isinstance(y, Tensor) else list(y)
        versions = [leaf._version for leaf in leaves if not leaf.is_inference()]
        random = torch.get_rng_state()
        value = f(t, given, *args)
        if not self.random and not torch.equal(random, torch.get_rng_state()):
            self._examine_again(f(t, given, *args), value)
        if versions != [leaf._version for leaf in leaves if not leaf.is_inference()]:
            raise FieldError("f changes y in place; compute the derivative into a new tensor (y.clone() first)")
        expected, found = pytree.tree_structure(given), pytree.tree_structure(value)
        if expected != found or not all(isinstance(v, Tensor) for v in pytree.tree_leaves(value)):
            raise FieldError(f"f returned {_described(value)} for a state that is {_described(given)}")
        autocast = torch.is_autocast_enabled(leaves[0].device.type)
        for v, part in zip(pytree.tree_leaves(value), leaves, strict=True):
            if v.shape != part.shape or (v.dtype != part.dtype and not autocast):
                raise FieldError(
                    f"f returned {tuple(v.shape)} in {v.dtype} for a state of shape {tuple(part.shape)} in "
                    f"{part.dtype}; the derivative must be like the state"
                )
        self.examined = True
        return value

    def _examine_again(self, again: Any, value: Any) -> None:
        """f may draw a sample once and keep it, but no other one at each call."""
        pairs = zip(pytree.tree_leaves(again), pytree.tree_leaves(value), strict=True)
        if not all(a is b or torch.equal(a, b) for a, b in pairs):
            raise FieldError(
                "f drew random numbers (dropout in training mode?) and was another function when it was called again, "
                "so that no error can be estimated; draw them before the solve, or eval() the layer"
            )


def _described(tree: Any) -> str:
    if isinstance(tree, Tensor):
        return f"a tensor of shape {tuple(tree.shape)}"
    return (
        f"a {type(tree).__name__} of {len(pytree.tree_leaves(tree))} tensors"
        if isinstance(tree, tuple | list | dict)
        else repr(tree)
    )
