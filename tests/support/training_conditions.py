"""The conditions of a training step that every gradient mode must stand: see ``test_training_conditions.py``."""

from __future__ import annotations

import contextlib
import copy
import functools
import io
import pickle
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune
from torch.utils.checkpoint import checkpoint, set_checkpoint_early_stop

from schemes.core.node import Node
from schemes.flow import Flow
from schemes.integration.loop import Carry, Loop, LoopResult
from schemes.registry import SCHEMES
from tests.support.problems import CHANNELS, Noisy, Run, Tanh, batch, make_flow, train, weighted


def by_hand(loop: Loop, carry: Carry) -> LoopResult:
    """The loop that every mode is held against, for autograd to differentiate."""
    for node in loop.nodes:
        carry = loop.scheme.step(loop.weighted(loop.f), node, *carry)
    return LoopResult(carry)


RECOMPUTING = ("checkpoint", "reversible", "adjoint")


class ModeCase(NamedTuple):
    """A gradient mode on a scheme. Makes flows."""

    mode: str
    scheme: str

    def __call__(self, field: Callable[..., nn.Module] = Noisy, **options: Any) -> Flow:
        options = {"steps": 3, "time": 0.5} | options
        if self.mode != "by hand":
            return make_flow(field, self.scheme, self.mode, **options)
        flow = make_flow(field, self.scheme, **options)
        flow.gradient = by_hand
        return flow

    @property
    def recomputes(self) -> bool:
        """Whether f is evaluated again in backward."""
        return self.mode in RECOMPUTING

    def field(self, make: Callable[[int], nn.Module] = Noisy) -> nn.Module:
        """One field for flows that are made by hand."""
        torch.manual_seed(0)
        return make(CHANNELS // SCHEMES.build(self.scheme).components).double()

    def of(self, field: nn.Module, steps: int = 3, sharing: str = "shared") -> Flow:
        """A flow of one field that exists already."""
        gradient = "backprop" if self.mode == "by hand" else self.mode
        flow = Flow(lambda node: field, steps, self.scheme, sharing, {"name": "uniform", "time": 0.5}, gradient)
        flow.gradient = by_hand if self.mode == "by hand" else flow.gradient
        return flow


Condition = Callable[[ModeCase], Any]
CONDITIONS: dict[str, Condition] = {}


def condition(function: Condition) -> Condition:
    """Enters a condition: a function from a mode case to what a training step leaves (a ``Run``, or several)."""
    CONDITIONS[function.__name__] = function
    return function


def x() -> Tensor:
    """An input that needs a gradient."""
    return batch().requires_grad_()


# What f is


@condition
def batch_norm_in_train_mode(case: ModeCase) -> Run:
    return train(case(field_options={"dropout": 0.0}), x())


@condition
def batch_norm_in_evaluation(case: ModeCase) -> Run:
    flow = case()
    with torch.no_grad():
        flow(batch(64))
    return train(flow.eval(), x())


@condition
def batch_norm_frozen_in_a_network_in_train_mode(case: ModeCase) -> Run:
    flow = case()
    for field in flow.bank.fields:
        field.norm.eval()
    return train(flow, x())


@condition
def batch_norm_with_statistics_shared_between_nodes(case: ModeCase) -> Run:
    return train(case(sharing="shared", statistics="shared"), x())


@condition
def dropout(case: ModeCase) -> Run:
    return train(case(), x())


class DropPath(Noisy):
    """Drops whole samples, as timm's layer does inside a branch."""

    def forward(self, node: Node, y: Tensor) -> Tensor:
        kept = torch.rand(len(y), 1, dtype=y.dtype) < 0.5
        return super().forward(node, y) * kept / 0.5


@condition
def drop_path(case: ModeCase) -> Run:
    return train(case(DropPath), x())


@condition
def stochastic_depth(case: ModeCase) -> Run:
    noise = {"name": "stochastic_depth", "drop": 0.5, "schedule": "constant", "per": "sample"}
    return train(case(noise=noise), x())


class Weight(nn.Module):
    """A layer whose weight is computed from its parameters at each evaluation."""

    def __init__(self, channels: int, parametrized: Callable[[nn.Module], nn.Module]) -> None:
        super().__init__()
        self.linear = parametrized(nn.Linear(channels, channels))

    def forward(self, node: Node, y: Tensor) -> Tensor:
        return torch.tanh(self.linear(y))


@condition
def weight_norm(case: ModeCase) -> Run:
    return train(case(Weight, field_options={"parametrized": parametrizations.weight_norm}), x())


@condition
def spectral_norm(case: ModeCase) -> Run:
    """Its buffers are read and moved by each evaluation in train mode."""
    return train(case(Weight, field_options={"parametrized": parametrizations.spectral_norm}), x())


@condition
def spectral_norm_added_to_a_flow(case: ModeCase) -> Run:
    flow = case(Tanh)
    for field in flow.bank.fields:
        parametrizations.spectral_norm(field.linear)
    return train(flow, x())


@condition
def spectral_norm_with_buffers_shared_between_nodes(case: ModeCase) -> Run:
    options = {"field_options": {"parametrized": parametrizations.spectral_norm}, "statistics": "shared"}
    return train(case(Weight, sharing="shared", **options), x())


@condition
def cached_parametrizations(case: ModeCase) -> Run:
    flow = case(Weight, sharing="shared", field_options={"parametrized": parametrizations.weight_norm})
    with parametrize.cached():
        return train(flow, x())


@condition
def pruned_weights(case: ModeCase) -> Run:
    """A hook puts the weight in its place before each evaluation."""
    flow = case(Tanh)
    for field in flow.bank.fields:
        prune.l1_unstructured(field.linear, "weight", amount=0.3)
    return train(flow, x())


class Average(Noisy):
    """Reads a buffer and puts another in its place, at each evaluation."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.register_buffer("mean", torch.zeros(channels))

    def forward(self, node: Node, y: Tensor) -> Tensor:
        self.mean = 0.9 * self.mean + 0.1 * y.detach().mean(0)
        return super().forward(node, y - self.mean)


@condition
def buffers_read_and_replaced_by_f(case: ModeCase) -> Run:
    return train(case(Average), x())


@condition
def buffers_read_and_replaced_by_f_at_every_node(case: ModeCase) -> Run:
    return train(case(Average, sharing="shared", statistics="shared"), x())


@condition
def one_field_made_for_every_step(case: ModeCase) -> Run:
    return train(case.of(case.field(Average), sharing="per_step"), x())


class Energy(nn.Module):
    """The gradient of a scalar, taken inside f."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.linear = nn.Linear(channels, channels)

    def forward(self, node: Node, y: Tensor) -> Tensor:
        create_graph = torch.is_grad_enabled()
        with torch.enable_grad():
            y = y if y.requires_grad else y.detach().requires_grad_()
            energy = self.linear(y).cos().sum()
            return torch.autograd.grad(energy, y, create_graph=create_graph)[0]


@condition
def f_takes_a_derivative(case: ModeCase) -> Run:
    return train(case(Energy), x())


class Function(nn.Module):
    """A field without parameters."""

    def __init__(self, channels: int, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, node: Node, y: Tensor) -> Tensor:
        return self.function(y)


@condition
def f_without_parameters(case: ModeCase) -> Run:
    return train(case(Function, field_options={"function": torch.tanh}), x())


@condition
def f_is_the_identity(case: ModeCase) -> Run:
    return train(case(Function, field_options={"function": lambda y: y}), x())


@condition
def f_does_not_depend_on_the_state(case: ModeCase) -> Run:
    return train(case(Function, field_options={"function": torch.ones_like}), x())


@condition
def f_is_checkpointed(case: ModeCase) -> Run:
    class Inside(Tanh):
        def forward(self, node: Node, y: Tensor) -> Tensor:
            return checkpoint(super().forward, node, y, use_reentrant=False)

    return train(case(Inside), x())


class Nested(nn.Module):
    """A field that is a flow."""

    def __init__(self, channels: int, gradient: str) -> None:
        super().__init__()
        self.inner = Flow(lambda node: Noisy(channels), 2, "heun", gradient=gradient)

    def forward(self, node: Node, y: Tensor) -> Tensor:
        return self.inner(y)


@condition
def f_is_itself_a_flow(case: ModeCase) -> Run:
    gradient = "checkpoint" if case.recomputes else "backprop"
    return train(case(Nested, field_options={"gradient": gradient}), x())


class Doubled(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Linear(channels, channels)
        self.second = self.first

    def forward(self, node: Node, y: Tensor) -> Tensor:
        return self.second(torch.tanh(self.first(y)))


@condition
def a_layer_under_two_names(case: ModeCase) -> Run:
    flow = case(Doubled)
    run = train(flow, x())
    assert all(isinstance(p, nn.Parameter) for f in flow.bank.fields for p in f.second.parameters())
    return run


class Lazy(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layer = nn.LazyLinear(channels, dtype=torch.float64)

    def forward(self, node: Node, y: Tensor) -> Tensor:
        return torch.tanh(self.layer(y))


@condition
def lazy_layers_after_a_dry_run(case: ModeCase) -> Run:
    flow = case(Lazy, dtype=None)
    torch.manual_seed(0)
    with torch.no_grad():
        flow(batch())
    return train(flow, x())


@condition
def lazy_layers_without_one(case: ModeCase) -> Run:
    return train(case(Lazy, dtype=None, seed=0), x())


@condition
def buffers_that_the_first_evaluation_makes(case: ModeCase) -> list[Run]:
    class Late(Tanh):
        def __init__(self, channels: int) -> None:
            super().__init__(channels)
            self.register_buffer("mean", None)

        def forward(self, node: Node, y: Tensor) -> Tensor:
            self.mean = y.detach().mean(0) if self.mean is None else 0.9 * self.mean
            return super().forward(node, y - self.mean)

    flow = case(Late, sharing="shared")
    return [train(flow, x()), train(flow, x())]


class Convolution(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm, self.conv = nn.BatchNorm2d(channels), nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, node: Node, y: Tensor) -> Tensor:
        return self.conv(torch.relu(self.norm(y)))


@condition
def channels_last(case: ModeCase) -> Run:
    flow = case(Convolution).to(memory_format=torch.channels_last)
    image = batch(2, CHANNELS * 9).view(2, CHANNELS, 3, 3).contiguous(memory_format=torch.channels_last)
    return train(flow, image.requires_grad_())


class Complex(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(channels, channels))

    def forward(self, node: Node, y: Tensor) -> Tensor:
        return torch.tanh(y @ torch.complex(self.weight, self.weight.cos()))


@condition
def complex_states(case: ModeCase) -> Run:
    flow = case(Complex)
    phases = torch.complex(batch(), batch(seed=2)).requires_grad_()
    return train(flow, phases, backward=lambda output: weighted(torch.view_as_real(output)).backward())


# What needs a gradient


@condition
def input_without_gradient(case: ModeCase) -> Run:
    return train(case(), batch())


@condition
def some_parameters_frozen(case: ModeCase) -> Run:
    flow = case()
    for i, parameter in enumerate(flow.parameters()):
        parameter.requires_grad_(i % 3 > 0)
    return train(flow, x())


@condition
def all_parameters_frozen(case: ModeCase) -> Run:
    return train(case().requires_grad_(False), x())


@condition
def nothing_needs_a_gradient(case: ModeCase) -> Run:
    return train(case().requires_grad_(False), batch(), backward=lambda output: not output.requires_grad or 1 / 0)


@condition
def frozen_between_forward_and_backward(case: ModeCase) -> Run:
    flow = case()

    def freeze(output: Tensor) -> None:
        flow.requires_grad_(False)
        weighted(output).backward()

    return train(flow, x(), backward=freeze)


class WithSpare(Noisy):
    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.spare = nn.Parameter(torch.ones(3))


@condition
def unused_parameters(case: ModeCase) -> Run:
    run = train(case(WithSpare), x())
    assert {g is None for name, g in run.gradients.items() if name.endswith("spare")} == {True}
    return run


@condition
def f_shared_by_all_steps(case: ModeCase) -> Run:
    return train(case(sharing="shared"), x())


@condition
def f_shared_by_two_flows(case: ModeCase) -> Run:
    field = case.field()
    run = train(nn.Sequential(case.of(field), case.of(field, steps=2)), x())
    assert all(isinstance(p, nn.Parameter) and p.grad is not None for p in field.parameters())
    assert len(run.gradients) == 1 + len(list(field.parameters()))
    return run


@condition
def gradient_of_the_input_only(case: ModeCase) -> list[Tensor]:
    flow, start = case(Tanh), x()
    return [*torch.autograd.grad(weighted(flow(start)), start)]


@condition
def gradient_of_one_parameter_only(case: ModeCase) -> list[Tensor]:
    flow = case(Tanh)
    return [*torch.autograd.grad(weighted(flow(x())), next(flow.parameters()))]


@condition
def many_gradients_at_once(case: ModeCase) -> list[Tensor]:
    flow = case(Tanh)
    return [torch.autograd.functional.jacobian(lambda y: flow(y).sum(0), batch(), vectorize=True)]


# What is handed over


@condition
def input_is_a_view(case: ModeCase) -> Run:
    whole = batch(8, 2 * CHANNELS).requires_grad_()
    flow = case()
    run = train(flow, batch(), backward=lambda output: None)
    weighted(flow(whole[:, CHANNELS:])).backward()
    return Run(run.output, run.random, {"whole": whole.grad}, run.buffers)


@condition
def input_is_not_contiguous(case: ModeCase) -> Run:
    return train(case(), batch(CHANNELS, 8).t().requires_grad_())


@condition
def input_is_expanded(case: ModeCase) -> list[Tensor]:
    row = batch(1).requires_grad_()
    weighted(case(Tanh)(row.expand(8, -1))).backward()
    return [row.grad]


class Around(nn.Module):
    """A function of a flow and an input as a module."""

    def __init__(self, flow: nn.Module, function: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.flow, self.function = flow, function

    def forward(self, y: Tensor) -> Tensor:
        return self.function(self.flow, y)


@condition
def input_used_again_after_the_flow(case: ModeCase) -> Run:
    return train(Around(case(), lambda flow, y: flow(y) * y), x())


@condition
def layers_in_place_around_the_flow(case: ModeCase) -> Run:
    torch.manual_seed(1)
    first, last = nn.Linear(CHANNELS, CHANNELS).double(), nn.Linear(CHANNELS, 3).double()
    flow = Around(case(), lambda flow, y: flow(y) + 0)
    return train(nn.Sequential(first, nn.ReLU(inplace=True), flow, nn.ReLU(inplace=True), last), x())


@condition
def a_layer_used_outside_too(case: ModeCase) -> Run:
    flow = case(Tanh)
    weight = flow.bank.fields[0].linear.weight
    return train(Around(flow, lambda flow, y: flow(y)[:, : len(weight)] @ weight), x())


@condition
def a_part_of_the_output(case: ModeCase) -> Run:
    return train(Around(case(), lambda flow, y: flow(y)[:3, :2]), x())


@condition
def an_empty_batch(case: ModeCase) -> Run:
    return train(case(Tanh), batch(0).requires_grad_())


# How it is called


@condition
def called_twice_in_a_row(case: ModeCase) -> Run:
    flow = case()
    return train(nn.Sequential(flow, flow), x())


@condition
def two_forwards_then_backward_in_the_same_order(case: ModeCase) -> Run:
    return _two_forwards(case, (0, 1))


@condition
def two_forwards_then_backward_in_the_other_order(case: ModeCase) -> Run:
    return _two_forwards(case, (1, 0))


def _two_forwards(case: ModeCase, order: tuple[int, ...]) -> Run:
    def backward(output: Tensor) -> None:
        for i in order:
            weighted(output[i]).backward(retain_graph=True)

    return train(Around(case(), lambda flow, y: torch.stack([flow(y), flow(2 * y)])), x(), backward=backward)


@condition
def backward_twice_through_one_graph(case: ModeCase) -> Run:
    def backward(output: Tensor) -> None:
        weighted(output).backward(retain_graph=True)
        torch.rand(3)
        weighted(output).backward()

    return train(case(), x(), backward=backward)


@condition
def gradients_accumulated_over_two_batches(case: ModeCase) -> list[Run]:
    flow = case()
    return [train(flow, x(), seed=1), train(flow, x(), seed=2)]


@condition
def parameters_updated_during_backward(case: ModeCase) -> list[Run | Tensor]:
    flow = case()

    def update(p: Tensor) -> None:
        with torch.no_grad():
            p -= 0.1 * p.grad

    for parameter in flow.parameters():
        parameter.register_post_accumulate_grad_hook(update)
    return [train(flow, x()), *flow.parameters()]


@condition
def a_parameter_replaced_before_backward(case: ModeCase) -> list[Run | Tensor]:
    flow = case()
    old = flow.bank.fields[0].first.weight

    def backward(output: Tensor) -> None:
        flow.bank.fields[0].first.weight = nn.Parameter(torch.zeros_like(old))
        weighted(output).backward()

    return [train(flow, x(), backward=backward), old.grad]


@condition
def functional_call_with_other_parameters(case: ModeCase) -> list[Tensor]:
    flow = case()
    others = {name: (1.1 * p.detach() + 0.1).requires_grad_() for name, p in flow.named_parameters()}
    torch.manual_seed(5)
    output = torch.func.functional_call(flow, others, (batch(),))
    assert all(p.grad is None for p in flow.parameters())
    return [output.detach(), *torch.autograd.grad(weighted(output), list(others.values())), *flow.buffers()]


@condition
def inside_a_checkpoint(case: ModeCase) -> Run:
    with set_checkpoint_early_stop(False):  # or a recompute ends before the last batch norm
        return train(Around(case(), functools.partial(checkpoint, use_reentrant=False)), x())


@condition
def inside_a_reentrant_checkpoint(case: ModeCase) -> Run:
    return train(Around(case(), functools.partial(checkpoint, use_reentrant=True)), x())


@condition
def saved_tensors_moved_away(case: ModeCase) -> Run:
    with torch.autograd.graph.save_on_cpu():
        return train(case(), x())


@condition
def anomaly_detection(case: ModeCase) -> Run:
    with torch.autograd.detect_anomaly(check_nan=True):
        return train(case(), x())


@condition
def no_grad(case: ModeCase) -> Run:
    with torch.no_grad():
        return train(case(), x(), backward=lambda output: not output.requires_grad or 1 / 0)


@condition
def inference_mode(case: ModeCase) -> list[Tensor]:
    flow = case()
    torch.manual_seed(5)
    with torch.inference_mode():
        output = flow(batch())
    return [output.clone(), torch.get_rng_state(), *flow.buffers()]


@condition
def evaluation_between_forward_and_backward(case: ModeCase) -> Run:
    flow = case()

    def backward(output: Tensor) -> None:
        flow.eval()(batch())
        weighted(output).backward()
        assert not any(module.training for module in flow.modules())

    return train(flow, x(), backward=backward)


@condition
def hooks(case: ModeCase) -> tuple[Run, list[Any]]:
    """On parameters, on the gradient that a parameter gets, on the flow, and forward hooks on fields."""
    flow, seen = case(), []
    first = next(flow.parameters())
    first.register_hook(lambda gradient: 2 * gradient)
    first.register_post_accumulate_grad_hook(lambda p: seen.append(p.grad.clone()))
    flow.register_full_backward_hook(lambda module, into, out: seen.extend([*into, *out]))
    flow.register_full_backward_pre_hook(lambda module, out: seen.extend(out))
    flow.bank.fields[0].register_forward_hook(lambda module, args, value: 1.5 * value)
    flow.bank.fields[1].register_forward_pre_hook(lambda module, args: (args[0], 1.5 * args[1]))
    return train(flow, x()), seen


@condition
def backward_hooks_on_fields(case: ModeCase) -> Run:
    """Called once an evaluation. Of a gradient: the adjoint's is that of the costate, without the step size."""
    flow, seen = case(Tanh), []
    for field in flow.bank.fields:
        field.linear.register_full_backward_hook(lambda module, into, out: seen.extend(out))
    run = train(flow, x())
    assert len(seen) == len(flow.visits)
    return run


# Precision


@condition
def autocast_to_bfloat16(case: ModeCase) -> Run:
    """Without the cache of casts: two stages that share one cast have its gradient summed in bfloat16."""
    return _autocast(case, cache_enabled=False)


@condition
def autocast_with_cached_casts(case: ModeCase) -> Run:
    return _autocast(case, cache_enabled=True)


def _autocast(case: ModeCase, cache_enabled: bool) -> Run:
    def cast(flow: Flow, y: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, cache_enabled=cache_enabled):
            output = flow(y)
        assert not torch.equal(output, flow(y))
        return output

    return train(Around(case(dtype=torch.float32), cast), batch(dtype=torch.float32).requires_grad_())


@condition
def half_precision_streams(case: ModeCase) -> Run:
    return train(case(Tanh, dtype=torch.bfloat16), batch().bfloat16())


@condition
def half_precision_without_a_backward(case: ModeCase) -> list[Tensor]:
    with torch.no_grad():
        return [case(Tanh, dtype=torch.bfloat16)(batch().bfloat16())]


# Copies


@condition
def deepcopy(case: ModeCase) -> Run:
    flow = case(sharing="shared")
    train(flow, x(), seed=1)
    return _train_copy(flow, copy.deepcopy(flow))


@condition
def pickled(case: ModeCase) -> Run:
    flow = case(sharing="shared")
    train(flow, x(), seed=1)
    return _train_copy(flow, pickle.loads(pickle.dumps(flow)))


def _train_copy(flow: nn.Module, copied: nn.Module) -> Run:
    theirs = {id(p) for p in flow.parameters()}
    assert len(list(copied.parameters())) == len(theirs), "tied weights stay tied"
    assert not theirs & {id(p) for p in copied.parameters()}
    copied.zero_grad()
    return train(copied, x())


@condition
def deepcopy_between_forward_and_backward(case: ModeCase) -> list[Run]:
    flow, runs = case(), []

    def backward(output: Tensor) -> None:
        runs.append(_train_copy(flow, pickle.loads(pickle.dumps(copy.deepcopy(flow)))))
        weighted(output).backward()

    return [train(flow, x(), backward=backward), *runs]


@condition
def state_dict_round_trip(case: ModeCase) -> Run:
    flow, file = case(), io.BytesIO()
    train(flow, x(), seed=1)
    torch.save(flow.state_dict(), file)
    other = case(seed=9)
    other.load_state_dict(torch.load(io.BytesIO(file.getvalue()), weights_only=True))
    return train(other, x())


# What goes wrong


class Faulty(Noisy):
    """Raises at one of its evaluations."""

    countdown: int | None = None

    def forward(self, node: Node, y: Tensor) -> Tensor:
        if Faulty.countdown is not None:
            Faulty.countdown -= 1
            if Faulty.countdown == 0:
                raise ZeroDivisionError("a field went wrong")
        return super().forward(node, y)


@contextlib.contextmanager
def going_wrong(flow: Flow, evaluation: int) -> Iterator[None]:
    """f raises at an evaluation; nothing but batch norm's statistics may be moved by that."""
    parameters, training = [*flow.parameters()], [m.training for m in flow.modules()]
    Faulty.countdown = evaluation
    with pytest.raises(ZeroDivisionError, match="a field went wrong"):
        yield
    Faulty.countdown = None
    assert torch.is_grad_enabled()
    assert not torch.is_autocast_enabled("cpu")
    assert all(a is b for a, b in zip(flow.parameters(), parameters, strict=True))
    assert training == [m.training for m in flow.modules()]
    assert all(p.grad is None for p in flow.parameters())


@condition
def exception_inside_f_in_forward(case: ModeCase) -> Run:
    flow = case(Faulty)
    with going_wrong(flow, 2), torch.autocast("cpu", enabled=False):
        flow(x())
    return train(flow, x())


@condition
def exception_inside_f_in_backward(case: ModeCase) -> list[Run]:
    flow = case(Faulty)

    def backward(output: Tensor) -> None:
        if case.recomputes:  # otherwise there is no f in backward
            buffers, random = copy.deepcopy(dict(flow.named_buffers())), torch.get_rng_state()
            with going_wrong(flow, 2):
                weighted(output).backward(retain_graph=True)
            assert torch.equal(torch.get_rng_state(), random)
            assert all(torch.equal(b, buffers[name]) for name, b in flow.named_buffers())
        weighted(output).backward(retain_graph=True)

    first = train(flow, x(), backward=backward)
    flow.zero_grad()
    return [first, train(flow, x())]


# What no custom derivative can give


class Conditioned(Tanh):
    """Reads a tensor that is no parameter, as a field conditioned by another network does."""

    def forward(self, node: Node, y: Tensor) -> Tensor:
        return super().forward(node, y) + self.context


@condition
def f_reads_a_tensor_that_is_no_parameter(case: ModeCase) -> list[Tensor]:
    flow, context = case(Conditioned), torch.ones((), dtype=torch.float64, requires_grad=True)
    for field in flow.bank.fields:
        field.context = 2 * context
    weighted(flow(batch())).backward()
    return [context.grad]


class Score(nn.Module):
    """The gradient of a scalar at a leaf that f makes for itself, and leaves in a cycle of references."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.linear = nn.Linear(channels, channels)

    def forward(self, node: Node, y: Tensor) -> Tensor:
        with torch.enable_grad():
            leaf = y.detach().requires_grad_()
            cycle = [leaf]
            cycle.append(cycle)
            return torch.autograd.grad(self.linear(leaf).cos().sum(), leaf, create_graph=True)[0]


@condition
def f_makes_a_leaf_for_itself(case: ModeCase) -> Run:
    return train(case(Score), x())


@condition
def f_reads_a_tensor_that_needs_no_gradient(case: ModeCase) -> Run:
    flow = case(Conditioned)
    for field in flow.bank.fields:
        field.context = batch(1)[:, :1]
    return train(flow, x())


@condition
def double_backward(case: ModeCase) -> list[Tensor]:
    start = x()
    (first,) = torch.autograd.grad(weighted(case(Tanh)(start)), start, create_graph=True)
    return [*torch.autograd.grad(weighted(first), start)]


@condition
def func_grad(case: ModeCase) -> list[Tensor]:
    flow = case(Tanh)
    return [torch.func.grad(lambda y: weighted(flow(y)))(batch())]


@condition
def func_vmap(case: ModeCase) -> list[Tensor]:
    return [torch.func.vmap(case(Tanh))(torch.stack([batch(), batch(seed=2)])).detach()]


@condition
def func_jvp(case: ModeCase) -> list[Tensor]:
    return [t.detach() for t in torch.func.jvp(case(Tanh), (batch(),), (batch(seed=2),))]


@condition
def forward_mode(case: ModeCase) -> list[Tensor]:
    with torch.autograd.forward_ad.dual_level():
        output = case(Tanh)(torch.autograd.forward_ad.make_dual(batch(), batch(seed=2)))
        return [torch.autograd.forward_ad.unpack_dual(output).tangent.detach()]
