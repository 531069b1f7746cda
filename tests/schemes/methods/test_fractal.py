"""The fractal scheme: its recursion, its ODE form, dropped paths."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from schemes.core.node import Node
from schemes.methods.fractal import survivors
from schemes.registry import SCHEMES
from tests.support.problems import Tanh, batch, distance, make_flow


def test_fractal_in_its_ode_form_is_heun() -> None:
    """k_1 = k_2 = 1/2, k_3 = 1, f_1 = h f, f_2 = h/2 f, written as the three units of a block."""
    h, x = 0.3, batch()
    f = lambda y: torch.sin(2 * y)
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
    f = lambda node, y: values[node.stage] * one
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
