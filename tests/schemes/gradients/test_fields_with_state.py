"""f with a state of its own: buffers that it changes, random numbers, derivatives that it takes itself."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, spectral_norm

from schemes import odeint, odeint_adjoint, solve
from schemes.core.node import Node
from schemes.errors import FieldError, SchemenetError
from schemes.flow import Flow
from tests.support.problems import make_flow

DOUBLE = torch.float64
STEPS = {"name": "uniform", "steps": 3}


class Average(nn.Module):
    """Reads a buffer and puts another one in its place."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 3).double()
        self.register_buffer("mean", torch.zeros(3, dtype=DOUBLE))

    def forward(self, y: Tensor) -> Tensor:
        self.mean = 0.9 * self.mean + 0.1 * y.detach().mean(0)
        return self.linear(y - self.mean)


def layer_of_close_norms() -> nn.Linear:
    """The power iteration of its largest singular value takes hundreds of calls, so that each call changes buffers."""
    layer = nn.Linear(3, 3).double()
    with torch.no_grad():
        left, _, right = torch.linalg.svd(layer.weight)
        layer.weight.copy_(left @ torch.tensor([1.0, 0.98, 0.96], dtype=DOUBLE).diag() @ right)
    return layer


LAYERS = {
    "parametrization": lambda: parametrizations.spectral_norm(layer_of_close_norms()),
    "hook": lambda: spectral_norm(layer_of_close_norms()),
    "buffer replaced": Average,
    "dropout": lambda: nn.Sequential(nn.Linear(3, 3).double(), nn.Dropout(0.4)),
}


class Field(nn.Module):
    def __init__(self, layer: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = LAYERS[layer]()

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return torch.tanh(self.layer(y)) * torch.cos(t).reshape(-1, 1)


def start() -> Tensor:
    torch.manual_seed(1)
    return torch.randn(4, 3, dtype=DOUBLE)


def left(f: Field, scheme: str, mode: str, times: list[float]) -> list[Tensor]:
    """Values, gradients, buffers and random state after a solve."""
    y, t = start().requires_grad_(), torch.tensor(times, dtype=DOUBLE, requires_grad=True)
    values = solve(f, y, t, scheme=scheme, grid=STEPS, gradient=mode).values
    found = torch.autograd.grad(values.square().sum(), [y, t, *f.parameters()])
    return [values, *found, *f.buffers(), torch.get_rng_state()]


@pytest.mark.parametrize("times", [[0.0, 1.0], [0.0, 0.37, 0.9, 1.0]], ids=["ends of steps", "inside of steps"])
@pytest.mark.parametrize(
    ("scheme", "mode"),
    [
        ("rk4", "checkpoint"), ("dopri5", "checkpoint"), ("adams_moulton", "checkpoint"), ("gl4", "checkpoint"),
        ("trapezoidal", "checkpoint"), ("reversible_heun", "reversible"), ("asynchronous_leapfrog", "reversible"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("layer", LAYERS)
def test_recomputing_finds_what_each_call_of_f_found(layer, scheme, mode, times):
    for one, other in zip(
        left(Field(layer), scheme, mode, times), left(Field(layer), scheme, "backprop", times), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("mode", ["backprop", "checkpoint"])
@pytest.mark.parametrize("layer", ["parametrization", "hook"])
def test_the_gradient_is_the_derivative_of_the_map_that_forward_computed(layer, mode):
    direction = torch.linspace(-1, 1, 12, dtype=DOUBLE).reshape(4, 3)

    def loss(y: Tensor) -> Tensor:
        return solve(Field(layer), y, [0, 1], scheme="rk4", grid=STEPS, gradient=mode).values[-1].square().sum()

    y, e = start().requires_grad_(), 1e-5
    (gradient,) = torch.autograd.grad(loss(y), y)
    with torch.no_grad():
        difference = (loss(y + e * direction) - loss(y - e * direction)) / (2 * e)
    assert float((gradient * direction).sum()) == pytest.approx(float(difference), rel=1e-7)


REFUSED = "was another function when it was called again"


@pytest.mark.parametrize(
    "call",
    [
        lambda f, y: solve(f, y, [0, 1]),
        lambda f, y: solve(f, y, [0, 1], gradient="backprop"),
        lambda f, y: solve(f, y, [0, 1], batching="per_sample"),
        lambda f, y: solve(f, y, [0, 1], scheme="kvaerno3"),
        lambda f, y: odeint(f, y, [0.0, 1.0]),
        lambda f, y: odeint(f, y, [0.0, 1.0], method="scipy_solver"),
        lambda f, y: odeint_adjoint(f, y, [0.0, 1.0], method="rk4"),
        lambda f, y: solve(f, y, [0, 1], scheme="rk4", grid=STEPS, gradient="adjoint"),
    ],
    ids=["adaptive", "backprop", "per_sample", "implicit", "odeint", "scipy", "odeint_adjoint", "adjoint"],
)
@pytest.mark.parametrize("layer", ["parametrization", "hook", "buffer replaced"])
def test_where_f_must_be_one_function_one_that_changes_its_buffers_is_refused(layer, call):
    with pytest.raises(FieldError, match=r"f changed its buffers .*" + REFUSED):
        call(Field(layer), start())


def test_in_eval_mode_it_is_one_function():
    for layer in ("parametrization", "hook"):
        assert solve(Field(layer).eval(), start(), [0, 1]).values.isfinite().all()


def test_buffers_that_only_count_are_no_harm():
    class Counting(Field):
        def __init__(self) -> None:
            super().__init__("dropout")
            self.eval()
            self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

        def forward(self, t: Tensor, y: Tensor) -> Tensor:
            self.calls += 1
            return super().forward(t, y)

    f = Counting()
    solution = solve(f, start(), [0, 1])
    assert int(f.calls) == solution.statistics.forward.evaluations + 1  # the second one at the start


class OfNode(nn.Module):
    """The same layers as a field of a flow."""

    def __init__(self, layer: str) -> None:
        super().__init__()
        self.field = Field(layer)

    def forward(self, node: Node, y: Tensor) -> Tensor:
        return self.field(torch.tensor(node.t, dtype=DOUBLE), y)


@pytest.mark.parametrize("mode", ["backprop", "checkpoint", "adjoint"])
@pytest.mark.parametrize("layer", ["parametrization", "hook"])
def test_a_flow_on_an_adaptive_grid_refuses_it_in_training(layer, mode):
    flow = Flow(lambda node: OfNode(layer), 1, "dopri5", grid="adaptive", gradient=mode)
    with pytest.raises(SchemenetError, match=r"f changed its buffers .*" + REFUSED):
        flow(start())
    assert flow.eval()(start()).isfinite().all()


# f that differentiates ---------------------------------------------------------------------------------------------


def gradient_flow(t: Tensor, y: Tensor) -> Tensor:
    return -torch.autograd.grad((y**4).sum() / 4, y, create_graph=True)[0]


def the_same(t: Tensor, y: Tensor) -> Tensor:
    return -(y**3)


class Hamiltonian(nn.Module):
    """q' = H_p, p' = -H_q of a network H, which may depend on time."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.network = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 1)).double()

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        (gradient,) = torch.autograd.grad(self.network(y).sum(), y, create_graph=True)
        return torch.stack((gradient[..., 1], -gradient[..., 0]), -1)


class ByHand(Hamiltonian):
    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        first, _, last = self.network
        gradient = ((1 - torch.tanh(first(y)) ** 2) * last.weight) @ first.weight
        return torch.stack((gradient[..., 1], -gradient[..., 0]), -1)


CALLS: dict[str, Any] = {
    **{
        mode: lambda f, y, m=mode: solve(f, y, [0, 1], gradient=m).values
        for mode in ("backprop", "checkpoint", "adjoint")
    },
    "per_sample": lambda f, y: solve(f, y, [0, 1], batching="per_sample").values,
    "rk4": lambda f, y: solve(f, y, [0, 0.4, 1], scheme="rk4", grid=STEPS).values,
    "odeint": lambda f, y: odeint(f, y, [0.0, 1.0], rtol=1e-4, atol=1e-4),
    "odeint_adjoint": lambda f, y: odeint_adjoint(
        f, y, [0.0, 1.0], rtol=1e-4, atol=1e-4, adjoint_params=tuple(getattr(f, "parameters", tuple)())
    ),
    "scipy": lambda f, y: odeint_adjoint(
        f, y, [0.0, 1.0], method="scipy_solver", adjoint_params=tuple(getattr(f, "parameters", tuple)())
    ),
}  # fmt: skip


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_f_may_differentiate_by_its_state(call):
    y = torch.tensor([[0.5, -1.0], [1.2, 0.3]], dtype=DOUBLE)
    with torch.no_grad():
        torch.testing.assert_close(call(gradient_flow, y), call(the_same, y))
    assert not call(gradient_flow, 1 * y).requires_grad
    y.requires_grad_()
    for one, other in ((gradient_flow, the_same), (Hamiltonian(), ByHand())):
        results = []
        for f in (one, other):
            inputs = [y, *(f.network[0].parameters() if isinstance(f, Hamiltonian) else ())]
            values = call(f, y)
            results.append([values, *torch.autograd.grad(values.square().sum(), inputs)])
        for a, b in zip(*results, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-9)


def test_a_gradient_flow_has_second_derivatives_and_works_in_inference_mode():
    y = torch.tensor([0.5, -1.0], dtype=DOUBLE, requires_grad=True)
    second = []
    for f in (gradient_flow, the_same):
        (first,) = torch.autograd.grad(odeint(f, y, [0.0, 1.0], rtol=1e-5)[-1].sum(), y, create_graph=True)
        second.append(torch.autograd.grad(first.square().sum(), y)[0])
    torch.testing.assert_close(*second, rtol=1e-8, atol=1e-9)
    with torch.inference_mode():
        torch.testing.assert_close(odeint(gradient_flow, y, [0.0, 1.0]), odeint(the_same, y, [0.0, 1.0]))


def test_f_may_differentiate_by_its_time():
    def f(t: Tensor, y: Tensor) -> Tensor:
        return torch.autograd.grad(t**2 * y.sum(), t, create_graph=True)[0] * torch.ones_like(y) / y.numel()

    values = [solve(g, torch.ones(2, dtype=DOUBLE), [0, 1]).values for g in (f, lambda t, y: 2 * t * y.mean() + 0 * y)]
    torch.testing.assert_close(*values)


@pytest.mark.parametrize("mode", ["checkpoint", "adjoint"])
def test_a_graph_that_f_has_made_for_itself_is_no_tensor_that_was_forgotten(mode):
    def f(t: Tensor, y: Tensor) -> Tensor:
        with torch.enable_grad():
            y = y.detach().requires_grad_()
            return -torch.autograd.grad((y**2).sum() / 2, y, create_graph=True)[0]

    assert not solve(f, torch.ones(2, dtype=DOUBLE), [0, 1], gradient=mode).values.requires_grad
    held = torch.ones(2, dtype=DOUBLE, requires_grad=True)
    for forgotten in (lambda t, y: -y * held, lambda t, y: held):
        with pytest.raises(FieldError, match="f depends on a tensor that needs a gradient"):
            solve(forgotten, torch.ones(2, dtype=DOUBLE), [0, 1], gradient=mode)


@pytest.mark.parametrize("scheme", ["heun", "dopri5", "reversible_heun"])
def test_a_state_has_the_same_strides_when_f_is_evaluated_again(scheme: str) -> None:
    """With one channel they alone say whether it is channels last, by which convolutions and dropout order numbers."""
    strides: list[list[tuple[int, ...]]] = [[], []]

    class Seen(nn.Module):
        def __init__(self, channels: int) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(()))

        def forward(self, node: Node, y: Tensor) -> Tensor:
            strides[torch.is_grad_enabled()].append(y.stride())
            return self.weight * y

    y = torch.empty_strided((4, 1, 3, 3), (9, 1, 3, 1)).fill_(1.0).requires_grad_()
    make_flow(Seen, scheme, "checkpoint")(y).sum().backward()
    assert sorted(strides[False]) == sorted(strides[True])
    assert (9, 1, 3, 1) in strides[False]
