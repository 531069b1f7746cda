"""Every registered scheme against what it declares: order, nodes, memory, inverse, stability, identities."""

from __future__ import annotations

import itertools
import math
import re
from fractions import Fraction as F
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from schemes.analysis.reference_problems import START, TIME, error, exact, integrate, pendulum
from schemes.analysis.stability import stability_intervals
from schemes.core.node import Node
from schemes.core.scheme import Scheme
from schemes.core.state import flatten
from schemes.core.tableau import ButcherTableau, trees
from schemes.errors import SchemenetError
from schemes.flow import Flow
from schemes.integration.uniform_grid import UniformGrid
from schemes.integration.visited_nodes import visited
from schemes.methods.fractal import survivors
from schemes.methods.runge_kutta import RungeKutta
from schemes.registry import SCHEMES
from tests.support.problems import Tanh, batch, called, distance, make_flow, weighted

NO_METHOD = {"linear_multistep", "fractal"}
"""The entries that, with their defaults, are no method for y' = f."""

VARIANTS: list[dict[str, Any]] = [
    {"name": "linear_multistep", "k": "zero"},
    {"name": "linear_multistep", "k": 0.5, "scale": True},
    {"name": "linear_multistep", "k": -0.5, "scale": True},
    {"name": "linear_multistep", "k": 1, "scale": True},
    {"name": "linear_multistep", "k": 0.5},
    {"name": "linear_multistep", "scale": True},
    *({"name": "backward_euler_poly", "degree": degree} for degree in (1, 3, 4)),
    {"name": "backward_euler_poly", "degree": 3, "form": "mpoly"},
    {"name": "backward_euler_poly", "form": "way"},
    {"name": "backward_euler_poly", "scaling": 0.3},
    {"name": "backward_euler", "substeps": 2},
    {"name": "fractal", "columns": 1},
    {"name": "fractal", "columns": 3, "drop_path": 0.3},
    {"name": "reversible_wrap", "base": "forward_euler", "coupling": 0.9},
    *({"name": "adams_moulton", "order": order} for order in (2, 3)),
    {"name": "adams_moulton", "iterations": 3},
    *({"name": "reversible_wrap", "base": base} for base in ("rk4", "backward_euler_poly")),
]
ALL: list[Any] = [*SCHEMES.list(), *VARIANTS]


every = pytest.mark.parametrize("spec", ALL, ids=called)


def states(scheme: Scheme, seed: int = 0) -> Any:
    generator = torch.Generator().manual_seed(seed)
    parts = tuple(torch.randn(3, generator=generator, dtype=torch.float64) for _ in range(scheme.components))
    return parts[0] if scheme.components == 1 else parts


def smooth(node: Node, y: Tensor) -> Tensor:
    """A bounded field that differs from node to node."""
    return torch.sin(y + node.step - 0.7 * node.stage + node.component) + node.t


def close(found: Any, expected: Any, tolerance: float = 1e-12) -> bool:
    a, shape = flatten(found)
    b, other = flatten(expected)
    return shape == other and all(distance(p, q) < tolerance for p, q in zip(a, b, strict=True))


# Order


@every
def test_order_is_the_declared_one(spec: Any) -> None:
    torch.manual_seed(0)
    scheme = SCHEMES.build(spec)
    if scheme.order is None:
        # Not a method for y' = f: halving h does not bring it nearer to the solution. (Scaled by 1 + k,
        # a trained k is consistent, but may leave the range where the method is stable.)
        coarse, fine = error(scheme, 128), error(scheme, 256)
        assert getattr(scheme, "scale", False) or (fine > 0.7 * coarse and fine > 1e-3)
        return
    # At 256 steps the error of a high order is rounding, that of an implicit scheme the tolerance of its solves.
    coarsest = 8 if scheme.order > 5 else 16 if scheme.implicit and scheme.order > 1 else 64
    errors = [error(scheme, steps) for steps in (coarsest, 2 * coarsest, 4 * coarsest)]
    measured = [math.log2(a / b) for a, b in itertools.pairwise(errors)]
    assert measured[-1] == pytest.approx(scheme.order, abs=0.15), errors


def test_entries_without_an_order_stand_by_name() -> None:
    assert {name for name in SCHEMES if SCHEMES.build(name).order is None} == NO_METHOD


@pytest.mark.parametrize(
    ("k", "scale", "order"),
    [
        *[
            ("zero", False, 1),
            ("zero", True, 1),
            (0, False, 1),
            (0.5, True, 1),
            (-0.5, True, 1),
            (1, True, 2),
        ],
        *[(0.5, False, None), (1, False, None), ("trained", False, None), ("trained", True, None)],
    ],
)
def test_order_of_linear_multistep_depends_on_k(k: Any, scale: bool, order: int | None) -> None:
    assert SCHEMES.build({"name": "linear_multistep", "k": k, "scale": scale}).order == order


@pytest.mark.parametrize(("k", "limit"), [(0.5, 0.6), (-0.5, 1 / 3), (0.0, 0.5)])
def test_unscaled_linear_multistep_runs_over_another_time(k: float, limit: float) -> None:
    """It integrates u' = -u^2 over T / (1 + k), so that u(1) = 1 / (1 + 1 / (1 + k)) in place of 1/2."""
    scheme = SCHEMES.build({"name": "linear_multistep", "k": k})
    one = torch.ones((), dtype=torch.float64)
    gaps = [abs(float(integrate(scheme, lambda _, y: -y * y, one, 1.0, n)) - limit) for n in (320, 640)]
    assert gaps[0] < 3e-3
    assert gaps[0] / gaps[1] == pytest.approx(2, abs=0.1)


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("forward_euler", 5.42e-4),
        ("heun", 6.1e-7),
        ({"name": "linear_multistep", "k": 1, "scale": True}, 1.95e-5),
        ({"name": "linear_multistep", "k": 0.5, "scale": True}, 1.81e-4),
        ({"name": "linear_multistep", "k": -0.5, "scale": True}, 1.63e-3),
    ],
    ids=called,
)
def test_error_on_the_riccati_equation(spec: Any, expected: float) -> None:
    """u' = -u^2, u(0) = 1 to T = 1 in 320 steps: the known errors to two digits."""
    one = torch.ones((), dtype=torch.float64)
    found = integrate(SCHEMES.build(spec), lambda _, y: -y * y, one, 1.0, 320)
    assert abs(float(found) - 0.5) == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize("degree", [2, 3, 4])
def test_poly_is_inconsistent_off_linear_problems(degree: int) -> None:
    scheme = SCHEMES.build({"name": "backward_euler_poly", "degree": degree})
    assert scheme.problem == "linear"
    start = torch.tensor(START, dtype=torch.float64)
    errors = [float((integrate(scheme, pendulum, start, TIME, n) - exact(False)).norm()) for n in (128, 256)]
    assert errors[1] > 0.1
    assert math.log2(errors[0] / errors[1]) < 0.3


def test_poly_approaches_backward_euler_on_linear_problems() -> None:
    """On u' = lambda u with z = h lambda its factor misses 1 / (1 - z) by |z|^(m + 1) / |1 - z|."""
    z = -0.3
    for degree in (1, 2, 3, 4):
        scheme = SCHEMES.build({"name": "backward_euler_poly", "degree": degree})
        one = torch.ones((), dtype=torch.float64)
        gap = abs(float(integrate(scheme, lambda _, y: z * y, one, 1.0, 1)) - 1 / (1 - z))
        assert gap == pytest.approx(abs(z) ** (degree + 1) / abs(1 - z), rel=1e-10)


# Stages, nodes, memory


@every
def test_stages_and_nodes_visited(spec: Any) -> None:
    scheme = SCHEMES.build(spec)
    steps = UniformGrid(time=3.0).nodes(scheme.history + 4)
    scheme.allocate(len(steps))
    seen: list[Node] = []
    reach = max([1.0, *map(float, scheme.tableau.c)]) if hasattr(scheme, "tableau") else 1.0  # Kvaerno's passes the end
    y, solver_state = states(scheme), scheme.init_state(states(scheme))

    def recording(node: Node, argument: Any) -> Any:
        if not node.trial:  # how often an implicit scheme tries is its own affair
            seen.append(node)
        return smooth(node, argument)

    counts = []
    for node in steps:
        before = len(seen)
        y, solver_state = scheme.step(recording, node, y, solver_state)
        counts.append(len(seen) - before)
        for visit in seen[before:]:
            assert visit.step == node.step
            assert visit.h == node.h / getattr(scheme, "substeps", 1)
            assert node.t - 1e-12 <= visit.t <= node.t + reach * node.h + 1e-12
            assert 0 <= visit.component < scheme.components
    assert counts[scheme.history :] == [scheme.stages] * (len(steps) - scheme.history)
    assert len({node.place for node in seen}) == len(seen), "evaluations at one place are not told apart"
    assert {node.component for node in seen} == set(range(scheme.components))
    assert visited(scheme, steps) == seen


@pytest.mark.parametrize("name", [n for n in SCHEMES if issubclass(SCHEMES[n], RungeKutta)])
def test_runge_kutta_evaluates_at_its_abscissae(name: str) -> None:
    scheme = SCHEMES.build(name)
    found = [(node.stage, node.t) for node in visited(scheme, [Node(0, 2.0, 0.5)])]
    c = scheme.tableau.c[: scheme.stages]
    assert found == [(i, pytest.approx(2.0 + 0.5 * float(value))) for i, value in enumerate(c)]


@pytest.mark.parametrize("form", ["poly", "mpoly", "way"])
def test_poly_evaluates_at_the_end_of_a_step_as_backward_euler_does(form: str) -> None:
    scheme = SCHEMES.build({"name": "backward_euler_poly", "degree": 3, "form": form})
    assert [node.t for node in visited(scheme, [Node(0, 2.0, 0.5)])] == [2.5, 2.5, 2.5]


@pytest.mark.parametrize(
    ("name", "start_up"),
    [("adams_bashforth2", [2]), ("adams_bashforth3", [3, 3]), ("adams_bashforth4", [4, 4, 4])],
)
def test_adams_bashforth_starts_with_runge_kutta(name: str, start_up: list[int]) -> None:
    nodes = visited(SCHEMES.build(name), UniformGrid().nodes(6))
    counts = [sum(node.step == step for node in nodes) for step in range(6)]
    assert counts == start_up + [1] * (6 - len(start_up))


@pytest.mark.parametrize("name", ["adams_bashforth2", "adams_bashforth3", "adams_bashforth4"])
def test_adams_bashforth_integrates_polynomials_exactly(name: str) -> None:
    """Weights from the textbook's condition: exact where f is a polynomial in t of degree below the order."""
    scheme = SCHEMES.build(name)
    for degree in range(scheme.order):
        power = lambda n, y, d=degree: (d + 1) * n.t**d * torch.ones_like(y)  # noqa: E731
        found = integrate(scheme, power, states(scheme), 2.0, 7)
        assert torch.allclose(found, states(scheme) + 2.0 ** (degree + 1), atol=1e-12)


@every
def test_history_is_the_size_of_the_memory(spec: Any) -> None:
    scheme = SCHEMES.build(spec)
    steps = UniformGrid(time=1.0).nodes(scheme.history + 3)
    scheme.allocate(len(steps))
    y = states(scheme)
    solver_state = scheme.init_state(y)
    assert solver_state == ()
    for n, node in enumerate(steps, start=1):
        y, solver_state = scheme.step(smooth, node, y, solver_state)
        assert min(n, scheme.history) <= len(solver_state) <= scheme.history
        assert all(flatten(z)[1] == flatten(y)[1] for z in solver_state)


@every
def test_a_step_changes_neither_state_nor_memory(spec: Any) -> None:
    scheme = SCHEMES.build(spec)
    scheme.allocate(4)
    y = states(scheme)
    solver_state = scheme.init_state(y)
    for node in UniformGrid(time=1.0).nodes(4):
        before = [(t, t.clone()) for t in flatten((y, solver_state))[0]]
        y, solver_state = scheme.step(smooth, node, y, solver_state)
        assert all(torch.equal(t, copy) for t, copy in before)


# Inverse


@every
def test_inverse_undoes_step(spec: Any) -> None:
    scheme = SCHEMES.build(spec)
    steps = UniformGrid(time=1.5).nodes(6)
    scheme.allocate(len(steps))
    y = states(scheme)
    trail = [(y, scheme.init_state(y))]
    forward: set[tuple[Node, float]] = set()
    backward: set[tuple[Node, float]] = set()

    def watched(visits: set[tuple[Node, float]]) -> Any:
        def f(node: Node, argument: Tensor) -> Tensor:
            visits.add((node, round(float(argument.sum()), 9)))
            return smooth(node, argument)

        return f

    if not scheme.reversible:
        with pytest.raises(SchemenetError, match=f"{type(scheme).__name__} is not reversible"):
            scheme.inverse(smooth, steps[0], *trail[0])
        return
    for node in steps:
        trail.append(scheme.step(watched(forward), node, *trail[-1]))
    carry = trail[-1]
    for node, expected in zip(reversed(steps), reversed(trail[:-1]), strict=True):
        carry = scheme.inverse(watched(backward), node, *carry)
        assert close(carry, expected, 1e-12)
    assert backward <= forward, "an inverse evaluates f where the step did"


def test_some_schemes_are_reversible() -> None:
    assert {n for n in SCHEMES if SCHEMES.build(n).reversible} >= {"symplectic_euler", "verlet", "leapfrog"}


# Stability

INTERVALS: list[tuple[Any, float | None, float | None]] = [
    ("forward_euler", 2, 0),
    ("heun", 2, 0),
    ("midpoint", 2, 0),
    ("ralston", 2, 0),
    ("rk3", 2.513, 1.732),
    ("ssprk3", 2.513, 1.732),
    ("bosh3", 2.513, 1.732),
    ("rk4", 2.785, 2.828),
    ("rk38", 2.785, 2.828),
    ("dopri5", 3.307, 0.997),
    ("tsit5", 3.507, 0.478),
    ("heun3", 2.513, 1.732),
    ("fehlberg2", 2.008, 0),
    ("dopri8", 5.167, 0),
    ("adams_bashforth2", 1, 0),
    ("adams_bashforth3", 0.545, 0.724),
    ("adams_bashforth4", 0.3, 0.430),
    ("adams_moulton", 1.935, 1.178),
    ({"name": "adams_moulton", "order": 2}, 2, 0),
    ({"name": "adams_moulton", "order": 3}, 2.4, 1.2),
    ("leapfrog", 0, 1),
    ("reversible_heun", 0, 1),
    ("asynchronous_leapfrog", 0, 1),
    ("backward_euler", math.inf, math.inf),
    ("implicit_midpoint", math.inf, math.inf),
    ("trapezoidal", math.inf, math.inf),
    ({"name": "trapezoidal", "substeps": 3}, math.inf, math.inf),
    *((name, math.inf, math.inf) for name in ("sdirk2", "trbdf2", "kvaerno3", "kvaerno5")),
    *((name, math.inf, math.inf) for name in ("radauIIA3", "radauIIA5", "gl4", "gl6")),
    ("symplectic_euler", None, 2),
    ("verlet", None, 2),
    ({"name": "backward_euler_poly", "degree": 1}, 2, 0),
    ({"name": "backward_euler_poly", "degree": 2}, 1, 1),
    ({"name": "backward_euler_poly", "degree": 3}, 1.353, 1.272),
    ({"name": "backward_euler_poly", "degree": 4}, 1, 1),
    ({"name": "backward_euler_poly", "degree": 5}, 1.215, 0.813),
    ({"name": "backward_euler_poly", "form": "mpoly"}, None, None),
    ({"name": "backward_euler_poly", "form": "way"}, None, None),
    ("fractal", None, None),
    ("linear_multistep", None, None),
    ("reversible_wrap", None, None),
    # Around forward Euler the matrix has determinant l and trace 1 + l + (1 - l) z + z^2.
    ({"name": "reversible_wrap", "base": "forward_euler", "coupling": 0.9}, 0.1, 0.436),
]


@pytest.mark.parametrize(("spec", "real", "imaginary"), INTERVALS, ids=called)
def test_stability_intervals(spec: Any, real: float | None, imaginary: float | None) -> None:
    found = stability_intervals(SCHEMES.build(spec))
    for value, expected in zip(found, (real, imaginary), strict=True):
        assert value == (None if expected is None else pytest.approx(expected, abs=5.1e-4))


@pytest.mark.parametrize("k", [-0.9, -0.5, 0, 0.25, 0.5, 0.9, 1])
def test_stability_interval_of_consistent_linear_multistep(k: float) -> None:
    scheme = SCHEMES.build({"name": "linear_multistep", "k": k, "scale": True})
    assert stability_intervals(scheme).real == pytest.approx(2 * (1 - k) / (1 + k), abs=1e-6)


def amplification(scheme: Scheme, z: complex) -> float:
    """The spectral radius of the map (state, memory) -> next on y' = z y, h = 1, by running the scheme."""
    if scheme.implicit:  # solves for real states: y = (re, im)
        times_z = torch.tensor([[z.real, -z.imag], [z.imag, z.real]], dtype=torch.float64)
        basis = torch.eye(2, dtype=torch.float64)
        with torch.no_grad():
            rows = [integrate(scheme, lambda node, y: times_z @ y, start, 1.0, 1) for start in basis]
        return float(np.abs(np.linalg.eigvals(torch.stack(rows).numpy())).max())
    f = lambda node, y: (-z if scheme.components > 1 and node.component == 1 else z) * y  # noqa: E731
    nodes = UniformGrid().nodes(scheme.history + 2)
    scheme.allocate(len(nodes))
    y = torch.zeros((), dtype=torch.complex128)
    carry = ((y,) * scheme.components if scheme.components > 1 else y, ())
    for node in nodes[:-1]:
        carry = scheme.step(f, node, *carry)
    size = len(flatten(carry)[0])
    columns = []
    for j in range(size):
        leaves = [torch.tensor(float(i == j), dtype=torch.complex128) for i in range(size)]
        state = leaves[0] if scheme.components == 1 else tuple(leaves[: scheme.components])
        result = scheme.step(f, nodes[-1], state, tuple(leaves[scheme.components :]))
        columns.append([complex(t) for t in flatten(result)[0]])
    return float(np.abs(np.linalg.eigvals(np.array(columns).T)).max())


@every
def test_stability_interval_ends_where_solutions_grow(spec: Any) -> None:
    """Independent of the algebra: the scheme run on u' = z u inside the interval and just outside."""
    scheme = SCHEMES.build(spec)
    for end, direction in zip(stability_intervals(scheme), (-1, 1j), strict=True):
        if end is None:
            continue
        if scheme.components > 1:
            direction = 1.0  # x' = z y, y' = -z x
        one_sided = np.linspace(0, min(end, 50.0), 12)[1:-1]
        # A double eigenvalue on the unit circle is found to 1e-8 only.
        assert all(amplification(scheme, direction * x) < 1 + 1e-7 for x in one_sided)
        if math.isfinite(end):
            # Where the interval is empty a high order grows slowly, by gap^(p+1) or less.
            gaps = (0.02, 0.1, 0.3) if end or (scheme.order or 0) < 4 else (1.0, 1.1)
            outside = [amplification(scheme, direction * (end + gap)) for gap in gaps]
            assert min(outside) > 1 + 1e-9


def test_oscillator_grows_with_forward_euler_and_not_with_symplectic_euler() -> None:
    start = torch.tensor([1.0, 0.0], dtype=torch.float64)
    euler = SCHEMES.build("forward_euler")
    grown = integrate(euler, lambda _, y: torch.stack((y[1], -y[0])), start, 100.0, 1000)
    assert float(grown.norm()) == pytest.approx(144.77, abs=0.01)
    scheme, carry = SCHEMES.build("symplectic_euler"), ((start[0], start[1]), ())
    for node in UniformGrid(time=100.0).nodes(1000):
        carry = scheme.step(lambda n, y: y if n.component == 0 else -y, node, *carry)
        assert float(torch.stack(carry[0]).norm()) < 1.06


def test_zero_stability_of_linear_multistep() -> None:
    """With f = 0, a perturbation of the history stays bounded for -1 < k <= 1 only."""

    def perturbed(k: float) -> float:
        scheme = SCHEMES.build("linear_multistep")
        scheme.fixed = k  # past the constructor, which refuses what is not zero-stable
        carry = (torch.zeros((), dtype=torch.float64), (torch.full((), 1e-3, dtype=torch.float64),))
        for node in UniformGrid().nodes(301)[1:]:
            carry = scheme.step(lambda _, y: torch.zeros_like(y), node, *carry)
        return abs(float(carry[0]))

    assert all(perturbed(k) < 0.1 for k in (-0.99, -0.9, -0.5, 0.0, 0.5, 0.99, 1.0))
    assert all(perturbed(k) > 1e6 for k in (-1.1, 1.1))
    assert perturbed(-1.0) > 0.25  # the double root grows linearly


@pytest.mark.parametrize("k", [-1, -1.1, 1.1, 2.0, math.nan, math.inf])
def test_linear_multistep_refuses_what_is_not_zero_stable(k: float) -> None:
    with pytest.raises(SchemenetError, match=r"k = .* is not zero-stable; expected -1 < k <= 1|k expected .* got nan"):
        SCHEMES.build({"name": "linear_multistep", "k": k})


# Tableaus


def test_number_of_rooted_trees() -> None:
    assert [len(trees(nodes)) for nodes in range(1, 9)] == [1, 1, 2, 4, 9, 20, 48, 115]
    assert all(len(set(trees(nodes))) == len(trees(nodes)) for nodes in range(1, 9))


TABLEAUS = [n for n in SCHEMES if issubclass(SCHEMES[n], RungeKutta)]


def parts_of(tableau: ButcherTableau) -> dict[str, Any]:
    names = ("a", "b", "order", "embedded", "embedded_order", "c")
    return {name: getattr(tableau, name) for name in names}


@pytest.mark.parametrize("name", TABLEAUS)
def test_a_wrong_coefficient_cannot_be_constructed(name: str) -> None:
    right = parts_of(SCHEMES[name].tableau)
    ButcherTableau(**right)
    wrong = []
    for i, row in enumerate(right["a"]):
        for j in range(len(row)):
            changed = (*row[:j], row[j] + F(1, 1000), *row[j + 1 :])
            wrong.append({"a": (*right["a"][:i], changed, *right["a"][i + 1 :])})
    for key in ("b", "c", "embedded"):
        values = right[key] or ()
        wrong += [{key: (*values[:i], v + F(1, 1000), *values[i + 1 :])} for i, v in enumerate(values)]
    for change in wrong:
        with pytest.raises(ValueError, match=r"condition of tree|but row \d+ of a sums to"):
            ButcherTableau(**(right | change))


@pytest.mark.parametrize("name", TABLEAUS)
def test_no_tableau_claims_less_or_more_than_it_has(name: str) -> None:
    right = parts_of(SCHEMES[name].tableau)
    with pytest.raises(ValueError, match=f"order {right['order'] + 1} is claimed, but the order"):
        ButcherTableau(**(right | {"order": right["order"] + 1}))
    if right["embedded"] is not None:
        with pytest.raises(ValueError, match=f"order {right['embedded_order'] + 1} is claimed"):
            ButcherTableau(**(right | {"embedded_order": right["embedded_order"] + 1}))


@pytest.mark.parametrize(
    ("a", "b"), [(((), (1,)), (1,)), (((), ()), (F(1, 2), F(1, 2))), (((), (1, 2, 3)), (F(1, 2), F(1, 2)))]
)
def test_a_tableau_of_the_wrong_shape_is_refused(a: Any, b: Any) -> None:
    with pytest.raises(ValueError, match="expected rows of lengths"):
        ButcherTableau(a=a, b=b, order=1)


@pytest.mark.parametrize("values", [{"c": (0, 1, 1)}, {"embedded": (1, 0, 7), "embedded_order": 1}], ids=str)
def test_a_tableau_with_entries_too_many_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(values))):
        ButcherTableau(a=((), (1,)), b=(F(1, 2), F(1, 2)), order=2, **values)


# Docstrings


@pytest.mark.parametrize("name", SCHEMES.list())
def test_docstring_gives_a_reference_with_its_year(name: str) -> None:
    text = SCHEMES[name].__doc__ or ""
    assert re.search(r"^\s*Reference: .*\b(1[89]|20)\d\d\b", text, re.DOTALL | re.MULTILINE), text


# Identities


def run_with_gradients(flow: Flow) -> list[Tensor]:
    x = batch().requires_grad_()
    output = flow(x)
    weighted(output).backward()
    return [output, x.grad, *(p.grad for p in flow.bank.parameters())]


@pytest.mark.parametrize("scale", [False, True])
@pytest.mark.parametrize("k", ["zero", "trained"])
def test_linear_multistep_with_k_zero_is_forward_euler(k: str, scale: bool) -> None:
    multistep = make_flow(scheme={"name": "linear_multistep", "k": k, "scale": scale})
    euler = make_flow(scheme="forward_euler")
    euler.bank.load_state_dict(multistep.bank.state_dict())
    if k == "trained":
        assert multistep.scheme.k.abs().max() > 0
        nn.init.zeros_(multistep.scheme.k)
    for found, expected in zip(run_with_gradients(multistep), run_with_gradients(euler), strict=True):
        assert distance(found, expected) < 1e-12


def test_trained_k_is_a_scalar_a_step_in_its_range_and_is_the_papers_equation() -> None:
    flow = make_flow(scheme="linear_multistep", steps=6)
    k = flow.scheme.k
    assert k.shape == (5,)
    assert (k >= -0.1).all()
    assert (k <= 0).all()
    f, u = flow.bank, [batch()]
    for n, node in enumerate(flow.nodes):
        following = u[n] + node.h * f(node, u[n])
        u.append(following + k[n - 1] * (u[n - 1] - u[n]) if n else following)
    assert distance(flow(batch()), u[-1]) < 1e-12
    kappa = 1 - k  # the released code's form
    again = u[:2]
    for n, node in list(enumerate(flow.nodes))[1:]:
        again.append(kappa[n - 1] * again[n] + (1 - kappa[n - 1]) * again[n - 1] + node.h * f(node, again[n]))
    assert distance(flow(batch()), again[-1]) < 1e-12


def test_linear_multistep_is_handed_the_state_before() -> None:
    flow = make_flow(scheme="linear_multistep", steps=3, past=1)
    assert flow.scheme.k.shape == (3,)
    before, now, node = batch(seed=2), batch(), flow.nodes[0]
    k = flow.scheme.k
    u = [before, now]
    for n, node in enumerate(flow.nodes):
        u.append((1 - k[n]) * u[-1] + k[n] * u[-2] + node.h * flow.bank(node, u[-1]))
    assert distance(flow(now, (before,)), u[-1]) < 1e-12


@pytest.mark.parametrize("k", [-0.9, -0.05, 0.5, 1.0])
def test_linear_multistep_keeps_equal_states_where_f_is_zero(k: float) -> None:
    scheme = SCHEMES.build({"name": "linear_multistep", "k": k, "scale": True})
    u = batch()
    y, solver_state = scheme.step(lambda _, y: torch.zeros_like(y), Node(1, 1.0, 1.0), u, (u,))
    assert distance(y, u) < 1e-15
    assert solver_state[0] is u


def test_poly2_is_the_sum_of_compositions() -> None:
    field = Tanh(6).double()
    x, node, h = batch(), Node(0, 0.0, 0.5), 0.5
    big = lambda y: h * field(node.at(0, 1.0), y)  # noqa: E731
    found, _ = SCHEMES.build("backward_euler_poly").step(lambda _, y: field(node.at(0, 1.0), y), node, x, ())
    assert distance(found, x + big(x) + big(big(x))) < 1e-12
    twice = x + big(x)
    assert distance(found, twice + big(twice)) > 1e-2, "not the square of I + F"
    assert distance(found, x + big(x + big(x))) > 1e-2, "not backward Euler's fixed-point iteration"


def test_poly2_is_the_fixed_point_iteration_for_linear_f() -> None:
    torch.manual_seed(0)
    matrix, x = torch.randn(6, 6, dtype=torch.float64), batch()
    found, _ = SCHEMES.build("backward_euler_poly").step(lambda _, y: y @ matrix, Node(0, 0.0, 0.5), x, ())
    assert distance(found, x + 0.5 * (x + 0.5 * x @ matrix) @ matrix) < 1e-12


def test_mpoly2_with_equal_weights_is_poly2_and_differs_otherwise() -> None:
    poly = make_flow(scheme="backward_euler_poly", steps=3)
    mpoly = make_flow(scheme={"name": "backward_euler_poly", "form": "mpoly"}, steps=3)
    assert distance(mpoly(batch()), poly(batch())) > 1e-3
    for node in mpoly.visits:
        mpoly.bank.at(node).load_state_dict(poly.bank.at(node).state_dict())
    assert distance(mpoly(batch()), poly(batch())) < 1e-12
    assert sum(p.numel() for p in mpoly.parameters()) == 2 * sum(p.numel() for p in poly.parameters())


def test_way2_adds_two_paths_and_is_forward_euler_without_its_second() -> None:
    way = make_flow(scheme={"name": "backward_euler_poly", "form": "way"}, steps=3, time=None)
    fields = {(node.step, node.stage): (way.bank.at(node), node) for node in way.visits}
    u = batch()
    for step in range(3):
        u = u + sum(field(node, u) for field, node in (fields[step, 0], fields[step, 1]))
    assert distance(way(batch()), u) < 1e-12
    for step in range(3):
        second = fields[step, 1][0].linear
        nn.init.zeros_(second.weight)
        nn.init.constant_(second.bias, -math.sin(step + 1))  # so that tanh(bias + sin t) is zero
    u = batch()
    for step in range(3):
        u = u + fields[step, 0][0](fields[step, 0][1], u)
    assert distance(way(batch()), u) < 1e-12


def test_fractal_in_its_ode_form_is_heun() -> None:
    """k_1 = k_2 = 1/2, k_3 = 1, f_1 = h f, f_2 = h/2 f, written as the three units of a block."""
    h, x = 0.3, batch()
    f = lambda y: torch.sin(2 * y)  # noqa: E731
    units = {  # deep column first, shallow column, deep column second
        0: lambda z: z + h * f(z),
        1: lambda z: z,
        2: lambda z: z + h * f(z),
    }
    found, _ = SCHEMES.build("fractal").step(lambda n, z: units[n.stage](z), Node(0, 0.0, 1.0), x, ())
    expected, _ = SCHEMES.build("heun").step(lambda _, z: f(z), Node(0, 0.0, h), x, ())
    assert distance(found, expected) < 1e-12


@pytest.mark.parametrize("k2", [0.0, 0.2, 0.4, 0.5])
def test_fractal_family_of_order_two(k2: float) -> None:
    """k_3 = 1, k_1 + k_2 = 1, f_1 = a h f, f_2 = b h f with k_2 a + b = 1 and a b = 1/2."""
    a = 0.5 if k2 == 0 else (1 - math.sqrt(1 - 2 * k2)) / (2 * k2)
    b = 1 - k2 * a
    assert a * b == pytest.approx(0.5)

    def error_with(steps: int, b: float) -> float:
        h, u, scheme = 1 / steps, torch.ones((), dtype=torch.float64), SCHEMES.build("fractal")
        units = {
            0: lambda z: z - a * h * z * z,
            1: lambda z: 2 * (1 - k2) * z,
            2: lambda z: 2 * (k2 * z - b * h * z * z),
        }
        for _ in range(steps):
            u, _ = scheme.step(lambda n, z: units[n.stage](z), Node(0, 0.0, 1.0), u, ())
        return abs(float(u) - 0.5)

    assert math.log2(error_with(80, b) / error_with(160, b)) == pytest.approx(2, abs=0.1)
    assert error_with(160, b + 0.1) > 100 * error_with(160, b), "off the family it is inconsistent"


def test_fractal_with_one_column_is_the_unit() -> None:
    field, x = Tanh(6).double(), batch()
    found, _ = SCHEMES.build({"name": "fractal", "columns": 1}).step(field, Node(0, 0.0, 0.25), x, ())
    assert torch.equal(found, field(Node(0, 0.0, 0.25), x))


@pytest.mark.parametrize("columns", [2, 3, 4])
def test_fractal_is_a_flat_mean_of_compositions(columns: int) -> None:
    """The recursion written out with merged joins, on units that are told apart by their place."""
    x, visits = batch(), []

    def unit(node: Node, y: Tensor) -> Tensor:
        visits.append(node.stage)
        return torch.sin(y + node.stage)

    scheme = SCHEMES.build({"name": "fractal", "columns": columns})
    found, _ = scheme.step(unit, Node(0, 0.0, 1.0), x, ())
    assert sorted(visits) == list(range(2**columns - 1))

    places = itertools.count()  # top to bottom, shallow columns first, as the scheme numbers its units
    depth = 2 ** (columns - 1)
    begins = dict.fromkeys(range(columns), x)
    for row in range(1, depth + 1):
        ends = [c for c in range(columns) if row % 2 ** (columns - 1 - c) == 0]
        joined = torch.stack([torch.sin(begins[c] + next(places)) for c in ends]).mean(0)
        begins |= dict.fromkeys(ends, joined)
    assert distance(found, joined) < 1e-12


@pytest.mark.parametrize("columns", [1, 2, 3, 4])
@pytest.mark.parametrize("drop", [0.0, 0.3, 0.9])
def test_fractal_of_identity_units_returns_its_input_for_all_drops(columns: int, drop: float) -> None:
    scheme, x = SCHEMES.build({"name": "fractal", "columns": columns, "drop_path": drop}).train(), batch()
    torch.manual_seed(0)
    for _ in range(50):
        assert distance(scheme.step(lambda _, y: y, Node(0, 0.0, 1.0), x, ())[0], x) < 1e-14


@pytest.mark.parametrize("training", [False, True], ids=["mean of all", "mean of survivors"])
def test_fractal_joins_the_parts_of_a_state_as_it_joins_one_tensor(training: bool) -> None:
    scheme = SCHEMES.build({"name": "fractal", "columns": 3, "drop_path": 0.5}).train(training)
    x, y = batch(), batch() + 1

    def unit(node: Node, z: Tensor) -> Tensor:
        return torch.sin(z + node.stage)

    def joined(f: Any, state: Any) -> Any:
        torch.manual_seed(0)
        return scheme.step(f, Node(0, 0.0, 1.0), state, ())[0]

    both = joined(lambda node, z: tuple(unit(node, part) for part in z), (x, y))
    assert torch.equal(both[0], joined(unit, x))
    assert torch.equal(both[1], joined(unit, y))


def test_drop_path_draws_nothing_in_evaluation_or_without_drops() -> None:
    x, f = batch(), lambda node, y: torch.sin(y + node.stage)
    plain = SCHEMES.build({"name": "fractal", "columns": 3}).train()
    dropping = SCHEMES.build({"name": "fractal", "columns": 3, "drop_path": 0.9})
    before = torch.get_rng_state()
    expected = plain.step(f, Node(0, 0.0, 1.0), x, ())[0]
    assert torch.equal(dropping.eval().step(f, Node(0, 0.0, 1.0), x, ())[0], expected)
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.equal(dropping.train().step(f, Node(0, 0.0, 1.0), x, ())[0], expected)


def test_survivors_are_never_none_and_have_the_right_rate() -> None:
    torch.manual_seed(0)
    draws = torch.stack([survivors(3, 0.9, torch.device("cpu")) for _ in range(10_000)])
    assert draws.any(1).all()
    # All dead with probability 0.9^3, and then one of three is kept.
    assert draws.double().mean(0).sub(0.1 + 0.9**3 / 3).abs().max() < 0.02
    assert survivors(5, 0.0, torch.device("cpu")).all()


def test_join_is_the_mean_over_survivors() -> None:
    scheme = SCHEMES.build({"name": "fractal", "columns": 2, "drop_path": 0.5}).train()
    torch.manual_seed(0)
    values = {0: 0.0, 1: 1.0, 2: 4.0}
    one = torch.ones((), dtype=torch.float64)
    f = lambda node, y: values[node.stage] * one  # noqa: E731
    found = [float(scheme.step(f, Node(0, 0.0, 1.0), one, ())[0]) for _ in range(2000)]
    assert set(found) == {1.0, 4.0, 2.5}  # not divided by 1 - p
    # One alone with probability (1/4 + 1/4 * 1/2), both with 1/4.
    assert found.count(2.5) / 2000 == pytest.approx(0.25, abs=0.04)
    assert found.count(1.0) / 2000 == pytest.approx(0.375, abs=0.04)


@pytest.mark.parametrize("columns", [2, 3, 4])
def test_global_choice_of_a_column_is_that_column_alone(columns: int) -> None:
    x = batch()
    scheme = SCHEMES.build({"name": "fractal", "columns": columns, "drop_path": 0.5}).train()
    flow = make_flow(scheme={"name": "fractal", "columns": columns, "drop_path": 0.5}, steps=1, past=1)
    of_column: dict[int, list[Node]] = {column: [] for column in range(columns)}
    stages = itertools.count()
    for row in range(1, 2 ** (columns - 1) + 1):
        for column in range(columns):
            if row % 2 ** (columns - 1 - column) == 0:
                of_column[column].append(flow.visits[next(stages)])
    for column, nodes in of_column.items():
        assert len(nodes) == 2**column
        alone = x
        for node in nodes:
            alone = flow.bank(node, alone)
        assert distance(flow(x, (torch.tensor(column),)), alone) < 1e-12
    torch.manual_seed(3)
    local = flow(x, (torch.tensor(-1),))
    torch.manual_seed(3)
    assert torch.equal(flow(x), local), "-1 leaves the local drops"
    assert scheme.init_state(x, (torch.tensor(0),)) != ()


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"name": "fractal", "columns": 0}, "columns expected to be at least 1, got 0"),
        ({"name": "fractal", "drop_path": 1.0}, r"drop_path expected to be in \[0, 1\), got 1.0"),
        ({"name": "backward_euler_poly", "degree": 0}, "degree expected to be at least 1, got 0"),
        ({"name": "backward_euler_poly", "form": "multi"}, "form expected one of 'poly', 'mpoly', 'way'"),
    ],
    ids=str,
)
def test_impossible_parameters_are_refused(spec: Any, message: str) -> None:
    with pytest.raises(SchemenetError, match=message):
        SCHEMES.build(spec)


def test_reversible_steps_keep_volume() -> None:
    """The Jacobian of a coupled step has determinant 1, whatever f is."""
    for name in ("symplectic_euler", "verlet"):
        scheme = SCHEMES.build(name)

        def step(y: Tensor, scheme: Scheme = scheme) -> Tensor:
            return torch.cat(scheme.step(smooth, Node(1, 0.3, 0.7), tuple(y.chunk(2)), ())[0])

        y = torch.randn(6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        assert torch.linalg.slogdet(torch.autograd.functional.jacobian(step, y)).logabsdet.abs() < 1e-12
