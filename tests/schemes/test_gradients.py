"""Every gradient mode on each scheme that it accepts; ``test_under_fire.py`` has what a recompute could disturb."""

from __future__ import annotations

import contextlib
import copy
import functools
import itertools
import math
import pickle
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from schemes.core.node import Node
from schemes.errors import SchemenetError
from schemes.flow import Flow
from schemes.gradients.adjoint_ode.backsolve import AdjointDriftWarning
from schemes.registry import GRADIENTS, SCHEMES
from tests.support.problems import (
    CHANNELS,
    Noisy,
    Storages,
    Tanh,
    assert_same,
    batch,
    bytes_kept,
    called,
    distance,
    make_flow,
    train,
    weighted,
)
from tests.support.products import ONE_OF_A_KIND, rest_is_slow

APPROXIMATE = {"adjoint"}
"""The modes that differentiate the ODE and not the network; all others must equal backprop."""

VARIANTS: list[Any] = [
    {"name": "linear_multistep", "scale": True},
    {"name": "linear_multistep", "k": 0.5, "scale": True},
    {"name": "backward_euler_poly", "degree": 3, "form": "mpoly"},
    {"name": "backward_euler_poly", "form": "way"},
    {"name": "fractal", "columns": 3, "drop_path": 0.4},
]
SPECS: list[Any] = [*SCHEMES.list(), *VARIANTS]


SHARINGS = ("per_step", "shared", "per_stage")


@functools.cache
def accepted() -> list[tuple[str, Any, str]]:
    """Each gradient mode, scheme and sharing that make a flow; refusals come before any work."""
    found = []
    for mode, spec, sharing in itertools.product(GRADIENTS, SPECS, SHARINGS):
        with contextlib.suppress(SchemenetError):
            make_flow(scheme=spec, gradient=mode, sharing=sharing, steps=2)
            found.append((mode, spec, sharing))
    return found


def pairs(modes: Any, sharing: str = "shared") -> list[Any]:
    """Modes with the schemes that they accept where all steps share weights (or as ``sharing`` says)."""
    chosen = [(mode, spec) for mode, spec, known in accepted() if mode in modes and known == sharing]
    return [pytest.param(mode, spec, id=f"{mode}-{called(spec)}") for mode, spec in chosen]


def some_pairs(modes: Any) -> list[Any]:
    """As ``pairs``, slow but for one scheme of a kind."""
    return rest_is_slow(
        (pair.values for pair in pairs(modes)),
        lambda mode, spec: called(spec) in ONE_OF_A_KIND,
        lambda mode, spec: f"{mode}-{called(spec)}",
    )


def triples(modes: Any) -> list[Any]:
    return [
        pytest.param(mode, spec, sharing, id=f"{mode}-{called(spec)}-{sharing}")
        for mode, spec, sharing in accepted()
        if mode in modes
    ]


EXACT = [mode for mode in GRADIENTS if mode not in {"backprop", *APPROXIMATE}]
exact_pairs = pytest.mark.parametrize(("mode", "spec"), pairs(EXACT))
all_pairs = pytest.mark.parametrize(("mode", "spec"), pairs(GRADIENTS))
approximate_pairs = pytest.mark.parametrize(("mode", "spec"), pairs(APPROXIMATE))


def same_but(flow: Flow, **options: Any) -> Flow:
    """A flow made with other options that takes the first one's weights and buffers."""
    other = make_flow(**options)
    other.load_state_dict(flow.state_dict())
    return other


# Against backprop


@pytest.mark.parametrize(("mode", "spec", "sharing"), triples(EXACT))
def test_exact_modes_equal_backprop(mode: str, spec: Any, sharing: str) -> None:
    """Batch norm in train mode, dropout, time; inputs, all parameters and the scheme's own coefficients."""
    options = {"field": Noisy, "scheme": spec, "sharing": sharing, "steps": 5}
    flow = make_flow(gradient=mode, **options)
    backprop = same_but(flow, **options)
    found, expected = train(flow, batch().requires_grad_()), train(backprop, batch().requires_grad_())
    assert_same(found, expected)
    counts = [b for name, b in found.buffers.items() if "num_batches_tracked" in name]
    assert len(counts) == len({node.place for node in flow.visits})
    assert all(count == 1 for count in counts)


def test_scheme_coefficients_are_among_the_compared_gradients() -> None:
    run = train(make_flow(scheme="linear_multistep", gradient="checkpoint", steps=5), batch().requires_grad_())
    assert run.gradients["scheme.k"].abs().min() > 0


@exact_pairs
def test_exact_modes_equal_backprop_in_evaluation(mode: str, spec: Any) -> None:
    options = {"field": Noisy, "scheme": spec}
    flow = make_flow(gradient=mode, **options)
    with torch.no_grad():
        flow(batch(64))
    backprop = same_but(flow, **options)
    flow.eval(), backprop.eval()
    assert_same(train(flow, batch().requires_grad_()), train(backprop, batch().requires_grad_()))


def test_checkpoint_of_projected_steps_and_of_past_states_equals_backprop() -> None:
    options = {"scheme": "linear_multistep", "past": 1, "projection": nn.ReLU(), "field": Noisy}
    flow = make_flow(gradient="checkpoint", **options)
    backprop = same_but(flow, **options)
    inputs = [[batch(seed=s).requires_grad_() for s in (1, 2)] for _ in range(2)]
    assert_same(train(flow, *inputs[0]), train(backprop, *inputs[1]))


@pytest.mark.parametrize("column", [-1, 0, 1, 2])
def test_checkpoint_replays_drop_path(column: int) -> None:
    options = {"scheme": {"name": "fractal", "columns": 3, "drop_path": 0.5}, "past": 1, "field": Noisy}
    flow = make_flow(gradient="checkpoint", **options)
    backprop = same_but(flow, **options)
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


@pytest.mark.parametrize(("mode", "spec", "sharing"), triples(GRADIENTS))
def test_what_is_not_refused_runs(mode: str, spec: Any, sharing: str) -> None:
    flow = make_flow(Noisy, scheme=spec, gradient=mode, sharing=sharing)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AdjointDriftWarning)
        run = train(flow, batch().requires_grad_())
    assert run.gradients["0"].isfinite().all()
    assert torch.equal(*run.random)


@all_pairs
def test_a_flow_that_is_handed_past_states_runs_or_says_why_not(mode: str, spec: Any) -> None:
    x, past = batch().requires_grad_(), batch(seed=2).requires_grad_()
    try:
        output = make_flow(scheme=spec, gradient=mode, sharing="shared", past=1)(x, (past,))
    except SchemenetError:
        return  # before any backward
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AdjointDriftWarning)
        weighted(output).backward()
    assert x.grad.isfinite().all()


# Adjoint


def gradient_of(flow: Flow) -> Tensor:
    x = batch().requires_grad_()
    weighted(flow(x)).backward()
    return torch.cat([x.grad.flatten(), *(p.grad.flatten() for p in flow.parameters())])


@functools.cache
def converged_gradient(spec: str | tuple[Any, ...]) -> Tensor:
    """Backprop's gradient as h goes to zero; a coupled scheme makes its two fields in an order of its own."""
    scheme = SCHEMES.build(spec if isinstance(spec, str) else dict(spec))
    if scheme.components == 1:
        return gradient_of(make_flow(scheme="dopri5", sharing="shared", steps=100))
    fine, coarse = (gradient_of(make_flow(scheme=spec, sharing="shared", steps=n)) for n in (1024, 512))
    return fine + (fine - coarse) / (2**scheme.order - 1)


@approximate_pairs
def test_adjoint_converges_at_the_order_of_the_scheme(mode: str, spec: Any) -> None:
    scheme = SCHEMES.build(spec)
    errors = []
    for n in (32, 64) if scheme.order < 4 else (16, 32) if scheme.order < 6 else (2, 4):
        found = gradient_of(make_flow(scheme=spec, gradient=mode, sharing="shared", steps=n))
        errors.append(distance(found, converged_gradient(spec if isinstance(spec, str) else tuple(spec.items()))))
    slope = math.log2(errors[0] / errors[1])
    # The pairs of order 5 have not reached their slope before rounding is near.
    assert scheme.order - 0.3 < slope < scheme.order + (0.3 if scheme.order < 5 else 0.8), errors


def test_the_adjoint_of_named_schemes_is_tested() -> None:
    tested = {called(pair.values[1]) for pair in pairs(["adjoint"])}
    assert tested >= {
        "forward_euler",
        "heun",
        "rk4",
        "symplectic_euler",
        "verlet",
        "adams_bashforth4",
        "leapfrog",
    }


@pytest.mark.parametrize("spec", ["forward_euler", "heun", "rk4", "symplectic_euler", "verlet"])
def test_adjoint_approaches_backprop_of_the_same_scheme(spec: str) -> None:
    gaps = []
    for n in (8, 16, 32):
        flow = make_flow(scheme=spec, gradient="adjoint", sharing="shared", steps=n)
        backprop = same_but(flow, scheme=spec, sharing="shared", steps=n)
        gaps.append(distance(gradient_of(flow), gradient_of(backprop)))
    if gaps[2] > 1e-13:  # the adjoint of a symmetric method is its derivative
        assert math.log2(gaps[1] / gaps[2]) > SCHEMES.build(spec).order - 0.3, gaps
    else:
        assert spec == "verlet"


@pytest.mark.parametrize("spec", ["heun", "rk4", "verlet"])
def test_adjoint_keeps_its_order_with_statistics_per_node(spec: str) -> None:
    """In evaluation f is another function at each stage; walked backwards it must be the same one at the same time."""
    gaps = []
    options: dict[str, Any] = {"field": Noisy, "field_options": {"dropout": 0.0}, "scheme": spec, "sharing": "shared"}
    for n in (8, 16):
        flow = make_flow(gradient="adjoint", steps=n, **options)
        with torch.no_grad():
            for seed in range(30):
                flow((1 + seed % 3) * batch(seed=seed))
        backprop = same_but(flow, steps=n, **options)
        gaps.append(distance(gradient_of(flow.eval()), gradient_of(backprop.eval())))
    assert gaps[1] < 1e-13 or math.log2(gaps[0] / gaps[1]) > SCHEMES.build(spec).order - 0.3, gaps


class Decay(nn.Module):
    def __init__(self, channels: int, rate: float) -> None:
        super().__init__()
        self.rate = nn.Parameter(torch.tensor(rate))

    def forward(self, node: Node, y: Tensor) -> Tensor:
        return -self.rate * y


def test_adjoint_warns_where_the_state_drifts() -> None:
    stiff = make_flow(Decay, scheme="rk4", gradient="adjoint", steps=10, field_options={"rate": 20.0})
    with pytest.warns(AdjointDriftWarning, match="misses the initial one by .* use more steps.*gradient=checkpoint"):
        train(stiff, batch().requires_grad_())


def test_adjoint_does_not_warn_on_a_smooth_field() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train(make_flow(scheme="rk4", gradient="adjoint", steps=10), batch().requires_grad_())


@approximate_pairs
def test_adjoint_leaves_statistics_and_random_state_as_backprop_does(mode: str, spec: Any) -> None:
    flow = make_flow(Noisy, scheme=spec, gradient=mode, sharing="shared")
    backprop = same_but(flow, field=Noisy, scheme=spec, sharing="shared")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AdjointDriftWarning)
        found, expected = train(flow, batch().requires_grad_()), train(backprop, batch().requires_grad_())
    assert torch.equal(found.output, expected.output)
    assert all(map(torch.equal, found.random, expected.random))
    assert all(torch.equal(found.buffers[name], buffer) for name, buffer in expected.buffers.items())


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


@pytest.mark.parametrize("name", [n for n in SCHEMES if SCHEMES.build(n).components > 1])
@pytest.mark.parametrize("channels", [1, 3, 5])
def test_channels_that_cannot_be_split_are_refused(name: str, channels: int) -> None:
    """A chunk of two channels and one of one would be broadcast together without a word."""

    class Mean(nn.Module):
        def __init__(self, channels: int) -> None:
            super().__init__()

        def forward(self, node: Node, y: Tensor) -> Tensor:
            return y.mean(1, keepdim=True)

    with pytest.raises(SchemenetError, match="channels"):
        make_flow(Mean, scheme=name, channels=channels)(batch(channels=channels))


def test_backprop_has_second_derivatives() -> None:
    flow, x = make_flow(channels=2, steps=2), batch(2, 2).requires_grad_()
    assert torch.autograd.gradgradcheck(flow, (x,))


@pytest.mark.parametrize("spec", SPECS, ids=called)
def test_state_dict_round_trip(spec: Any, tmp_path: Path) -> None:
    flow = make_flow(Noisy, scheme=spec, sharing="shared")
    with torch.no_grad():
        flow(batch())
    torch.save(flow.state_dict(), tmp_path / "flow.pt")
    other = make_flow(Noisy, scheme=spec, sharing="shared", seed=9)
    assert not torch.equal(other.eval()(batch()), flow.eval()(batch()))
    other.load_state_dict(torch.load(tmp_path / "flow.pt", weights_only=True), strict=True)
    assert torch.equal(other(batch()), flow(batch()))


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
    backprop = same_but(flow, scheme=scheme, dtype=torch.float32)
    x = batch(dtype=torch.float32)
    x = x.bfloat16() if half else x  # a stem under autocast hands over half precision
    found, expected = (
        train(Wrapped(one, torch.autocast("cpu", torch.bfloat16)(one)), start.requires_grad_())
        for one, start in ((flow, x.clone()), (backprop, x.float()))
    )
    assert found.output.dtype == torch.float32
    assert {dtype for field in flow.bank.fields for dtype in field.seen} == {torch.float32}
    assert distance(found.output, expected.output) < 1e-6
    assert found.gradients["0"].dtype == x.dtype
    for name, p in flow.named_parameters():
        assert distance(p.grad, expected.gradients[f"inner.{name}"]) < 2e-2, name


# Memory


STATE = 64 * CHANNELS * 8  # bytes of one state


def kept(mode: str, spec: Any, steps: int) -> int:
    flow = make_flow(scheme=spec, gradient=mode, steps=steps, sharing="shared")
    return bytes_kept(flow, batch(64).requires_grad_())


@pytest.mark.parametrize(("mode", "spec"), pairs(["reversible", "adjoint"]))
def test_bytes_kept_are_flat_in_depth(mode: str, spec: Any) -> None:
    few, many = kept(mode, spec, 5), kept(mode, spec, 20)
    assert few == many
    assert few <= 3 * STATE


@pytest.mark.parametrize(("mode", "spec"), some_pairs(["checkpoint"]))
def test_bytes_kept_by_checkpoint_are_a_carry_a_step(mode: str, spec: Any) -> None:
    """The state, and beside it what a step leaves to the next one: a value of f, a second state or both."""
    few, middle, many = (kept(mode, spec, n) for n in (3, 5, 9))
    assert 0 < many - middle == 2 * (middle - few)
    kinds = {"adams": 2, "reversible_wrap": 2, "asynchronous_leapfrog": 2, "reversible_heun": 3}
    parts = next((parts for kind, parts in kinds.items() if called(spec).startswith(kind)), 1)
    assert many - middle == 4 * STATE * parts
    # Three states a step are more than backprop keeps of a field of one layer.
    assert parts == 3 or many < kept("backprop", spec, 9)


def peak(mode: str, spec: Any, steps: int) -> int:
    flow = make_flow(scheme=spec, gradient=mode, steps=steps, sharing="shared")
    x = batch(64).requires_grad_()
    with Storages(x, *flow.parameters()) as storages, warnings.catch_warnings():
        warnings.simplefilter("ignore", AdjointDriftWarning)
        weighted(flow(x)).backward()
    return storages.peak


@pytest.mark.parametrize("mode", [mode for mode in GRADIENTS if mode != "backprop"])
def test_work_in_backward_is_linear_in_depth(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where each step has weights of its own, the engine is asked for a step's and not for all of them each time."""
    asked: list[int] = []
    grad = torch.autograd.grad
    monkeypatch.setattr(torch.autograd, "grad", lambda o, i, *a, **k: (asked.append(len(i)), grad(o, i, *a, **k))[1])
    counts = []
    for steps in (4, 8):
        asked.clear()
        weighted(
            make_flow(scheme="symplectic_euler" if mode == "reversible" else "heun", gradient=mode, steps=steps)(
                batch()
            )
        ).backward()
        counts.append(sum(asked))
    assert 0 < counts[1] == 2 * counts[0]


@pytest.mark.usefixtures("no_collector")
@pytest.mark.parametrize(("mode", "spec"), some_pairs(["reversible", "adjoint"]))
def test_peak_bytes_of_forward_and_backward_are_flat_in_depth(mode: str, spec: Any) -> None:
    assert peak(mode, spec, 8) == peak(mode, spec, 24)


@pytest.mark.usefixtures("no_collector")
def test_peak_bytes_of_checkpoint_are_a_state_a_step() -> None:
    assert peak("checkpoint", "heun", 24) - peak("checkpoint", "heun", 8) == 16 * STATE
    assert peak("backprop", "heun", 24) - peak("backprop", "heun", 8) >= 32 * STATE


def test_bytes_kept_by_backprop_are_seen() -> None:
    """The measure itself: backprop keeps something of each evaluation."""
    assert kept("backprop", "heun", 20) - kept("backprop", "heun", 10) >= 10 * 2 * STATE


# Compiling


@pytest.fixture
def _fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.usefixtures("_fresh_compiler")
@pytest.mark.parametrize(
    "spec", [s for s in SCHEMES if SCHEMES.build(s).order is not None and not SCHEMES.build(s).implicit]
)
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


# Field banks


@pytest.mark.parametrize("spec", SPECS, ids=called)
@pytest.mark.parametrize("sharing", ["per_step", "shared", "per_stage"])
def test_parameter_counts_do_not_depend_on_twins(spec: Any, sharing: str) -> None:
    scheme = SCHEMES.build(spec)
    one = sum(p.numel() for p in Noisy(CHANNELS // scheme.components).parameters())
    counts = []
    for statistics in ("per_node", "shared"):
        flow = make_flow(Noisy, scheme=spec, sharing=sharing, statistics=statistics, steps=4)
        counts.append(sum(p.numel() for p in flow.bank.parameters()))
        places = {node.place for node in flow.visits}
        groups = {
            "per_step": {(node.step, node.component) for node in flow.visits},
            "shared": {node.component for node in flow.visits},
            "per_stage": places,
        }[sharing]
        means = {name for name, _ in flow.named_buffers() if name.endswith("running_mean")}
        assert len(means) == len(places if statistics == "per_node" else groups)
    assert counts[0] == counts[1] == one * len(groups)


def test_fields_without_buffers_have_no_twins() -> None:
    flow = make_flow(Tanh, scheme="rk4", sharing="shared", steps=6)
    assert len(flow.bank.fields) == 1
    assert all(flow.bank.at(node) is flow.bank.fields[0] for node in flow.visits)


@pytest.mark.parametrize("spec", ["backward_euler_poly", "heun"])
def test_statistics_per_node_make_evaluation_work(spec: str) -> None:
    """With one set of statistics the averages of different distributions normalise each of them."""
    gaps = {}
    for statistics in ("per_node", "shared"):
        flow = make_flow(
            Normalised,
            scheme=spec,
            sharing="shared",
            statistics=statistics,
            steps=3,
            time=3.0,
            dtype=torch.float32,
        )
        with torch.no_grad():
            flow.bank.fields[0].linear.weight.mul_(3)
            for seed in range(60):
                trained = flow(batch(512, seed=seed, dtype=torch.float32))
            gaps[statistics] = distance(flow.eval()(batch(512, seed=59, dtype=torch.float32)), trained)
        means = [b for name, b in flow.named_buffers() if name.endswith("running_var")]
        if statistics == "per_node":
            assert len(means) == len(flow.visits)
            assert all(distance(a, b) > 1e-2 for a, b in itertools.combinations(means, 2))
    assert gaps["per_node"] < 0.1
    assert gaps["shared"] > max(0.3, 5 * gaps["per_node"])


class Normalised(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm, self.linear = nn.BatchNorm1d(channels), nn.Linear(channels, channels)

    def forward(self, node: Node, y: Tensor) -> Tensor:
        return self.linear(torch.relu(self.norm(y))) + 1


@pytest.mark.parametrize(
    "change",
    [nn.SyncBatchNorm.convert_sync_batchnorm, copy.deepcopy, lambda flow: pickle.loads(pickle.dumps(flow))],
    ids=["sync_batch_norm", "deepcopy", "pickle"],
)
def test_ties_survive(change: Any) -> None:
    flow = make_flow(Noisy, scheme="heun", sharing="shared", steps=3)
    count = len(list(flow.parameters()))
    changed = change(flow)
    assert len(changed.bank.fields) == 6
    assert len(list(changed.parameters())) == count == 6
    first, *twins = changed.bank.fields
    for twin in twins:
        assert twin.norm.weight is first.norm.weight
        assert twin.first.weight is first.first.weight
        assert twin.norm.running_mean is not first.norm.running_mean
    with torch.no_grad():
        first.second.weight.zero_()
        first.second.bias.zero_()
    assert torch.equal(changed.eval()(batch()), batch()), "f is zero at every node"


def test_ties_survive_the_meta_device() -> None:
    """There torch makes new parameters, one for each of their places."""
    flow = make_flow(Noisy, scheme="heun", sharing="shared", steps=3)
    flow = flow.to("meta").to_empty(device="cpu")
    assert len(list(flow.parameters())) == 6
    assert all(field.norm.weight is flow.bank.fields[0].norm.weight for field in flow.bank.fields)
