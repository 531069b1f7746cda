"""What a second evaluation needs in order to be the first one again.

Dropout masks are replayed from the random state before each call of f (not one state a step: a reverse sweep calls
the parts of a step in another order). Batch norm normalises by the batch as before and writes its statistics into
scratch buffers, so that they are updated once. Parameters, buffers and training flags are those of the forward pass,
also under ``torch.func.functional_call``. Autocast is entered again as it was.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from schemes.node import Node
from schemes.state import RightHandSide, State

RandomState = tuple[Tensor, ...]


class _Apply(nn.Module):
    """Lets ``functional_call`` run any function while a module's tensors are exchanged."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return function(*arguments)


class Replay:
    """Records one forward run of a module's f, and repeats its evaluations under the same conditions."""

    def __init__(self, module: nn.Module, device: torch.device) -> None:
        self.module = module
        self.parameters = [id(p) for p in module.parameters()]
        # Each module once, under its first name: functional_call swaps one that stands under two names twice, and
        # puts back the wrong tensors.
        self.places = {
            f"{prefix}.{name}": tensor
            for prefix, part in _Apply(module).named_modules()
            for name, tensor in itertools.chain(part.named_parameters(recurse=False), part.named_buffers(recurse=False))
        }
        self.buffers = {id(b): b.clone() for b in module.buffers()}
        self.training = [(part, part.training) for part in module.modules()]
        self.device = device
        self.autocast = [
            {
                "device_type": kind,
                "dtype": torch.get_autocast_dtype(kind),
                "enabled": torch.is_autocast_enabled(kind),
                # A cast cached without a graph would be found again where one is needed.
                "cache_enabled": False,
            }
            for kind in dict.fromkeys(("cpu", device.type))
            if torch.amp.is_autocast_available(kind)
        ]
        self._states: list[RandomState] = []
        self._before: dict[tuple[int, int, int], RandomState] = {}

    def _state(self) -> RandomState:
        states = [torch.get_rng_state()]
        if self.device.type == "cuda":
            states.append(torch.cuda.get_rng_state(self.device))
        return tuple(states)

    def _restore(self, state: RandomState) -> None:
        torch.set_rng_state(state[0])
        if len(state) > 1:
            torch.cuda.set_rng_state(state[1], self.device)

    def _note(self) -> RandomState:
        """The random state now; the same object as the last one where nothing was drawn since."""
        state = self._state()
        if not self._states or not all(map(torch.equal, state, self._states[-1])):
            self._states.append(state)
        return self._states[-1]

    def record(self, f: RightHandSide) -> RightHandSide:
        """f, with the random state before each call noted."""

        def recorded(node: Node, y: State) -> State:
            self._before[node.place] = self._note()
            return f(node, y)

        return recorded

    def repeat(self, f: RightHandSide) -> RightHandSide:
        """f, each call under the random state of the recorded call at its node."""
        if len(self._states) < 2:
            return f  # nothing was drawn

        def repeated(node: Node, y: State) -> State:
            if (state := self._before.get(node.place)) is not None:
                self._restore(state)
            return f(node, y)

        return repeated

    @contextlib.contextmanager
    def recording(self) -> Iterator[None]:
        """The conditions of the forward run."""
        with self._autocast():
            yield
        self._note()

    def _autocast(self) -> contextlib.ExitStack:
        stack = contextlib.ExitStack()
        for setting in self.autocast:
            stack.enter_context(torch.autocast(**setting))
        return stack

    def again(self, parameters: Sequence[Tensor], function: Callable[..., Any], *arguments: Any) -> Any:
        """``function(*arguments)`` as if it ran in the forward pass, on these parameters; leaves no trace."""
        by_id = dict(zip(self.parameters, parameters, strict=True))
        by_id |= {key: buffer.clone() for key, buffer in self.buffers.items()}
        exchanged = {place: by_id[id(tensor)] for place, tensor in self.places.items()}
        now, modes = self._state(), [part.training for part, _ in self.training]
        try:
            for part, training in self.training:
                part.training = training
            with self._autocast():
                return torch.func.functional_call(
                    _Apply(self.module), exchanged, (function, *arguments), tie_weights=False
                )
        finally:
            for (part, _), training in zip(self.training, modes, strict=True):
                part.training = training
            self._restore(now)
