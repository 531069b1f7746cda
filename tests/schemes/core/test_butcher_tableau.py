"""Butcher tableaus: order conditions, shapes, and what is refused."""

from __future__ import annotations

from fractions import Fraction as F
from typing import Any

import pytest

from schemes.core.node import Node
from schemes.core.tableau import ButcherTableau, trees
from schemes.integration.visited_nodes import visited
from schemes.methods.runge_kutta import RungeKutta
from schemes.registry import SCHEMES


@pytest.mark.parametrize("name", [n for n in SCHEMES if issubclass(SCHEMES[n], RungeKutta)])
def test_runge_kutta_evaluates_at_its_abscissae(name: str) -> None:
    scheme = SCHEMES.build(name)
    evaluated = [(node.stage, node.t) for node in visited(scheme, [Node(0, 2.0, 0.5)])]
    c = scheme.tableau.c[: scheme.stages]
    assert evaluated == [(i, pytest.approx(2.0 + 0.5 * float(value))) for i, value in enumerate(c)]


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
        with pytest.raises(ValueError, match=r"a condition of order|but row \d+ of a sums to"):
            ButcherTableau(**(right | change))


@pytest.mark.parametrize("name", TABLEAUS)
def test_no_tableau_claims_less_or_more_than_it_has(name: str) -> None:
    right = parts_of(SCHEMES[name].tableau)
    with pytest.raises(ValueError, match=f"order {right['order'] + 1} is claimed, but sum b_i"):
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


@pytest.mark.parametrize(
    ("a", "b", "order", "message"),
    [
        (((), (1 / 2,)), (1 / 4, 3 / 4), 2, "sum b_i c_i = 1/2, a condition of order 2, is missed by -0.125"),
        (((), (1,), (1 / 4, 1 / 4)), (1 / 6, 1 / 6, 2 / 3), 4, r"sum b_i c_i a_ij c_j = 1/8, .* by -0.0417"),
    ],
)
def test_a_condition_is_written_as_in_textbooks(a: Any, b: Any, order: int, message: str) -> None:
    with pytest.raises(ValueError, match=f"order {order} is claimed, but {message}"):
        ButcherTableau(a, b, order=order)
