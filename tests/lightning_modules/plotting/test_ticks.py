"""Ticks of the pictures: their labels do not touch and say the values that they stand at."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from matplotlib.axis import Axis

from lightning_modules.comparing.report.figures import evaluations
from lightning_modules.comparing.report.figures.arms import cost_axis
from lightning_modules.plotting.style import count, in_bytes, in_seconds, new_figure, readable_ticks
from tests.lightning_modules.comparing.test_pictures import drawn, fabricate

PREFIXES = {"m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}


def labelled(axis: Axis) -> list[tuple[float, str]]:
    """Places and labels of the ticks of a drawn axis; fails where two labels touch."""
    low, high = sorted(axis.get_view_interval())
    ticks = [tick for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high and tick.label1.get_text()]
    boxes = [tick.label1.get_window_extent() for tick in ticks]
    texts = [tick.label1.get_text() for tick in ticks]
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2)), texts
    return [(float(tick.get_loc()), text) for tick, text in zip(ticks, texts, strict=True)]


def value_of(label: str) -> float:
    number, _, unit = label.replace("\N{MINUS SIGN}", "-").partition(" ")
    return float(number) * PREFIXES.get(unit[:1], 1.0)


@pytest.mark.parametrize("width", [11.0, 5.0])
@pytest.mark.parametrize(
    ("low", "high", "text"),
    [
        (600e3, 600e3, count), (600e3, 960e3, count), (995e3, 1.4e6, count), (1.23e6, 2e6, count), (1e6, 9e6, count),
        (6e5, 3e9, count), (0.25, 0.36, in_seconds), (0.9, 1.7, in_seconds), (0.01, 0.2, in_seconds),
        (61e6, 84e6, in_bytes), (2e6, 9e9, in_bytes),
    ],
)  # fmt: skip
def test_labels_of_costs_do_not_touch_and_say_where_they_stand(low: float, high: float, text, width: float) -> None:
    figure = new_figure(width, 2.5)
    axes = figure.subplots(1, 3, sharey=True)
    cost_axis(axes[1], [low, high], text)
    figure.canvas.draw()
    ticks = labelled(axes[1].xaxis)
    assert 1 <= len(ticks) <= 6
    assert [value_of(label) for _, label in ticks] == pytest.approx([place for place, _ in ticks], rel=1e-5)


def test_training_steps_by_the_hundred_thousand_do_not_touch(tmp_path: Path) -> None:
    folder = fabricate(tmp_path)
    for path in folder.glob("a*/seed*/metrics.csv"):
        rows = "".join(f"0,{step},{20 + step % 3},{40 + step % 5}\n" for step in (0, 49_999, 219_999, 399_999))
        path.write_text("epoch,step,nfe/forward,nfe/backward\n" + rows)
    figure, *_ = drawn(evaluations, folder)
    figure.canvas.draw()
    for ax in figure.axes:
        assert len(labelled(ax.xaxis)) > 1


@pytest.mark.parametrize(("low", "high", "places"), [(0.4, 2.6, [1, 2]), (25.2, 25.8, []), (0.5, 17.5, [5, 10, 15])])
def test_what_is_counted_has_whole_numbers(low: float, high: float, places: list[int]) -> None:
    figure = new_figure(4, 2)
    ax = figure.subplots()
    ax.set_xlim(low, high)
    readable_ticks(ax.xaxis, whole=True)
    figure.canvas.draw()
    assert [place for place, _ in labelled(ax.xaxis)] == places
