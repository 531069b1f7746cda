"""Replay: the conditions under which a second evaluation of f equals the first.

Dropout masks are replayed from the random state before each call of f (not one state a step: a reverse sweep calls
the parts of a step in another order). Batch norm normalises by the batch as before and writes its statistics into
scratch buffers, so that they are updated once; a field that serves again finds in its buffers what the calls before
had left there. Parameters, buffers and training flags are those of the forward pass, also under
``torch.func.functional_call``. Autocast is entered again as it was. Nothing is cached meanwhile (casts, parametrized
weights): what is made without a graph in forward would be found where one is needed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from schemes.core.node import Node
from schemes.core.purity import buffers_of
from schemes.core.state import State, VectorField
from schemes.integration.loop import FieldOwner

Place = tuple[int, int, int]
Buffers = list[tuple[nn.Module, str, int | None]]
"""Module, name and position of the buffer among the recorded ones; None where there was none yet."""


class _Apply(nn.Module):
    """Lets ``functional_call`` run any function while a module's tensors are exchanged."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, function: Callable[[], Any]) -> Any:
        return function()


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

    The records are tensors. Between forward and backward autograd owns them and frees them with all else that it
    saves: ``take_records`` removes them from here, ``again`` receives them.
    """

    def __init__(self, module: FieldOwner, parameters: Sequence[Tensor], device: torch.device) -> None:
        self.module, self.device = module, device
        position = {id(p): i for i, p in enumerate(parameters)}
        # Each module once, under its first name: functional_call swaps one that stands under two names twice, and
        # puts back the wrong tensors.
        self.positions = {
            f"{prefix}.{name}": position[id(parameter)]
            for prefix, part in _Apply(module).named_modules()
            for name, parameter in part.named_parameters(recurse=False, remove_duplicate=False)
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
        self._recorded: list[Tensor] = []
        self._copied_buffers: dict[int, tuple[Tensor, int, int]] = {}
        self._buffers = self._note_buffers(module)
        self._random: list[slice] = []
        self._random_before: dict[Place, slice] = {}
        self._buffers_before: dict[tuple[Place, bool], Buffers] = {}

    def _note(self, tensors: Iterable[Tensor]) -> slice:
        start = len(self._recorded)
        self._recorded.extend(tensors)
        return slice(start, len(self._recorded))

    def _note_buffers(self, module: nn.Module) -> Buffers:
        """Copies of a module's buffers, but of those that have not changed since they were last recorded."""
        return [
            (part, name, None if buffer is None else self._note_buffer(buffer))
            for part, name, buffer in buffers_of(module)
        ]

    def _note_buffer(self, buffer: Tensor) -> int:
        copied, version, place = self._copied_buffers.get(id(buffer), (None, 0, 0))
        if buffer.is_inference() or copied is not buffer or version != buffer._version:
            place = self._note([buffer.clone()]).start
            self._copied_buffers[id(buffer)] = buffer, 0 if buffer.is_inference() else buffer._version, place
        return place

    def _put(self, buffers: Buffers) -> None:
        """Copies of these buffers in their places."""
        copies = {i: self._recorded[i].clone() for _, _, i in buffers if i is not None}
        for part, name, i in buffers:
            part._buffers[name] = None if i is None else copies[i]

    def take_records(self) -> list[Tensor]:
        """All records, which are removed from here."""
        recorded, self._recorded, self._copied_buffers = self._recorded, [], {}
        return recorded

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
        """The random state now; the last recorded one where nothing was drawn since."""
        states = self._random_state()
        if not self._random or not all(map(torch.equal, states, self._recorded[self._random[-1]])):
            self._random.append(self._note(states))
        return self._random[-1]

    def record(self, f: VectorField) -> VectorField:
        """f, each call with its recorded random state, and with the buffers of a field that is used again."""

        def recorded(node: Node, y: State) -> State:
            if not node.trial:  # a trial leaves no trace: the evaluation that counts finds the same random state
                self._random_before[node.place] = self._note_random()
            if (field := self.module.reused(node)) is not None:
                self._buffers_before[node.place, node.trial] = self._note_buffers(field)
            return f(node, y)

        return recorded

    def repeat(self, f: VectorField) -> VectorField:
        """f, each call finding what the recorded call at its node found."""
        drawn = len(self._random) > 1

        def repeated(node: Node, y: State) -> State:
            if drawn:
                self._restore(self._recorded[self._random_before.get(node.place, self._random[0])])
            self._put(self._buffers_before.get((node.place, node.trial), []))
            return f(node, y)

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
        self, recorded: Sequence[Tensor], parameters: Sequence[Tensor], function: Callable[..., Any], *arguments: Any
    ) -> Any:
        """``function(*arguments)`` as if it ran in the forward pass, on these parameters; leaves no trace."""
        self._recorded = list(recorded)
        exchanged = {name: parameters[i] for name, i in self.positions.items()}
        random, buffers = self._random_state(), list(buffers_of(self.module))
        training = [(part, part.training) for part, _ in self.training]
        try:
            self._put(self._buffers)
            _set_training(self.training)
            with self._conditions():
                # In one argument: hooks on modules (FlopCounterMode) look for tensors among them, and find leaves here.
                apply, bound = _Apply(self.module), partial(function, *arguments)
                return torch.func.functional_call(apply, exchanged, bound, tie_weights=False)
        finally:
            _set_training(training)
            for part, name, buffer in buffers:
                part._buffers[name] = buffer
            self._restore(random)
            self._recorded = []


def _set_training(flags: Iterable[tuple[nn.Module, bool]]) -> None:
    for part, training in flags:
        part.training = training
