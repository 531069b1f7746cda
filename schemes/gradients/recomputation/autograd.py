"""Modes that run forward without a graph and evaluate f again in backward."""

from __future__ import annotations

import abc
import sys
import weakref
from collections.abc import Callable, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from schemes.core.evaluation_counts import SolverCounts, count_products, counting
from schemes.core.state import State, VectorField, flatten, unflatten
from schemes.core.untracked_leaves import UntrackedLeaves, leaves
from schemes.errors import SchemenetError
from schemes.gradients.base import BACKWARD_ONLY, FIRST_ONLY, GradientMode
from schemes.gradients.recomputation.replay import Replay
from schemes.integration.loop import LoopResult

if TYPE_CHECKING:
    from schemes.core.node import Node
    from schemes.integration.loop import Carry, Loop

Gradients = list[Tensor | None]
PROJECTED = "gradient mode {!r}: a post-activation step {}; use activation=pre, or gradient=backprop or checkpoint"


class RecomputingMode(GradientMode):
    """Forward without a graph; only what ``forward`` keeps lives until backward.

    One autograd node for all steps. The parameters are its inputs and their gradients its outputs (no ``backward``
    inside backward), so that plain DDP, frozen, shared and unused parameters and inputs without gradient work. f is a
    function of node, state, parameters, buffers and torch's random numbers; what else it reads must not change between
    forward and backward.
    """

    recomputes = True

    def __call__(self, loop: Loop, carry: Carry) -> LoopResult:
        if not torch.is_grad_enabled():
            return loop.run(carry)
        if torch._C._are_functorch_transforms_active():
            raise SchemenetError(BACKWARD_ONLY.format(self.name))
        parameters = tuple(loop.module.parameters())
        if (reason := out_of_reach(parameters, loop.module)) is not None:
            raise SchemenetError(f"gradient mode {self.name!r}: {reason}")
        state, shape = flatten(carry)
        job = _Job(self, loop, shape, Replay(loop.module, parameters, state[0].device))
        reference: Callable[[], Any] = (lambda: job) if loop.for_backward is None else weakref.ref(job)
        if loop.for_backward is not None:
            loop.for_backward.append(job)
        outputs = _Recompute.apply(job, reference, len(state), *state, *parameters)
        return LoopResult(*unflatten(outputs, job.out_shape))

    @abc.abstractmethod
    def forward(self, loop: Loop, carry: Carry, f: VectorField) -> tuple[LoopResult, Any]:
        """The loop's result, and the nest of tensors to keep."""

    @abc.abstractmethod
    def backward(
        self, loop: Loop, kept: Kept, gradients: Any, parameters: Sequence[Tensor], f: VectorField
    ) -> tuple[Gradients, Gradients]:
        """Gradients of the carry's tensors at the start, and of the parameters.

        ``gradients`` is the nest of the gradients of the loop's result.
        """


class Kept:
    """The nest of tensors that forward kept, handed over to backward, which lets go of each as soon as it can."""

    def __init__(self, tensors: Sequence[Tensor], shape: Any) -> None:
        self._nest: Any = unflatten(tensors, shape)

    def take(self) -> Any:
        """The nest; no reference to it is left here."""
        nest, self._nest = self._nest, None
        return nest


class _Job:
    """Everything that passes from forward to backward but tensors."""

    def __init__(self, mode: RecomputingMode, loop: Loop, shape: Any, replay: Replay) -> None:
        self.mode, self.loop, self.shape, self.replay = mode, loop, shape, replay
        self.out_shape: Any = None
        self.kept_shape: Any = None


class _Recompute(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, job: _Job, reference: Callable[[], Any], count: int, *tensors: Tensor) -> tuple[Tensor, ...]:
        carry = unflatten(tensors[:count], job.shape)
        with job.replay.recording():
            end, kept = job.mode.forward(job.loop, carry, job.loop.recorded(job.replay))
        outputs, job.out_shape = flatten(end)
        saved, job.kept_shape = flatten(kept)
        recorded = job.replay.take_records()
        ctx.save_for_backward(*saved, *recorded, *tensors[count:])
        ctx.job, ctx.count, ctx.saved, ctx.recorded = reference, count, len(saved), len(recorded)
        ctx.set_materialize_grads(False)
        # An output that is an input (a remembered state) would be taken for an in-place change of it, and one that
        # stands there twice would get the gradient of one place.
        seen = {id(t) for t in tensors[:count]}
        return tuple(t if id(t) not in seen and not seen.add(id(t)) else t[...] for t in outputs)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        job = ctx.job()
        if torch.is_grad_enabled():
            raise SchemenetError(FIRST_ONLY.format(job.mode.name))
        tensors = iter(list(ctx.saved_tensors))  # read once: torch.utils.checkpoint insists on it
        ctx.maybe_clear_saved_tensors()  # but for retain_graph=True, what backward has done with is free
        kept = Kept(list(islice(tensors, ctx.saved)), job.kept_shape)
        recorded = list(islice(tensors, ctx.recorded))
        requested = ctx.needs_input_grad[3 + ctx.count :]
        named = job.loop.module.closed_over
        closed_over = set(map(id, named or ()))  # f reads these very tensors
        parameters = [
            p if id(p) in closed_over else p.detach().requires_grad_(want)
            for p, want in zip(tensors, requested, strict=True)
        ]
        trained = [p for p in parameters if p.requires_grad]
        foreign = UntrackedLeaves(parameters)
        with counting(job.loop.backward):
            start, results = job.replay.again(
                recorded,
                parameters,
                job.mode.backward,
                job.loop,
                kept,
                unflatten(gradients, job.out_shape),
                trained,
                foreign.watching(job.replay.repeat(job.loop.f)),
            )
        if named is None:  # a user who names the tensors says that there are no others
            foreign.check()
        by_parameter = iter(results)
        return None, None, None, *start, *(next(by_parameter) if want else None for want in requested)

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        raise SchemenetError(BACKWARD_ONLY.format(ctx.job().mode.name))


class StackWithContext(torch.autograd.Function):
    """``torch.stack``, whose result holds what the backward pass of its rows needs.

    A module that keeps its own solution makes a circle: module, solution, autograd's nodes, f, which is the module.
    Python's collector sees through a tensor into its own node where Python made that, and no further, so what leads
    back to f is kept there.
    """

    @staticmethod
    def forward(ctx: Any, context: Any, *rows: Tensor) -> Tensor:
        ctx.context = context
        return torch.stack(rows)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]  # one output
        return None, *gradient.unbind()


def out_of_reach(parameters: Sequence[Tensor], module: nn.Module) -> str | None:
    """Why f will use other parameters than its flow has now; None where it will not."""
    if any(map(is_lazy, parameters)):
        return "lazy layers have no parameters yet; run the network once under torch.no_grad() before training it"
    fsdp: Any = sys.modules.get("torch.distributed.fsdp")  # not imported, not used
    for name, part in module.named_modules() if fsdp else ():
        if part is not module and isinstance(part, fsdp.FSDPModule | fsdp.FullyShardedDataParallel):
            return (
                f"FSDP takes the parameters of {name} away as soon as it was evaluated; apply fully_shard to the flow "
                "or to what is around it, or use gradient=backprop"
            )
    return None


def leaves_of(carry: Any) -> tuple[Any, list[Tensor]]:
    """The carry as views of fresh leaves, and the leaves.

    Views, because hooks on the arguments of modules (``FlopCounterMode``) cannot ask a running ``autograd.grad``
    about leaves.
    """
    tensors, shape = flatten(carry)
    fresh = [t.detach().requires_grad_(t.is_floating_point() or t.is_complex()) for t in tensors]
    return unflatten([t[...] for t in fresh], shape), fresh


class Pullback:
    """Vector-Jacobian products; those of parameters are summed up in ``of_parameters``, None for zero.

    Autograd differentiates by those parameters alone that a graph ends in: by all of a flow's parameters at each of its
    steps it would take a time that is quadratic in the depth.
    """

    def __init__(self, parameters: Sequence[Tensor]) -> None:
        self.of_parameters: Gradients = [None] * len(parameters)
        self._places = {id(parameter): place for place, parameter in enumerate(parameters)}
        self._results = [p for p in parameters if p.grad_fn is not None]  # made outside of f: no graph ends in them

    def __call__(self, outputs: Sequence[Tensor], gradients: Gradients, inputs: Sequence[Tensor]) -> Gradients:
        """Gradients of the inputs; None where one takes no part."""
        pairs = [(o, g) for o, g in zip(outputs, gradients, strict=True) if g is not None and o.requires_grad]
        used = [leaf for leaf in leaves([o for o, _ in pairs], self._results) if id(leaf) in self._places]
        used += self._results
        requested = [tensor for tensor in inputs if tensor.requires_grad]
        if not pairs or not (used or requested):
            return [None] * len(inputs)
        results = iter(
            torch.autograd.grad([o for o, _ in pairs], [*used, *requested], [g for _, g in pairs], allow_unused=True)
        )
        for leaf in used:
            place, gradient = self._places[id(leaf)], next(results)
            total = self.of_parameters[place]
            self.of_parameters[place] = gradient if total is None else total if gradient is None else total + gradient
        return [next(results) if tensor.requires_grad else None for tensor in inputs]


def step_vjp(
    advance: Callable[[Node, Carry, VectorField], LoopResult],
    node: Node,
    carry: Carry,
    gradients: Any,
    pull_back: Pullback,
    f: VectorField,
    counts: SolverCounts,
) -> Any:
    """Gradients of one step's carry (as a nest) from those of the step's result.

    ``counts`` has the evaluations of a step that does not call f here: by a compiled graph, say.
    """
    calls, before = 0, counts.evaluations

    def counted(node: Node, y: State) -> State:
        nonlocal calls
        calls += 1
        return f(node, y)

    with torch.enable_grad():
        carry, fresh = leaves_of(carry)
        outputs, shape = flatten(advance(node, carry, counted))
    count_products(calls or counts.evaluations - before)
    return unflatten(pull_back(outputs, aligned(gradients, shape), fresh), flatten(carry)[1])


def aligned(nest: Any, shape: Any) -> Gradients:
    """The entries of a nest of gradients in the order of the tensors of ``shape``, None where one is absent."""
    if isinstance(shape, int):
        return [nest]
    if shape is None:
        return []
    children = nest if nest is not None else (None,) * len(shape)
    return [g for part, child in zip(children, shape, strict=True) for g in aligned(part, child)]
