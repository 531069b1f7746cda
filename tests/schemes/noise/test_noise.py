"""Noise on a step against the papers' equations, written by hand; one draw seen alike by every gradient mode."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor, nn

from architectures import create_model
from schemes import NOISES, SCHEMES, Flow, Node, SchemenetError
from schemes.core.scheme import Scheme
from schemes.core.weighting import Weight, Weighted, weigh_by
from schemes.noise.base import Blocks
from schemes.registry import single_step

STEPS = 4


class Branch(nn.Module):
    def __init__(self, size: int = 4) -> None:
        super().__init__()
        self.layer = nn.Linear(size, size, dtype=torch.float64)

    def forward(self, node: Node, y: Tensor) -> Tensor:
        return torch.tanh(self.layer(y))


def flow(scheme, noise, gradient="backprop", channels=4, steps=STEPS):
    torch.manual_seed(0)
    return Flow(lambda node: Branch(), steps, scheme, gradient=gradient, noise=noise).double()


def drawn(one: Flow, x: Tensor, seed: int = 3) -> dict:
    """The weights that the next forward pass under this seed will draw."""
    torch.manual_seed(seed)
    weights = one.noise.draw(one.visits, one.blocks, x, one.training)
    torch.manual_seed(seed)
    return {place: weight.forward for place, weight in weights.items()}


def always(drop: float, per: str = "sample", name: str = "stochastic_depth") -> dict:
    return {"name": name, "drop": drop, "schedule": "constant", "per": per}


def test_stochastic_depth_drops_f_and_keeps_the_linear_terms_of_a_multistep_method():
    one = flow({"name": "linear_multistep", "k": -0.3}, always(0.5))
    x = torch.randn(6, 4, dtype=torch.float64)
    w = drawn(one, x)
    before, y = x, x + w[0, 0, 0] * one.bank.fields[0](None, x)
    for n in range(1, STEPS):
        before, y = y, 1.3 * y - 0.3 * before + w[n, 0, 0] * one.bank.fields[n](None, y)
    torch.testing.assert_close(one(x), y, rtol=0, atol=1e-12)
    assert {float(v) for v in torch.cat([w[n, 0, 0] for n in range(STEPS)]).flatten()} == {0.0, 2.0}


@pytest.mark.parametrize("scheme", ["heun", "rk4", "backward_euler_poly"])
def test_a_dropped_step_of_several_stages_is_the_identity_and_a_kept_one_is_scaled_as_a_whole(scheme):
    one = flow(scheme, always(0.4), steps=1)
    x = torch.randn(16, 4, dtype=torch.float64)
    w = drawn(one, x)[0, 0, 0]
    noisy = one(x)
    increment = one.eval()(x) - x
    torch.testing.assert_close(noisy, x + w * increment, rtol=0, atol=1e-12)
    assert 0 < int((w == 0).sum()) < 16


def test_stochastic_paths_drop_single_powers_that_stay_arguments_of_the_next():
    one = flow(
        {"name": "backward_euler_poly", "degree": 3, "form": "mpoly"}, always(0.5, name="stochastic_paths"), steps=1
    )
    f, g, h = one.bank.fields
    x = torch.randn(32, 4, dtype=torch.float64)
    w = drawn(one, x)
    expected = (
        x + w[0, 0, 0] * f(None, x) + w[0, 1, 0] * g(None, f(None, x)) + w[0, 2, 0] * h(None, g(None, f(None, x)))
    )
    torch.testing.assert_close(one(x), expected, rtol=0, atol=1e-12)
    patterns = {tuple(row) for row in torch.cat([w[0, s, 0] for s in range(3)], 1).bool().tolist()}
    assert (True, False, True) in patterns  # I + F + GF + HGF to I + F + HGF: F and G still reach H


@pytest.mark.parametrize("backward", ["shake", "even", "keep"])
def test_shake_shake_mixes_two_branches_and_weighs_their_gradients_apart(backward):
    one = flow({"name": "backward_euler_poly", "form": "way"}, {"name": "shake_shake", "backward": backward}, steps=1)
    f, g = one.bank.fields
    x = torch.randn(8, 4, dtype=torch.float64, requires_grad=True)
    torch.manual_seed(3)
    eta = torch.rand(8, 1, dtype=torch.float32).double()
    beta = {"shake": torch.rand(8, 1).double(), "even": torch.full((8, 1), 0.5).double(), "keep": eta}[backward]
    torch.manual_seed(3)
    y = one(x)
    torch.testing.assert_close(y, x + eta * f(None, x) + (1 - eta) * g(None, x), rtol=0, atol=1e-7)
    up = torch.randn_like(y)
    (found,) = torch.autograd.grad(y, x, up)
    (expected,) = torch.autograd.grad(x + beta * f(None, x) + (1 - beta) * g(None, x), x, up)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    mean = x + 0.5 * (f(None, x) + g(None, x))
    torch.testing.assert_close(one.eval()(x), mean, rtol=0, atol=1e-12)


def test_shake_shake_is_refused_where_a_step_has_no_two_branches():
    with pytest.raises(SchemenetError, match=r"form=way"):
        flow("heun", "shake_shake")


RULES = {
    "linear": lambda block, total: (block - 1) / (total - 1),  # the released codes' and timm's
    "linear_paper": lambda block, total: block / total,
    "constant": lambda block, total: 1.0,
}


@pytest.mark.parametrize("schedule", RULES)
@pytest.mark.parametrize("name", ["stochastic_depth", "stochastic_paths"])
def test_rates_follow_the_block_of_the_network_by_the_rule_that_is_named(name, schedule):
    noise = NOISES.build({"name": name, "drop": 0.6, "per": "sample", "schedule": schedule})
    assert NOISES.defaults(name)["schedule"] == "linear"
    visits = [Node(n, float(n), 1.0) for n in range(3)]
    torch.manual_seed(0)
    weights = noise.draw(visits, Blocks(first=4, total=7), torch.zeros(20000, 1), training=True)
    for n in range(3):
        expected = 0.6 * RULES[schedule](4 + n + 1, 7)
        kept = weights[n, 0, 0].forward
        # three standard deviations of the share of dropped samples
        assert abs(float((kept == 0).double().mean()) - expected) < 3 * (expected * (1 - expected) / 20000) ** 0.5
        assert float(kept.max()) == pytest.approx(1 / (1 - expected), rel=1e-6)


# Which arguments noise reaches

SPECS = [
    *SCHEMES,
    single_step("backward_euler"),
    single_step("trapezoidal"),
    {"name": "adams_moulton", "order": 2, "iterations": 2},
    {"name": "backward_euler_poly", "degree": 3},
    {"name": "reversible_wrap", "base": "rk4"},
]


STRUCTURES = {
    "tensor": lambda y: y,
    "tuple": lambda y: (y[:1], y[1:]),
    "complex": lambda y: torch.complex(*y.chunk(2)),
}  # fmt: skip
"""A state of one component from four numbers."""


def slope(at: Node, y: Tensor | tuple[Tensor, ...]) -> Tensor | tuple[Tensor, ...]:
    return tuple(torch.sin(part + at.t) for part in y) if isinstance(y, tuple) else torch.sin(y + at.t)


def arguments(scheme: Scheme, node: Node, carry: tuple, factor: float) -> list[Tensor]:
    """The arguments of a step's evaluations after the first, each weighted by ``factor`` where it enters a sum."""
    found: list[Tensor] = []

    def f(at: Node, y: Tensor | tuple[Tensor, ...]) -> Tensor | tuple[Tensor, ...]:
        if not at.trial:
            found.extend(y if isinstance(y, tuple) else [y])
        return slope(at, y)

    weights = {(node.step, stage, part): Weight(factor) for stage in range(20) for part in range(scheme.components)}
    scheme.step(Weighted(f, weigh_by(weights)), node, *carry)
    return found


def noise_reaches_arguments(scheme: Scheme, structure: str = "tensor") -> bool:
    """Whether in one of the first steps an argument depends on the weight of another evaluation."""
    scheme.allocate(4)
    y = torch.linspace(0.3, 1.2, 4).double()
    state = STRUCTURES[structure](y) if scheme.components == 1 else tuple(y + i for i in range(scheme.components))
    carry = state, scheme.init_state(state)
    for step in range(4):
        node = Node(step, 0.1 * step, 0.1)
        plain, noisy = (arguments(scheme, node, carry, factor) for factor in (1.0, 3.0))
        if not all(torch.equal(a, b) for a, b in zip(plain, noisy, strict=True)):
            return True
        carry = scheme.step(slope, node, *carry)
    return False


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_noise_stays_off_the_arguments_of_f_unless_a_scheme_declares_otherwise(spec):
    scheme = SCHEMES.build(spec)
    for structure in STRUCTURES if scheme.components == 1 else ["tensor"]:
        assert noise_reaches_arguments(scheme, structure) == scheme.noise_reaches_arguments, structure


def test_a_scheme_that_forgets_to_separate_weights_is_found():
    class Forgetful(Scheme):
        order, stages = 2, 2

        def step(self, f, node, y, solver_state):
            k = f(node, y)
            return y + node.h / 2 * (k + f(node.at(1, 1.0), y + node.h * k)), solver_state

    assert noise_reaches_arguments(Forgetful()) != Forgetful.noise_reaches_arguments


ANOTHER_MEAN = {
    "symplectic_euler": range(3), "verlet": range(3),  # the second part is moved by f at the first one's noisy value
    "adams_moulton": (2,),  # the corrector is f at the noisy predictor; before, the steps are Runge-Kutta's
    "asynchronous_leapfrog": (0,), "reversible_heun": (0,),  # started by an evaluation of the first step
}  # fmt: skip
"""Steps of three whose mean under noise is not the step."""


@pytest.mark.parametrize("name", [name for name in SCHEMES if name != "fractal"])
def test_the_mean_of_a_noisy_step_is_the_step_where_the_weight_enters_linearly(name):
    """Exactly: the mean over both outcomes of one step's weight, weighed by their probabilities."""
    torch.manual_seed(0)
    scheme = SCHEMES.build(name)
    size, rate = 4 // scheme.components, 0.3
    one = Flow(lambda node: Branch(size), 3, single_step(name), grid={"name": "uniform", "time": 1.0})
    x = torch.randn(3, 4, dtype=torch.float64)
    y = x.chunk(2, 1) if scheme.components == 2 else x
    solver_state = one.scheme.init_state(y)

    def joined(state):
        return torch.cat(state, 1) if isinstance(state, tuple) else state

    def stepped(node: Node, weight: float) -> Tensor:
        weights = {visit.place: Weight(weight) for visit in one.visits if visit.step == node.step}
        return joined(one.scheme.step(Weighted(one.bank, weigh_by(weights)), node, y, solver_state)[0])

    for node in one.nodes:
        mean = rate * stepped(node, 0.0) + (1 - rate) * stepped(node, 1 / (1 - rate))
        y, solver_state = one.scheme.step(one.bank, node, y, solver_state)
        apart = float((mean - joined(y)).detach().abs().max())
        assert (apart < 1e-12) is (node.step not in ANOTHER_MEAN.get(name, ())), apart


def trained(one: Flow, x: Tensor) -> tuple[Tensor, list[Tensor], Tensor]:
    torch.manual_seed(5)
    x = x.clone().requires_grad_()
    y = one(x)
    y.square().sum().backward()
    return y, [x.grad, *(p.grad for p in one.parameters())], torch.get_rng_state()


NOISY = [
    ("checkpoint", "heun", "stochastic_depth"),
    ("checkpoint", "linear_multistep", "stochastic_depth"),
    ("checkpoint", "backward_euler_poly", "stochastic_paths"),
    ("checkpoint", {"name": "backward_euler_poly", "form": "way"}, "shake_shake"),
    ("reversible", "leapfrog", "stochastic_depth"),
    ("reversible", "leapfrog", "stochastic_paths"),
]


@pytest.mark.parametrize(("mode", "scheme", "noise"), NOISY)
def test_every_gradient_mode_differentiates_the_same_noisy_steps(mode, scheme, noise):
    spec = noise if noise == "shake_shake" else always(0.5, name=noise)
    x = torch.randn(5, 4, dtype=torch.float64)
    y, gradients, state = trained(flow(scheme, spec), x)
    other, found, after = trained(flow(scheme, spec, mode), x)
    assert torch.equal(y, other)
    assert torch.equal(state, after)
    for a, b in zip(gradients, found, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-10)


def test_the_adjoint_solves_the_ode_of_the_noisy_field():
    errors = []
    for steps in (8, 16, 32):
        built = []
        for mode in ("backprop", "adjoint"):
            torch.manual_seed(0)
            grid = {"name": "uniform", "time": 1.0}
            noise = always(0.5)
            one = Flow(lambda node: Branch(), steps, "heun", "shared", grid, mode, noise=noise).double()
            built.append(
                trained(one, torch.randn(5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1)))
            )
        errors.append(max(float((a - b).abs().max()) for a, b in zip(built[0][1], built[1][1], strict=True)))
    assert errors[2] < errors[0] / 3


def test_the_adjoint_refuses_noise_on_single_terms():
    with pytest.raises(SchemenetError, match="stochastic_depth"):
        flow("heun", "stochastic_paths", "adjoint")


@pytest.mark.parametrize("drop", [-0.1, 1.0])
def test_a_rate_out_of_range_is_refused(drop):
    with pytest.raises(SchemenetError, match=r"drop expected to be in \[0, 1\)"):
        NOISES.build({"name": "stochastic_depth", "drop": drop})


IMAGE = ("resnet20", "revnet38", "lm_resnet20", "ode_resnet", "polynet20")


@pytest.mark.parametrize(("name", "noise"), list(itertools.product(IMAGE, ["stochastic_depth", "stochastic_paths"])))
def test_networks_count_their_transitions_among_the_blocks(name, noise):
    network = create_model(name, noise=noise, width=0.25, image_size=8)
    crossings = [stage.transition for stage in network.stages if stage.transition is not None]
    places = [c.blocks.first for c in crossings]
    for flow in network.flows:
        places += [flow.blocks.first + n for n in range(len(flow.nodes))]
    assert sorted(places) == list(range(network.flows[0].blocks.total))


def test_a_transition_under_noise_keeps_its_shortcut():
    network = create_model("resnet20", noise=always(0.9), width=0.25, image_size=8).train()
    crossing = network.stages[1].transition
    x = torch.randn(64, 4, 8, 8)
    torch.manual_seed(1)
    y, (shortcut,) = crossing(x)
    dropped = (y - shortcut).flatten(1).abs().amax(1) == 0
    assert 32 < int(dropped.sum()) < 64


@pytest.mark.parametrize("scheme", [name for name in SCHEMES if name != "fractal"])
def test_every_scheme_takes_stochastic_depth_and_evaluation_has_none(scheme):
    network = create_model("mlp", in_chans=2, image_size=None, scheme=scheme, noise=always(0.5), hidden=8)
    plain = create_model("mlp", in_chans=2, image_size=None, scheme=scheme, hidden=8)
    plain.load_state_dict(network.state_dict())
    x = torch.randn(7, 2)
    torch.testing.assert_close(network.eval()(x), plain.eval()(x))
    assert not torch.equal(network.train()(x), plain.train()(x))


@pytest.mark.parametrize("gradient", ["backprop", "checkpoint"])
def test_noise_keeps_half_precision_streams(gradient):
    one = flow("heun", always(0.5), gradient).to(torch.bfloat16)
    assert one(torch.randn(5, 4, dtype=torch.bfloat16)).dtype == torch.bfloat16
