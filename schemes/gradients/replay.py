"""What a second evaluation needs in order to be the first one again.

Dropout masks are replayed from the random state before each call of f (not one state a step: a reverse sweep calls
the parts of a step in another order). Batch norm normalises by the batch as before and writes its statistics into
scratch buffers, so that they are updated once; a field that serves again finds in its buffers what the calls before
had left there. Parameters, buffers and training flags are those of the forward pass, also under
``torch.func.functional_call``. Autocast is entered again as it was. Nothing is cached meanwhile (casts, parametrized
weights): what is made without a graph in forward would be found where one is needed. Where f depends on more than the
state and the module's parameters, the gradient of that would be lost: this raises.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.utils.weak import TensorWeakRef

from schemes.bank import FieldBank
from schemes.errors import SchemenetError
from schemes.node import Node
from schemes.state import RightHandSide, State

Place = tuple[int, int, int]


class _Apply(nn.Module):
    """Lets ``functional_call`` run any function while a module's tensors are exchanged."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return function(*arguments)


@contextlib.contextmanager
def _without_cached_weights() -> Iterator[None]:
    outside = parametrize._cache_enabled, parametrize._cache
    parametrize._cache_enabled, parametrize._cache = 0, {}
    try:
        yield
    finally:
        parametrize._cache_enabled, parametrize._cache = outside


class Replay:
    """Records one forward run of a module's f, and repeats its evaluations under the same conditions.

    What is noted are tensors. In between they are autograd's, to be freed with all else that it saves: ``hand_over``
    gives them away, ``again`` takes them back.
    """

    def __init__(self, module: nn.Module, bank: FieldBank, device: torch.device) -> None:
        self.module, self.bank, self.device = module, bank, device
        buffers = list(module.buffers())
        position = {id(t): i for i, t in enumerate(itertools.chain(module.parameters(), buffers))}
        # Each module once, under its first name: functional_call swaps one that stands under two names twice, and
        # puts back the wrong tensors.
        self.positions = {
            f"{prefix}.{name}": position[id(tensor)]
            for prefix, part in _Apply(module).named_modules()
            for name, tensor in itertools.chain(part.named_parameters(recurse=False), part.named_buffers(recurse=False))
        }
        self.training = [(part, part.training) for part in module.modules()]
        self.autocast = [
            {
                "device_type": kind,
                "dtype": torch.get_autocast_dtype(kind),
                "enabled": torch.is_autocast_enabled(kind),
                "cache_enabled": False,
            }
            for kind in dict.fromkeys(("cpu", device.type))
            if torch.amp.is_autocast_available(kind)
        ]
        self._known: set[int] = set()
        self._foreign: list[TensorWeakRef] = []
        self._noted: list[Tensor] = []
        self._buffers = self._note(b.clone() for b in buffers)
        self._random: list[slice] = []
        self._random_before: dict[Place, slice] = {}
        self._buffers_before: dict[Place, tuple[list[tuple[nn.Module, str]], slice]] = {}

    def _note(self, tensors: Iterable[Tensor]) -> slice:
        start = len(self._noted)
        self._noted.extend(tensors)
        return slice(start, len(self._noted))

    def hand_over(self) -> list[Tensor]:
        """All that was noted, which is then forgotten."""
        noted, self._noted = self._noted, []
        return noted

    def _random_state(self) -> list[Tensor]:
        states = [torch.get_rng_state()]
        if self.device.type == "cuda":
            states.append(torch.cuda.get_rng_state(self.device))
        return states

    def _restore(self, states: Sequence[Tensor]) -> None:
        torch.set_rng_state(states[0])
        if len(states) > 1:
            torch.cuda.set_rng_state(states[1], self.device)

    def _note_random(self) -> slice:
        """The random state now; the last one noted where nothing was drawn since."""
        states = self._random_state()
        if not self._random or not all(map(torch.equal, states, self._noted[self._random[-1]])):
            self._random.append(self._note(states))
        return self._random[-1]

    def record(self, f: RightHandSide) -> RightHandSide:
        """f, with what each call finds noted: the random state, and the buffers of a field that serves again."""

        def recorded(node: Node, y: State) -> State:
            if node.trial:  # leaves no trace: the evaluation that counts finds the same
                return f(node, y)
            self._random_before[node.place] = self._note_random()
            if (field := self.bank.reused(node)) is not None:
                names = [(part, name) for part in field.modules() for name, _ in part.named_buffers(recurse=False)]
                found = self._note(getattr(part, name).clone() for part, name in names)
                self._buffers_before[node.place] = names, found
            return f(node, y)

        return recorded

    def repeat(self, f: RightHandSide) -> RightHandSide:
        """f, each call finding what the recorded call at its node found."""
        drawn = len(self._random) > 1

        def repeated(node: Node, y: State) -> State:
            if drawn and node.place in self._random_before:
                self._restore(self._noted[self._random_before[node.place]])
            if node.place in self._buffers_before:
                names, found = self._buffers_before[node.place]
                for (part, name), buffer in zip(names, self._noted[found], strict=True):
                    setattr(part, name, buffer.clone())
            value = f(node, y)
            self._foreign += [TensorWeakRef(leaf) for leaf in leaves(value, y) if id(leaf) not in self._known]
            return value

        return repeated

    @contextlib.contextmanager
    def recording(self) -> Iterator[None]:
        """The conditions of the forward run."""
        with self._conditions():
            yield
        self._note_random()

    def _conditions(self) -> contextlib.ExitStack:
        stack = contextlib.ExitStack()
        if parametrize._cache_enabled:
            stack.enter_context(_without_cached_weights())
        for setting in self.autocast:
            stack.enter_context(torch.autocast(**setting))
        return stack

    def again(
        self, noted: Sequence[Tensor], parameters: Sequence[Tensor], function: Callable[..., Any], *arguments: Any
    ) -> Any:
        """``function(*arguments)`` as if it ran in the forward pass, on these parameters; leaves no trace."""
        self._noted, self._known = list(noted), set(map(id, parameters))
        tensors = [*parameters, *(b.clone() for b in self._noted[self._buffers])]
        exchanged = {name: tensors[i] for name, i in self.positions.items()}
        now, modes = self._random_state(), [part.training for part, _ in self.training]
        try:
            for part, training in self.training:
                part.training = training
            with self._conditions():
                result = torch.func.functional_call(
                    _Apply(self.module), exchanged, (function, *arguments), tie_weights=False
                )
            self._refuse_foreign_leaves()
            return result
        finally:
            for (part, _), training in zip(self.training, modes, strict=True):
                part.training = training
            self._restore(now)
            self._noted, self._foreign = [], []

    def _refuse_foreign_leaves(self) -> None:
        # One that f had made for itself is gone with the graph.
        if any(leaf() is not None for leaf in self._foreign):
            gc.collect()
        for leaf in self._foreign:
            if (tensor := leaf()) is not None:
                raise SchemenetError(
                    f"f depends on a tensor of shape {tuple(tensor.shape)} that needs a gradient and is no parameter "
                    "of the flow: a gradient mode that evaluates f again would lose that gradient. Make it a parameter "
                    "of the field, detach it, or use gradient=backprop. FSDP with flat parameters hides them so: apply "
                    "fully_shard to the flow instead"
                )


def leaves(value: Tensor, before: Tensor) -> list[Tensor]:
    """The leaves that a value's graph depends on, down to a tensor ``before`` it."""
    found: list[Tensor] = []
    nodes: set[Any] = {value.grad_fn} - {None, before.grad_fn}
    seen: set[Any] = {before.grad_fn, *nodes}
    while nodes:
        node = nodes.pop()
        leaf = getattr(node, "variable", None)
        if leaf is not None and leaf is not before:
            found.append(leaf)
        fresh = {after for after, _ in node.next_functions if after is not None} - seen
        seen |= fresh
        nodes |= fresh
    return found
