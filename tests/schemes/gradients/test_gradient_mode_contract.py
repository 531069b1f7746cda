"""The contract of a gradient mode: exact ones equal backprop on each scheme that they accept; refusals come first."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from schemes.core.node import Node
from schemes.errors import SchemenetError
from schemes.registry import SCHEMES
from tests.support.problems import (
    Noisy,
    Tanh,
    assert_same,
    batch,
    distance,
    make_flow,
    spec_id,
    train,
    weighted,
)
from tests.support.selections import EXACT, ONE_OF_A_KIND, SPECS, copy_with, pairs, triples

# Against backprop


@pytest.mark.parametrize(("mode", "spec", "sharing"), triples(EXACT))
def test_exact_modes_equal_backprop(mode: str, spec: Any, sharing: Any) -> None:
    """Batch norm in train mode, dropout, time; inputs, all parameters and the scheme's own coefficients."""
    options = {"field": Noisy, "scheme": spec, "sharing": sharing, "steps": 5}
    flow = make_flow(gradient=mode, **options)
    backprop = copy_with(flow, **options)
    actual, expected = train(flow, batch().requires_grad_()), train(backprop, batch().requires_grad_())
    assert_same(actual, expected)
    counts = [int(b) for name, b in actual.buffers.items() if "num_batches_tracked" in name]
    assert counts.count(1) == len({node.place for node in flow.visits})
    assert set(counts) <= {0, 1}  # 0: of a set of weights that is a coefficient alone


def test_scheme_coefficients_are_among_the_compared_gradients() -> None:
    run = train(make_flow(scheme="linear_multistep", gradient="checkpoint", steps=5), batch().requires_grad_())
    assert run.gradients["scheme.k"].abs().min() > 0


@pytest.mark.parametrize(("mode", "spec"), pairs(EXACT, one_of_a_kind=True))
def test_exact_modes_equal_backprop_in_evaluation(mode: str, spec: Any) -> None:
    options = {"field": Noisy, "scheme": spec}
    flow = make_flow(gradient=mode, **options)
    with torch.no_grad():
        flow(batch(64))
    backprop = copy_with(flow, **options)
    flow.eval(), backprop.eval()
    assert_same(train(flow, batch().requires_grad_()), train(backprop, batch().requires_grad_()))


def test_checkpoint_of_projected_steps_and_of_past_states_equals_backprop() -> None:
    options = {"scheme": "linear_multistep", "past": 1, "projection": nn.ReLU(), "field": Noisy}
    flow = make_flow(gradient="checkpoint", **options)
    backprop = copy_with(flow, **options)
    inputs = [[batch(seed=s).requires_grad_() for s in (1, 2)] for _ in range(2)]
    assert_same(train(flow, *inputs[0]), train(backprop, *inputs[1]))


@pytest.mark.parametrize("column", [-1, 0, 1, 2])
def test_checkpoint_replays_drop_path(column: int) -> None:
    options = {"scheme": {"name": "fractal", "columns": 3, "drop_path": 0.5}, "past": 1, "field": Noisy}
    flow = make_flow(gradient="checkpoint", **options)
    backprop = copy_with(flow, **options)
    runs = []
    for one in (flow, backprop):
        kept = functools.partial(one, past=(torch.tensor(column),))
        runs.append(train(Wrapped(one, kept), batch().requires_grad_()))
    assert_same(*runs)


class Wrapped(nn.Module):
    """A module that calls a function of its inner one."""

    def __init__(self, inner: nn.Module, function: Any) -> None:
        super().__init__()
        self.inner, self.function = inner, function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


@pytest.mark.parametrize("spec", SPECS, ids=spec_id)
def test_past_states_count_for_the_schemes_that_say_so(spec: Any) -> None:
    flow = make_flow(scheme=spec, sharing="shared", past=1).eval()
    ignored = torch.equal(flow(batch(), (batch(seed=2),)), flow(batch(), (batch(seed=3),)))
    assert ignored is not flow.scheme.accepts_past_states


WITH_PAST = [spec_id(spec) for spec in SPECS if SCHEMES.build(spec).accepts_past_states]


@pytest.mark.parametrize(("mode", "spec"), [pair for pair in pairs(EXACT) if spec_id(pair.values[1]) in WITH_PAST])
def test_exact_modes_equal_backprop_behind_past_states(mode: str, spec: Any) -> None:
    options = {"field": Noisy, "scheme": spec, "past": 1}
    flow = make_flow(gradient=mode, **options)
    backprop = copy_with(flow, **options)
    inputs = [[batch(seed=s).requires_grad_() for s in (1, 2)] for _ in range(2)]
    assert_same(train(flow, *inputs[0]), train(backprop, *inputs[1]))


# Refusals


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"gradient": "reversible", "scheme": "heun"},
            "'reversible' needs a scheme whose step can be undone, and Heun has no inverse; use",
        ),
        (
            {"gradient": "adjoint", "scheme": "fractal"},
            "'adjoint' differentiates the ODE, and Fractal as configured is no method for y' = f",
        ),
        ({"gradient": "adjoint", "scheme": "linear_multistep"}, "LinearMultistep as configured is no method"),
        (
            {"gradient": "adjoint", "scheme": "backward_euler_poly"},
            "BackwardEulerPoly as configured is no method",
        ),
        (
            {"gradient": "adjoint", "scheme": "heun", "sharing": "per_stage"},
            "'adjoint' differentiates an ODE, and weights of their own at each stage belong to none",
        ),
        (
            {"gradient": "adjoint", "scheme": "adams_bashforth2", "sharing": "per_step"},
            "'adjoint' with AdamsBashforth2: its steps backwards would mix the weights of neighbouring steps",
        ),
        ({"scheme": "verlet", "projection": nn.ReLU()}, "has no post-activation projection"),
        ({"gradient": "adjoint", "projection": nn.ReLU()}, "'adjoint': a post-activation step solves no ODE"),
        (
            {"gradient": "reversible", "scheme": "leapfrog", "projection": nn.ReLU()},
            "'reversible': a post-activation step cannot be inverted; use activation=pre",
        ),
        (
            {"gradient": "reversable", "scheme": "verlet"},
            "no gradient mode 'reversable'; did you mean 'reversible'",
        ),
        ({"sharing": "per_stp"}, "no sharing 'per_stp'; did you mean 'per_step'"),
        ({"statistics": "per_nod"}, "per_nod"),
        ({"steps": 0}, "steps"),
    ],
    ids=lambda value: "" if isinstance(value, str) else "-".join(map(str, value.values())),
)
def test_refusals_give_the_reason(options: dict[str, Any], message: str) -> None:
    with pytest.raises(SchemenetError, match=re.escape(message)):
        make_flow(**options)


def test_backprop_has_second_derivatives() -> None:
    flow, x = make_flow(channels=2, steps=2), batch(2, 2).requires_grad_()
    assert torch.autograd.gradgradcheck(flow, (x,))


# Autocast


class Watching(Tanh):
    seen: list[torch.dtype]

    def forward(self, node: Node, y: Tensor) -> Tensor:
        self.seen = [*getattr(self, "seen", []), y.dtype]
        return super().forward(node, y)


@pytest.mark.parametrize("scheme", [n for n in SCHEMES if SCHEMES.build(n).reversible])
@pytest.mark.parametrize("half", [False, True])
def test_reversible_under_autocast_keeps_float32_streams(scheme: str, half: bool) -> None:
    flow = make_flow(Watching, scheme=scheme, gradient="reversible", dtype=torch.float32)
    backprop = copy_with(flow, scheme=scheme, dtype=torch.float32)
    x = batch(dtype=torch.float32)
    x = x.bfloat16() if half else x  # a stem under autocast hands over half precision
    actual, expected = (
        train(Wrapped(one, torch.autocast("cpu", torch.bfloat16)(one)), start.requires_grad_())
        for one, start in ((flow, x.clone()), (backprop, x.float()))
    )
    assert actual.output.dtype == torch.float32
    assert {dtype for field in flow.bank.fields for dtype in field.seen} == {torch.float32}
    assert distance(actual.output, expected.output) < 1e-6
    assert actual.gradients["0"].dtype == x.dtype
    for name, p in flow.named_parameters():
        assert distance(p.grad, expected.gradients[f"inner.{name}"]) < 2e-2, name


# Compiling


@pytest.fixture
def _fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.usefixtures("_fresh_compiler")
@pytest.mark.parametrize("spec", [name for name in ONE_OF_A_KIND if not SCHEMES.build(name).implicit])
def test_compiled_flow_equals_eager(spec: str) -> None:
    """In one graph, without a break, with gradients; an implicit step asks for numbers on its way."""
    flow = make_flow(scheme=spec, steps=SCHEMES.build(spec).history + 2)
    eager = train(flow, batch().requires_grad_())
    flow.zero_grad(set_to_none=True)
    compiled = torch.compile(flow, fullgraph=True, backend="eager")
    x = batch().requires_grad_()
    output = compiled(x)
    weighted(output).backward()
    assert distance(output, eager.output) < 1e-12
    assert distance(x.grad, eager.gradients["0"]) < 1e-12
    assert all(distance(p.grad, eager.gradients[name]) < 1e-12 for name, p in flow.named_parameters())
