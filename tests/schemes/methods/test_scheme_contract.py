"""The contract of a scheme: each one registered against what it declares, and what a step may do."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from schemes.analysis.reference_problems import error, integrate
from schemes.analysis.stability import stability_intervals
from schemes.core.node import Node
from schemes.core.scheme import Scheme
from schemes.core.state import flatten
from schemes.errors import SchemenetError
from schemes.integration.uniform_grid import UniformGrid
from schemes.integration.visited_nodes import visited
from schemes.registry import SCHEMES
from tests.support.problems import distance, spec_id

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


every = pytest.mark.parametrize("spec", ALL, ids=spec_id)


def states(scheme: Scheme, seed: int = 0) -> Any:
    generator = torch.Generator().manual_seed(seed)
    parts = tuple(torch.randn(3, generator=generator, dtype=torch.float64) for _ in range(scheme.components))
    return parts[0] if scheme.components == 1 else parts


def smooth(node: Node, y: Tensor) -> Tensor:
    """A bounded field that differs from node to node."""
    return torch.sin(y + node.step - 0.7 * node.stage + node.component) + node.t


def close(actual: Any, expected: Any, tolerance: float = 1e-12) -> bool:
    a, shape = flatten(actual)
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
    errors = [error(scheme, steps) for steps in (2 * coarsest, 4 * coarsest)]
    assert math.log2(errors[0] / errors[1]) == pytest.approx(scheme.order, abs=0.15), errors


def test_entries_without_an_order_stand_by_name() -> None:
    assert {name for name in SCHEMES if SCHEMES.build(name).order is None} == NO_METHOD


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("forward_euler", 5.42e-4),
        ("heun", 6.1e-7),
        ({"name": "linear_multistep", "k": 1, "scale": True}, 1.95e-5),
        ({"name": "linear_multistep", "k": 0.5, "scale": True}, 1.81e-4),
        ({"name": "linear_multistep", "k": -0.5, "scale": True}, 1.63e-3),
    ],
    ids=spec_id,
)
def test_error_on_the_riccati_equation(spec: Any, expected: float) -> None:
    """u' = -u^2, u(0) = 1 to T = 1 in 320 steps: the known errors to two digits."""
    one = torch.ones((), dtype=torch.float64)
    actual = integrate(SCHEMES.build(spec), lambda _, y: -y * y, one, 1.0, 320)
    assert abs(float(actual) - 0.5) == pytest.approx(expected, rel=0.02)


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
        power = lambda n, y, d=degree: (d + 1) * n.t**d * torch.ones_like(y)
        actual = integrate(scheme, power, states(scheme), 2.0, 7)
        assert torch.allclose(actual, states(scheme) + 2.0 ** (degree + 1), atol=1e-12)


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


@pytest.mark.parametrize(("spec", "real", "imaginary"), INTERVALS, ids=spec_id)
def test_stability_intervals(spec: Any, real: float | None, imaginary: float | None) -> None:
    actual = stability_intervals(SCHEMES.build(spec))
    for value, expected in zip(actual, (real, imaginary), strict=True):
        assert value == (None if expected is None else pytest.approx(expected, abs=5.1e-4))


def amplification(scheme: Scheme, z: complex) -> float:
    """The spectral radius of the map (state, memory) -> next on y' = z y, h = 1, by running the scheme."""
    if scheme.implicit:  # solves for real states: y = (re, im)
        times_z = torch.tensor([[z.real, -z.imag], [z.imag, z.real]], dtype=torch.float64)
        basis = torch.eye(2, dtype=torch.float64)
        with torch.no_grad():
            rows = [integrate(scheme, lambda node, y: times_z @ y, start, 1.0, 1) for start in basis]
        return float(np.abs(np.linalg.eigvals(torch.stack(rows).numpy())).max())
    f = lambda node, y: (-z if scheme.components > 1 and node.component == 1 else z) * y
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
