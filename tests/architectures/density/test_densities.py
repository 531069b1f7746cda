"""Densities: every network against autograd's Jacobian and against closed forms, and what estimates are worth."""

from __future__ import annotations

import copy
import math
import pickle
import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from architectures.density.base import DensityModel, join, part, standard_normal
from architectures.density.continuous import ContinuousDensity, Dynamics, Transport
from architectures.registry import ARCHITECTURES, FIELDS
from schemes.core.node import Node
from schemes.errors import NonFiniteError, SchemenetError
from schemes.flow import Flow

NETWORKS = [name for name in ARCHITECTURES if "density" in ARCHITECTURES.entry(name).facts.get("task", ())]
CONTINUOUS = [name for name in NETWORKS if "grid" in ARCHITECTURES.parameters(name)]
VECTOR_FIELDS = [name for name in FIELDS if FIELDS.entry(name).facts.get("state") == "vector"]
TIGHT = {"name": "adaptive", "rtol": 1e-9, "atol": 1e-9}
SMALL: dict[str, dict[str, Any]] = {
    "cnf": {"units": 5, "field": {"name": "planar", "hidden": 4}, "grid": TIGHT},
    "ffjord": {"hidden": 6, "flows": 2, "field": {"name": "concat_squash", "layers": 2}, "grid": TIGHT},
    "planar_flow": {"layers": 5},
    "planar_flow_vi": {"layers": 5},
    "nice": {"steps": 2, "hidden": 6},
    "real_nvp": {"steps": 2, "hidden": 6},
}


def built(name: str, dims: int, **options: Any) -> Any:
    return ARCHITECTURES.build({"name": name, **options}, in_chans=dims)


def small(name: str, dims: int = 2, scale: float = 0.5, **options: Any) -> Any:
    """A network in float64, off its initial weights, in evaluation: without estimates."""
    torch.manual_seed(0)
    model = built(name, dims, **{**SMALL[name], **options}).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(scale * torch.randn_like(parameter) / math.sqrt(max(parameter.shape, default=1)))
    return model


def points(n: int = 6, dims: int = 2, seed: int = 1) -> Tensor:
    return torch.randn(n, dims, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def gradients(loss: Tensor, model: nn.Module) -> dict[str, Tensor]:
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    return dict(zip(trained, torch.autograd.grad(loss, list(trained.values())), strict=True))


def test_every_density_network_is_tried_here() -> None:
    assert set(SMALL) == set(NETWORKS) != set()


@pytest.mark.parametrize("name", SMALL)
def test_a_density_names_its_reference_and_can_be_copied(name: str) -> None:
    assert re.search(r"References?: .*?\b(19|20)\d\d\b", str(ARCHITECTURES[name].__doc__), re.DOTALL)
    model, x = small(name), points()
    expected = model.log_density(x)
    for again in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(again.log_density(x), expected)


# The map and its determinant ----------------------------------------------------------------------------


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("name", SMALL)
def test_log_determinants_are_those_of_the_jacobian(name: str, dims: int) -> None:
    model, x = small(name, dims), points(3, dims)
    for way in (model.to_noise, model.from_noise):
        _, log_det = way(x)
        jacobian = torch.autograd.functional.jacobian(lambda y, way=way: way(y)[0].sum(0), x).transpose(0, 1)
        torch.testing.assert_close(log_det, torch.linalg.slogdet(jacobian).logabsdet, rtol=0, atol=2e-7)
        assert log_det.detach().abs().max() > 1e-3


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("name", SMALL)
def test_there_and_back_restores_sample_and_likelihood(name: str, dims: int) -> None:
    model, x = small(name, dims), points(20, dims)
    z, log_det = model.to_noise(x)
    again, back = model.from_noise(z)
    torch.testing.assert_close(again, x, rtol=0, atol=1e-7)
    torch.testing.assert_close(back, -log_det, rtol=0, atol=1e-7)
    states = model.along(z, 3)
    torch.testing.assert_close(states[0][1], z)
    torch.testing.assert_close(states[-1][1], x, rtol=0, atol=1e-7)
    assert len({word for word, _ in states}) == len(states) >= 3


@pytest.mark.parametrize("train_time", [False, True])
def test_the_last_time_on_the_way_is_said_to_be_trained(train_time: bool) -> None:
    model = small("cnf", train_time=train_time)
    end = float(model.transports[0].times()[-1].detach())
    last = model.along(points(3), 3)[-1][0]
    assert last == (f"T = {end:.2f}, trained" if train_time else f"t = {end:.2f}")


@pytest.mark.parametrize("name", SMALL)
def test_density_integrates_to_one(name: str) -> None:
    loose = {"grid": {"name": "adaptive", "rtol": 1e-6, "atol": 1e-6}} if name in CONTINUOUS else {}
    model = small(name, scale=0.1, **loose)
    axis = torch.linspace(-14, 14, 201, dtype=torch.float64)
    with torch.no_grad():
        mass = model.log_density(torch.cartesian_prod(axis, axis)).exp().sum() * (axis[1] - axis[0]) ** 2
    assert float(mass) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("name", SMALL)
def test_samples_have_the_density_that_is_said(name: str) -> None:
    model = small(name, scale=0.1)
    x = model.sample(4000, torch.Generator().manual_seed(0))
    torch.testing.assert_close(x[:5], model.sample(4000, torch.Generator().manual_seed(0))[:5])
    axis = torch.linspace(-9, 9, 91, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis)
    with torch.no_grad():
        density = model.log_density(grid).exp() * (axis[1] - axis[0]) ** 2
    mean, variance = density @ grid, density @ grid.square() - (density @ grid).square()
    assert ((x.mean(0) - mean).abs() < 4.5 * (variance / 4000).sqrt()).all()


@pytest.mark.parametrize("name", NETWORKS)
def test_a_training_step_runs_where_there_are_no_numbers(name: str) -> None:
    with torch.device("meta"):
        model: DensityModel = built(name, 3, **SMALL[name])
        assert model.eval().log_density(model.random_batch((3,), 7)).shape == (7,)
    model.train().loss(model.random_batch((3,), 7)).backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    assert model.eval().sample(4).shape == (4, 3)


@pytest.mark.parametrize("name", SMALL)
def test_both_losses_have_the_gradients_of_finite_differences(name: str) -> None:
    model, x = small(name), points(4)

    def losses() -> tuple[Tensor, Tensor]:
        return model.loss(x), model.matching_loss(lambda y: (y - 1).square().sum(1), x)

    torch.manual_seed(3)
    trained = [p for p in model.parameters() if p.requires_grad]
    along = [torch.randn_like(p) for p in trained]
    found = [torch.autograd.grad(loss, trained) for loss in losses()]
    ends = []
    for step in (1e-5, -2e-5):
        with torch.no_grad():
            for parameter, direction in zip(trained, along, strict=True):
                parameter.add_(step * direction)
            ends.append(torch.stack(losses()))
    right = (ends[0] - ends[1]) / 2e-5
    for gradient, slope in zip(found, right, strict=True):
        told = sum((g * v).sum() for g, v in zip(gradient, along, strict=True))
        torch.testing.assert_close(told, slope, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", SMALL)
def test_a_density_matches_its_own_energy(name: str) -> None:
    model = small(name)
    assert float(model.matching_loss(lambda y: -model.log_density(y), points()).detach()) == pytest.approx(0, abs=1e-6)


# Layered flows ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("analytic", ["to_noise", "from_noise"])
def test_planar_layers_stay_invertible_whatever_their_weights(analytic: str) -> None:
    model = small("planar_flow", 3, layers=6, analytic=analytic)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(20 * torch.randn_like(parameter))
        u, slack = model.directions()
        assert ((model.w * model.u).sum(1) < -1).any()  # the weights themselves are not
        torch.testing.assert_close((model.w * u).sum(1), slack - 1, rtol=1e-12, atol=1e-9)
        assert (slack > 0).all()
        formula, search = model.to_noise, model.from_noise
        if analytic == "from_noise":
            formula, search = search, formula
        z, log_det = formula(points(50, 3))
        assert torch.isfinite(log_det).all()
        x, _ = search(z)
        torch.testing.assert_close(formula(x)[0], z, rtol=0, atol=1e-6)


def test_planar_layers_begin_by_moving_nearly_nothing() -> None:
    model = built("planar_flow", 2, layers=50)
    x = torch.randn(20, 2)
    assert float((model.to_noise(x)[0].detach() - x).norm()) < 0.2 * float(x.norm())


def test_the_couplings_of_nice_keep_volumes() -> None:
    model, x = small("nice", 3), points(3, 3)
    with torch.no_grad():
        model.log_scale.zero_()
    jacobian = torch.autograd.functional.jacobian(lambda y: model.to_noise(y)[0].sum(0), x).transpose(0, 1)
    torch.testing.assert_close(torch.linalg.det(jacobian), torch.ones(3).double(), rtol=0, atol=1e-12)
    assert (model.to_noise(x)[1] == 0).all()


@pytest.mark.parametrize("dims", [2, 3, 64])
def test_columns_are_parted_and_joined(dims: int) -> None:
    x = points(4, dims)
    even, odd = part(x)
    assert even.shape[1] - odd.shape[1] == dims % 2
    assert torch.equal(join(even, odd), x)


@pytest.mark.parametrize("name", ["nice", "real_nvp"])
def test_one_column_cannot_be_coupled(name: str) -> None:
    with pytest.raises(SchemenetError, match="1 column; use ffjord or cnf"):
        built(name, 1)


@pytest.mark.parametrize("scheme", ["symplectic_euler", "verlet"])
def test_nice_has_one_gradient_in_every_mode(scheme: str) -> None:
    losses = {}
    for mode in ("backprop", "checkpoint", "reversible"):
        model = small("nice", 3, scheme=scheme, gradient=mode).train()
        losses[mode] = gradients(model.loss(points(5, 3)), model)
    for mode in ("checkpoint", "reversible"):
        torch.testing.assert_close(losses[mode], losses["backprop"], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("scheme", ["forward_euler", "leapfrog"])
def test_nice_needs_a_coupled_scheme(scheme: str) -> None:
    with pytest.raises(SchemenetError, match=f"couples two parts of a vector, and scheme {scheme!r} has one component"):
        built("nice", 2, scheme=scheme)


def test_a_flow_that_remembers_cannot_be_undone_from_its_end() -> None:
    flow = Flow(lambda node: Linear(MATRIX), 3, "leapfrog")
    with pytest.raises(SchemenetError, match="Leapfrog cannot be undone from the end state alone; use symplectic"):
        next(flow.undone(points(2, 3)))


# Continuous flows ---------------------------------------------------------------------------------------


class Linear(nn.Module):
    """f = A y."""

    def __init__(self, matrix: Tensor) -> None:
        super().__init__()
        self.matrix = nn.Parameter(matrix)

    def forward(self, node: Node, y: Tensor) -> Tensor:
        return y @ self.matrix.T


def continuous(field: nn.Module, dims: int, time: float = 0.7, **options: Any) -> ContinuousDensity:
    axes: dict[str, Any] = {"scheme": "dopri5", "grid": TIGHT, "gradient": "checkpoint"}
    settings: dict[str, Any] = {"trace": "exact", "kinetic": 0.0, "jacobian": 0.0, "draws": 8}
    axes |= {key: options.pop(key) for key in axes if key in options}
    return ContinuousDensity(dims, [Transport(field, time, True, **axes)], **{**settings, **options}).double()


MATRIX = torch.tensor([[0.3, -1.0, 0.2], [0.5, -0.4, 0.1], [-0.2, 0.7, 0.6]], dtype=torch.float64)


@pytest.mark.parametrize("trace", ["exact", "rademacher"])
def test_a_linear_field_in_closed_form(trace: str) -> None:
    matrix = MATRIX if trace == "exact" else MATRIX.diag().diag()  # signs find the trace of a diagonal one exactly
    model, z = continuous(Linear(matrix), 3, trace=trace).train(), points(5, 3)
    x, log_det = model.from_noise(z)
    torch.testing.assert_close(x, z @ torch.linalg.matrix_exp(0.7 * matrix).T, rtol=0, atol=1e-7)
    torch.testing.assert_close(log_det, (0.7 * matrix.trace()).expand(5), rtol=0, atol=1e-7)
    torch.testing.assert_close(model.log_density(x), standard_normal(z) - 0.7 * matrix.trace(), rtol=0, atol=1e-7)


def field(name: str, dims: int) -> nn.Module:
    torch.manual_seed(2)
    return FIELDS.build(name, channels=dims, out=dims, inner=5).double()


@pytest.mark.parametrize("name", VECTOR_FIELDS)
def test_trace_and_norm_are_those_of_the_jacobian(name: str) -> None:
    dynamics, x, t = Dynamics(field(name, 3)), points(4, 3), torch.tensor(0.4).double()
    jacobian = torch.autograd.functional.jacobian(lambda y: dynamics(t, y).sum(0), x).transpose(0, 1)
    right = jacobian.diagonal(dim1=1, dim2=2).sum(1)
    nothing = torch.zeros(4).double()
    velocity, trace = dynamics(t, (x, nothing))
    torch.testing.assert_close(velocity, dynamics(t, x))
    torch.testing.assert_close(trace, right)
    _, trace, energy, squares = dynamics(t, (x, nothing, nothing, nothing))
    torch.testing.assert_close(trace, right)
    torch.testing.assert_close(energy, velocity.square().sum(1))
    torch.testing.assert_close(squares, jacobian.square().sum((1, 2)))


@pytest.mark.parametrize("trace", ["gaussian", "rademacher"])
def test_hutchinson_is_right_on_average(trace: str) -> None:
    n, f = 20_000, field("concat_squash", 3)
    model = continuous(f, 3, trace=trace).train()
    x, nothing, t = points(1, 3).expand(n, 3), torch.zeros(n).double(), torch.tensor(0.4).double()
    f.requires_grad_(False)
    (noise,) = model.noise(x)
    assert float((noise.T @ noise / n - torch.eye(3)).abs().max()) < 0.05
    with torch.no_grad():
        rates = zip(Dynamics(f)(t, (x, nothing, nothing, nothing), noise)[1:], strict=True)
        right = Dynamics(f)(t, tuple(part[:1] for part in (x, nothing, nothing, nothing)))[1:]
        for (found,), (exact,) in zip(rates, right, strict=True):
            assert abs(float(found.mean() - exact)) <= 4 * float(found.std()) / math.sqrt(n) + 1e-12
    assert float(Dynamics(f)(t, (x, nothing), noise)[1].std()) > 1e-3


def test_noise_belongs_to_its_solve() -> None:
    """Two forward passes before one backward: each is differentiated with the noise that it drew."""
    model, x = small("ffjord", grid={"name": "uniform", "steps": 3}, scheme="rk4").train(), points()
    together, apart = [], []
    torch.manual_seed(5)
    together = gradients(model.loss(x) + 2 * model.loss(x), model)
    torch.manual_seed(5)
    apart = [gradients(model.loss(x), model) for _ in range(2)]
    assert not torch.equal(apart[0]["transports.0.log_time"], apart[1]["transports.0.log_time"])
    for name, gradient in together.items():
        torch.testing.assert_close(gradient, apart[0][name] + 2 * apart[1][name], rtol=1e-9, atol=1e-12)


MODES: dict[str, dict[str, Any]] = {
    "backprop": {},
    "checkpoint": {},
    "adjoint": {"tolerance": 1e-5},
    "reversible": {"scheme": {"name": "reversible_wrap", "base": "rk4"}},
    "adjoint, adaptive": {"scheme": "dopri5", "grid": TIGHT, "tolerance": 1e-5},
    "reversible, adaptive": {"scheme": "asynchronous_leapfrog", "grid": {**TIGHT, "rtol": 1e-4, "atol": 1e-4}},
}


@pytest.mark.parametrize("name", CONTINUOUS)
@pytest.mark.parametrize("mode", MODES)
def test_gradient_modes_agree(name: str, mode: str) -> None:
    options = {"scheme": "rk4", "grid": {"name": "uniform", "steps": 12}, **MODES[mode]}
    tolerance = options.pop("tolerance", 1e-9)
    if name == "ffjord":
        options |= {"kinetic": 0.1, "jacobian": 0.1}
    found = []
    for gradient in (mode.split(",")[0], "backprop"):
        model = small(name, gradient=gradient, **options).train()
        torch.manual_seed(4)
        found.append(gradients(model.loss(points()), model))
    torch.testing.assert_close(*found, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", CONTINUOUS)
def test_the_end_time_gets_its_gradient(name: str) -> None:
    model, x = small(name, train_time=True).train(), points()

    def loss() -> Tensor:
        torch.manual_seed(6)
        return model.loss(x)

    for transport in model.transports:
        (found,) = torch.autograd.grad(loss(), transport.log_time)
        ends = []
        for step in (1e-4, -2e-4):
            with torch.no_grad():
                transport.log_time.add_(step)
                ends.append(float(loss()))
        assert abs(float(found)) > 1e-3
        assert float(found) == pytest.approx((ends[0] - ends[1]) / 2e-4, rel=1e-4, abs=1e-7)


def test_an_end_time_that_was_lost_in_training_ends_the_run_as_diverged() -> None:
    model = built("ffjord", 2)
    model.transports[0].log_time.data.fill_(torch.nan)
    with pytest.raises(NonFiniteError, match="the end time of a flow, which is trained, has become nan"):
        model.loss(points(2))


def test_an_end_time_that_is_not_trained_stays() -> None:
    model = built("ffjord", 2, train_time=False, time=0.25)
    assert not model.transports[0].log_time.requires_grad
    assert model.transports[0].times().tolist() == [0, 0.25]


def test_regularisers_are_the_integrals_along_the_paths() -> None:
    model, x = continuous(field("concat_squash", 2), 2, kinetic=0.3, jacobian=0.2).train(), points()
    plain = continuous(model.transports[0].path.functions[0].field, 2).train().loss(x).detach()
    path, steps = model.transports[0].path, 400
    times = torch.linspace(0.7, 0, steps + 1).double()
    states = path(x, times).values.detach()
    nothing = torch.zeros(len(x)).double()
    weights = torch.full((steps + 1,), 0.7 / steps).double()
    weights[0], weights[-1] = weights[0] / 2, weights[-1] / 2
    energy = squares = 0.0
    for weight, t, y in zip(weights, times, states, strict=True):
        jacobian = torch.autograd.functional.jacobian(lambda s, t=t: path.functions[0](t, s).sum(0), y)
        energy += weight * path.functions[0](t, (y, nothing))[0].square().sum(1).mean().detach()
        squares += weight * jacobian.square().sum((0, 2)).mean()
    torch.testing.assert_close(model.loss(x) - plain, 0.3 * energy + 0.2 * squares, rtol=1e-4, atol=0)
    z, log_det = model.to_noise(x)  # the same paths, from their other end
    divergence = (standard_normal(z) + log_det + x.square().sum(1)).mean()
    matching = model.matching_loss(lambda y: y.square().sum(1), z)
    torch.testing.assert_close(matching - divergence, 0.3 * energy + 0.2 * squares, rtol=1e-4, atol=0)
    assert float(model.eval().loss(x).detach()) == pytest.approx(float(plain))  # evaluation is of the density alone


def test_beyond_64_dimensions_likelihoods_are_estimates_with_an_error() -> None:
    torch.manual_seed(0)
    wide, x = field("mlp_time", 65), points(40, 65)
    loose = {"name": "uniform", "steps": 3}
    model = continuous(wide, 65, trace="gaussian", draws=30, scheme="rk4", grid=loose).eval()
    with torch.no_grad():
        found, error = model.likelihood(x)
        exact, none = continuous(wide, 65, scheme="rk4", grid=loose).eval().likelihood(x)
        torch.testing.assert_close(model.log_density(x).mean(), exact.mean(), rtol=0.02, atol=0)
    assert none is None
    assert (error > 0).all()
    assert float(((found - exact) / error).square().mean()) == pytest.approx(1, abs=0.6)


def test_up_to_64_dimensions_evaluation_estimates_nothing() -> None:
    model = small("ffjord", 64, flows=1, grid={"name": "uniform", "steps": 1}, scheme="rk4")
    first, error = model.likelihood(points(2, 64))
    assert error is None
    assert torch.equal(first, model.log_density(points(2, 64)))
    model.train()
    assert not torch.equal(model.log_density(points(2, 64)), model.log_density(points(2, 64)))


def test_a_frozen_density_is_evaluated_with_gradients_on() -> None:
    model = small("ffjord").requires_grad_(False)
    assert not model.log_density(points()).requires_grad


SIZES: list[tuple[str, dict[str, Any], int]] = [
    ("ffjord", {}, 9225),  # as the authors' script, T among them
    ("planar_flow", {"layers": 32}, 32 * 5),
    ("cnf", {"units": 32}, (32 + 32) + (32 * 32 + 32) + 33 * 32 * 6),
]


@pytest.mark.parametrize(("name", "options", "expected"), SIZES)
def test_number_of_parameters(name: str, options: dict[str, Any], expected: int) -> None:
    model = built(name, 2, **options)
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == expected


GRID_OF_2 = {"name": "uniform", "steps": 2}


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("ffjord", {"kinetic": -1.0}, "kinetic expected to be at least 0, got -1.0"),
        ("ffjord", {"draws": 1}, "draws expected to be at least 2"),
        ("ffjord", {"time": 0.0}, "time expected to be positive"),
        ("ffjord", {"trace": "gauss"}, "trace expected one of 'exact', 'gaussian', 'rademacher', got 'gauss'"),
        ("cnf", {"field": "basic"}, "fields that take them: concat, concat_squash, mlp, mlp_time, planar; got 'basic'"),
        ("cnf", {"field": {"name": "planar", "hidden": 0}}, "hidden expected to be at least 1, got 0"),
        ("cnf", {"scheme": "symplectic_euler"}, "couples 2 parts of a state"),
        (
            "cnf",
            {"scheme": "fractal", "grid": GRID_OF_2},
            "scheme 'fractal' is no method for y' = f, and what it makes",
        ),
        ("ffjord", {"scheme": "backward_euler_poly", "grid": GRID_OF_2}, "scheme 'backward_euler_poly' is no method"),
        ("planar_flow", {"layers": 0}, "layers expected to be positive, got 0"),
    ],
)
def test_what_cannot_be_built_is_told(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(SchemenetError, match=message):
        built(name, 2, **options)
