"""The reversible wrap of a one-step method, and the watch over what an inverse rebuilds."""

from __future__ import annotations

import math
import re
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor

from schemes.core.node import Node
from schemes.core.weighting import Weight, Weighted, weigh_by
from schemes.errors import SchemenetError
from schemes.flow import Flow
from schemes.gradients.recomputation.reconstruction_error import ENTRIES, fingerprint, reconstruction_error
from schemes.gradients.reversible import InversionErrorWarning
from schemes.integration.visited_nodes import visited
from schemes.registry import SCHEMES
from tests.support.problems import Tanh, batch, bytes_kept, distance, make_flow, spec_id, weighted


def wrap(base: Any = "heun", coupling: float | None = None) -> dict[str, Any]:
    return {"name": "reversible_wrap", "base": base, "coupling": coupling}


# The method


def euler(f: Any, t: float, u: Tensor, h: float) -> Tensor:
    return h * f(t, u)


def heun(f: Any, t: float, u: Tensor, h: float) -> Tensor:
    k = f(t, u)
    return h / 2 * (k + f(t + h, u + h * k))


@pytest.mark.parametrize(("base", "psi"), [("forward_euler", euler), ("heun", heun)])
@pytest.mark.parametrize("coupling", [0.7, 1.0, None])
def test_it_is_the_papers_recursion(base: str, psi: Any, coupling: float | None) -> None:
    """y <- l y + (1 - l) z + Psi_h(t, z), then z <- z - Psi_{-h}(t + h, y), the weights those of the step."""
    flow = make_flow(scheme=wrap(base, coupling), steps=5)
    l = 0.1 ** (1 / 5) if coupling is None else coupling  # noqa: E741
    y = z = batch()
    for node in flow.nodes:
        field = flow.bank.at(node)
        f = lambda t, u, n=node, field=field: field(n._replace(t=t), u)
        y = l * y + (1 - l) * z + psi(f, node.t, z, node.h)
        z = z - psi(f, node.t + node.h, y, -node.h)
    assert distance(flow(batch()), y) < 1e-13


def test_between_its_ends_a_step_goes_from_its_state_to_the_next() -> None:
    """Of two states that differ the interpolant is that of the one that is stepped, and what is left of the other."""
    field, y, z = Tanh(6).double(), batch(), batch() + 0.1
    attempt = SCHEMES.build(wrap("dopri5", 0.7)).attempt(field, Node(1, 0.5, 0.25), y, (z,))
    forth = SCHEMES.build("dopri5").attempt(field, Node(1, 0.5, 0.25), z, ())
    for theta in (0.0, 0.4, 1.0):
        left = 1 - 0.3 * theta
        assert distance(attempt.interpolate(theta), forth.interpolate(theta) + left * (y - z)) < 1e-13
    assert distance(attempt.interpolate(0.0), y) < 1e-13
    assert distance(attempt.interpolate(1.0), attempt.y) < 1e-13


def test_the_step_back_is_numbered_on_and_starts_at_the_end() -> None:
    found = visited(SCHEMES.build(wrap("rk3")), [Node(4, 2.0, 0.5)])
    assert found == [Node(4, t, 0.5, stage) for stage, t in enumerate((2.0, 2.25, 2.5, 2.5, 2.25, 2.0))]


@pytest.mark.parametrize("steps", [1, 2, 8, 1000, 10**6])
def test_the_coupling_stretches_an_error_tenfold_over_all_steps(steps: int) -> None:
    scheme = SCHEMES.build("reversible_wrap")
    scheme.allocate(steps)
    assert 0 < scheme.coupling < 1
    assert scheme.coupling**-steps == pytest.approx(10, rel=1e-6)


def test_noise_acts_on_what_both_base_steps_add_and_not_on_their_arguments() -> None:
    """A dropped step hands its state on; a weight w makes it u + w Psi."""
    scheme, node = SCHEMES.build(wrap("heun", 0.5)), Node(3, 0.4, 0.5)
    f = lambda n, u: torch.sin(u + n.t)
    y, z = batch(seed=1), batch(seed=2)
    places = [visit.place for visit in visited(scheme, [node])]
    for w in (0.0, 0.3):
        found, (second,) = scheme.step(Weighted(f, weigh_by(dict.fromkeys(places, Weight(w)))), node, y, (z,))
        psi = lambda t, u, h: heun(lambda s, v: f(node._replace(t=s), v), t, u, h)
        expected = 0.5 * y + 0.5 * z + w * psi(0.4, z, 0.5)
        assert distance(found, expected) < 1e-14
        assert distance(second, z - w * psi(0.9, expected, -0.5)) < 1e-14


def fits(base: str) -> bool:
    scheme = SCHEMES.build(base)
    return not (scheme.history or scheme.implicit or scheme.components > 1 or scheme.order is None)


@pytest.mark.parametrize("base", list(filter(fits, SCHEMES)))
def test_every_explicit_one_step_method_is_inverted_and_differentiated(base: str) -> None:
    flow = make_flow(scheme=wrap(base), gradient="reversible", sharing="per_step", steps=6)
    found, expected = gradients_of(flow), gradients_of(as_backprop(flow))
    assert all(distance(a, b) < 1e-10 for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize(
    ("base", "reason"),
    [
        ("leapfrog", "which is reversible as it is; use it by itself, or wrap heun"),
        ("verlet", "which is reversible as it is"),
        ("reversible_wrap", "which is reversible as it is"),
        ("adams_bashforth2", "which remembers earlier steps; use heun, rk3 or rk4"),
        ("linear_multistep", "which remembers earlier steps"),
        ("backward_euler", "which solves an equation at each step; use heun, rk3 or rk4"),
        ("fractal", "which has weights of its own at each stage"),
        ({"name": "backward_euler_poly", "form": "mpoly"}, "which has weights of its own at each stage"),
    ],
    ids=spec_id,
)
def test_other_bases_are_refused_with_the_reason(base: Any, reason: str) -> None:
    name = base if isinstance(base, str) else base["name"]
    expected = f"base expected to be an explicit one-step method for y' = f, got {name!r}, {reason}"
    with pytest.raises(SchemenetError, match=re.escape(expected)):
        SCHEMES.build(wrap(base))


def test_an_unknown_base_is_answered_with_the_near_names() -> None:
    with pytest.raises(SchemenetError, match="no scheme 'huen'; did you mean 'heun'"):
        SCHEMES.build(wrap("huen"))


@pytest.mark.parametrize("coupling", [0.0, -0.5, 1.01, math.nan])
def test_a_coupling_that_cannot_be_undone_is_refused(coupling: float) -> None:
    with pytest.raises(SchemenetError, match=r"coupling expected (to be in \(0, 1\], got|a number or null, got nan)"):
        SCHEMES.build(wrap(coupling=coupling))


# Its gradient


def as_backprop(flow: Flow) -> Flow:
    """The same network, differentiated by the plain loop."""
    scheme = wrap(next(n for n in SCHEMES if SCHEMES[n] is type(flow.scheme.base)), flow.scheme.fixed)
    steps, time = len(flow.nodes), len(flow.nodes) * flow.nodes[0].h
    other = make_flow(scheme=scheme, sharing=flow.bank.sharing, steps=steps, time=time)
    other.load_state_dict(flow.state_dict())
    return other


def gradients_of(flow: Flow) -> list[Tensor]:
    x = batch(dtype=next(flow.parameters()).dtype).requires_grad_()
    weighted(flow(x)).backward()
    return [x.grad, *(p.grad for p in flow.parameters())]


@pytest.mark.parametrize("base", ["forward_euler", "rk4"])
def test_the_gradient_is_backprops_over_many_steps(base: str) -> None:
    flow = make_flow(scheme=wrap(base), gradient="reversible", sharing="shared", steps=150, time=4.0)
    found, expected = gradients_of(flow), gradients_of(as_backprop(flow))
    assert all(distance(a, b) < 1e-10 for a, b in zip(found, expected, strict=True))


def test_a_reverse_sweep_evaluates_each_f_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Inverse and derivative share it; only the first step, whose inverse needs half of them, adds none either."""
    calls = []
    forward = Tanh.forward
    monkeypatch.setattr(Tanh, "forward", lambda self, node, y: (calls.append(node), forward(self, node, y))[1])
    flow = make_flow(scheme=wrap("rk3"), gradient="reversible", steps=4)
    calls.clear()
    output = flow(batch().requires_grad_())
    ahead = sorted(calls)
    calls.clear()
    weighted(output).backward()
    assert sorted(calls) == ahead
    assert len(ahead) == 4 * 6


def test_the_adjoint_of_a_wrap_keeps_to_the_weights_of_each_step() -> None:
    """Its second state is no memory of earlier steps, so that steps may have weights of their own."""
    gaps = []
    for time in (1.0, 0.5):
        flow = make_flow(scheme=wrap("heun", 0.5), gradient="adjoint", sharing="per_step", time=time)
        exact = make_flow(scheme=wrap("heun", 0.5), sharing="per_step", time=time)
        exact.load_state_dict(flow.state_dict())
        gaps.append(distance(gradients_of(flow)[0], gradients_of(exact)[0]))
    assert gaps[1] < 1e-3
    assert math.log2(gaps[0] / gaps[1]) > 2.5  # the gap of one step is of order h^3, their number is the same


# The watch over the inverse


def drifting(**options: Any) -> Flow:
    """A coupling of 1/2 over forty steps would stretch rounding by 10^12."""
    return make_flow(scheme=wrap(coupling=0.5), steps=40, dtype=torch.float32, **options)


def test_a_warning_names_the_error_and_what_to_do() -> None:
    flow, x = drifting(gradient="reversible"), batch(dtype=torch.float32).requires_grad_()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        output = flow(x)  # never in the forward pass
    advice = "miss the start of a flow by .* of its norm, more than tolerance=0.001, .* or gradient=checkpoint"
    with pytest.warns(InversionErrorWarning, match=advice):
        weighted(output).backward()


@pytest.mark.parametrize(
    "options", [{"scheme": wrap()}, {"scheme": wrap("rk4")}, {"scheme": "symplectic_euler"}], ids=str
)
@pytest.mark.parametrize("autocast", [False, True])
def test_no_warning_where_the_start_is_met(options: dict[str, Any], autocast: bool) -> None:
    flow = make_flow(**options, gradient="reversible", steps=40, dtype=torch.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            output = flow(batch(dtype=torch.bfloat16 if autocast else torch.float32).requires_grad_())
        weighted(output).backward()


def test_the_tolerance_is_the_users_to_set() -> None:
    lenient = drifting(gradient={"name": "reversible", "tolerance": math.inf})
    strict = make_flow(scheme=wrap(), gradient={"name": "reversible", "tolerance": 1e-9}, steps=40, dtype=torch.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gradients_of(lenient)
    with pytest.warns(InversionErrorWarning, match="tolerance=1e-09"):
        gradients_of(strict)
    for wrong in (0.0, -1.0, math.nan):
        with pytest.raises(SchemenetError, match=r"tolerance expected (to be positive, got|a number, got nan)"):
            drifting(gradient={"name": "reversible", "tolerance": wrong})


def test_the_watch_keeps_some_kilobytes_whatever_the_size_of_the_state() -> None:
    """Beside the end (y, z) that the mode keeps."""
    flow = make_flow(scheme=wrap(), gradient="reversible", dtype=torch.float64)
    for size in (2_000, 20_000):
        x = batch(size).requires_grad_()
        assert bytes_kept(flow, x) == x.nbytes + 8 * ENTRIES  # y is the output, which is not counted


@pytest.mark.parametrize("shape", [(4, 6, 14, 14), (8, 16, 8, 8), (2, 64, 40), (5,), ()], ids=str)
def test_samples_meet_every_index_of_every_dimension(shape: tuple[int, ...]) -> None:
    state = torch.ones(shape, dtype=torch.float64)
    assert reconstruction_error(fingerprint(state), state.clone()) == 0
    assert reconstruction_error(fingerprint((state, state)), (state, 1.25 * state)) == pytest.approx(0.25)
    for dimension, size in enumerate(shape):
        for index in range(size):
            wrong = state.clone()
            wrong.select(dimension, index).mul_(2)
            true = float((wrong - state).norm() / state.norm())
            assert reconstruction_error(fingerprint(state), wrong) == pytest.approx(true, rel=0.5), (dimension, index)


def test_a_state_that_is_lost_altogether_is_seen() -> None:
    state = batch(400)
    assert not reconstruction_error(fingerprint(state), torch.full_like(state, math.nan)) <= 1e9
