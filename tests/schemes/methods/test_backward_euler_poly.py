"""The truncated backward Euler of PolyNet: its sums of compositions, order and limits."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from schemes.analysis.reference_problems import START, TIME, exact, integrate, pendulum
from schemes.core.node import Node
from schemes.integration.visited_nodes import visited
from schemes.registry import SCHEMES
from tests.support.problems import Tanh, batch, distance, make_flow


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


@pytest.mark.parametrize("form", ["poly", "mpoly", "way"])
def test_poly_evaluates_at_the_end_of_a_step_as_backward_euler_does(form: str) -> None:
    scheme = SCHEMES.build({"name": "backward_euler_poly", "degree": 3, "form": form})
    assert [node.t for node in visited(scheme, [Node(0, 2.0, 0.5)])] == [2.5, 2.5, 2.5]


def test_poly2_is_the_sum_of_compositions() -> None:
    field = Tanh(6).double()
    x, node, h = batch(), Node(0, 0.0, 0.5), 0.5
    big = lambda y: h * field(node.at(0, 1.0), y)
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
