"""Polygons of schemes beside the exact solution."""

import numpy as np
import pytest

from lightning_modules.plotting import polygons
from schemes.analysis.reference_problems import TIME, exact_at, integrate, problem_of
from schemes.registry import SCHEMES


@pytest.mark.parametrize("name", ["forward_euler", "heun", "leapfrog", "verlet", "backward_euler", "fractal"])
def test_vertices_end_where_the_steps_do_and_f_is_evaluated_at_its_nodes(name: str) -> None:
    scheme = SCHEMES.build(name)
    drawn = polygons.measure(scheme)
    end = integrate(scheme, *problem_of(scheme), TIME, polygons.STEPS)
    assert drawn.vertices[-1] == pytest.approx(float(end[0]))
    assert len(drawn.vertices) == polygons.STEPS + 1
    assert drawn.times.min() >= 0
    assert drawn.times.max() <= TIME
    assert np.isnan(drawn.evaluated).all() == (scheme.components > 1)


def test_heun_evaluates_f_at_both_ends_of_a_step() -> None:
    drawn = polygons.measure(SCHEMES.build("heun"))
    h = TIME / polygons.STEPS
    assert drawn.times == pytest.approx([t for n in range(polygons.STEPS) for t in (n * h, (n + 1) * h)])
    assert drawn.evaluated[::2] == pytest.approx(drawn.vertices[:-1])


def test_each_scheme_has_a_panel_with_the_solution_of_its_problem() -> None:
    names = ("heun", "verlet", "backward_euler_poly", "rk4")
    figure = polygons.draw({name: SCHEMES.build(name) for name in names})
    panels = [ax for ax in figure.axes if ax.axison]
    assert [ax.get_title(loc="left") for ax in panels] == [
        "heun", "verlet", r"backward_euler_poly (linear problem)", "rk4"
    ]  # fmt: skip
    for ax, linear in zip(panels, (False, False, True, False), strict=True):
        times, values = ax.get_lines()[0].get_data()
        assert values == pytest.approx(exact_at(linear, tuple(np.ravel(times).tolist()))[:, 0].numpy())
    assert [bool(ax.get_xlabel()) for ax in panels] == [False, True, True, True]


def test_a_scheme_that_is_no_method_is_named_so() -> None:
    (panel,) = polygons.draw({"fractal": SCHEMES.build("fractal")}).axes
    assert panel.get_title(loc="left") == "fractal (no method for $u' = f$)"
