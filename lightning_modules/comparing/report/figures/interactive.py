"""The interactive form of a figure: its numbers and a Vega-Lite specification that draws them.

Panels, their scales and the looks of the arms are those of the figure that matplotlib drew. The page switches arms off
by the parameter ``hidden``; everything that is drawn is filtered by it.

Reference: Satyanarayan, Moritz, Wongsuphasawat, Heer, "Vega-Lite: A Grammar of Interactive Graphics", IEEE Transactions
on Visualization and Computer Graphics 23 (2017).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

from matplotlib.axis import Axis

from lightning_modules.comparing.statistics.summary import Summary
from lightning_modules.plotting.style import Look

SHAPES = {
    "o": "M-.9,0a.9,.9,0,1,0,1.8,0a.9,.9,0,1,0,-1.8,0Z",
    "s": "M-.8,-.8H.8V.8H-.8Z",
    "D": "M0,-1.1L1.1,0L0,1.1L-1.1,0Z",
    "^": "M0,-1L1,.8H-1Z",
    "v": "M0,1L1,-.8H-1Z",
    "<": "M-1,0L.8,-1V1Z",
    ">": "M1,0L-.8,-1V1Z",
    "p": "M0,-1L.95,-.31L.59,.81H-.59L-.95,-.31Z",
    "h": "M0,-1L.87,-.5V.5L0,1L-.87,.5V-.5Z",
    "*": "M0,-1.1L.32,-.32L1.1,-.3L.5,.2L.7,1L0,.5L-.7,1L-.5,.2L-1.1,-.3L-.32,-.32Z",
    "d": "M0,-1.1L.65,0L0,1.1L-.65,0Z",
}
"""SVG paths, about from -1 to 1, of matplotlib's markers."""

DASHES = {"-": [1, 0], "--": [6, 3], ":": [2, 2], "-.": [6, 2, 2, 2]}
HIDDEN = "hidden"
POINTS = 150
"""Points of a curve that are drawn, at most; the csv has all."""

Row = dict[str, Any]


class Interactive(NamedTuple):
    """The numbers of a figure, one row each, and the specification that draws ``shown`` of them."""

    rows: Sequence[Row]
    spec: Mapping[str, Any]


class Field(NamedTuple):
    """A column with the title, the scale and the ticks of its axis, and the unit of their labels."""

    name: str
    title: str
    scale: Mapping[str, Any]
    ticks: Sequence[float]
    unit: str | None = None
    """After a number with a prefix of powers of ten; None for plain numbers."""

    @classmethod
    def of(cls, name: str, title: str, axis: Axis, unit: str | None = None) -> Field:
        """A column whose scale is that of a panel's axis."""
        low, high = sorted(map(float, axis.get_view_interval()))
        scale = {"type": axis.get_scale(), "domain": [low, high], "nice": False}
        ticks = [tick for tick in map(float, axis.get_majorticklocs()) if low <= tick <= high]
        return cls(name, title, scale, ticks, unit)

    @property
    def encoding(self) -> dict[str, Any]:
        axis: dict[str, Any] = {"title": self.title, "values": list(self.ticks), "labelOverlap": True}
        axis |= (
            {"format": ".6~g"} if self.unit is None else {"labelExpr": f"format(datum.value, '.3~s') + '{self.unit}'"}
        )
        return {"field": self.name, "type": "quantitative", "scale": dict(self.scale), "axis": axis}

    @property
    def format(self) -> str:
        """Of a number under the pointer."""
        return ".4~g" if self.unit is None else ".4~s"

    @property
    def tooltip(self) -> dict[str, Any]:
        return {"field": self.name, "type": "quantitative", "title": self.title, "format": self.format}


ARM = {"field": "arm", "type": "nominal", "title": "arm"}


def figure(
    panels: Sequence[Mapping[str, Any]], rows: Sequence[Row], shown: Sequence[Summary], looks: Mapping[str, Look]
) -> Interactive:
    """Panels one beside the other, as many as there is room for.

    Args:
        panels: Vega-Lite views of ``rows``.
        rows: the numbers.
        shown: the arms, in the order of the legend.
        looks: by the names of the arms.
    """
    names = [s.arm.name for s in shown]
    arms = [{"name": name, "colour": looks[name].colour, "shape": SHAPES[looks[name].marker]} for name in names]
    spec = {
        "$schema": "https://vega.github.io/schema/vega-lite/v6.json",
        "usermeta": {"arms": arms},
        "params": [{"name": HIDDEN, "value": []}],
        "data": {"values": _thinned(rows)},
        "transform": [{"filter": f"indexof({HIDDEN}, datum.arm) < 0"}],
        "concat": [dict(panel) for panel in panels],
    }
    return Interactive(rows, spec)


def looks_of_arms(shown: Sequence[Summary], looks: Mapping[str, Look]) -> dict[str, Any]:
    """The encodings of colour, shape and line by arm, without legends: the page has one for all panels."""
    names = [s.arm.name for s in shown]

    def encoding(values: Sequence[Any]) -> dict[str, Any]:
        return ARM | {"scale": {"domain": names, "range": list(values)}, "legend": None}

    return {
        "color": encoding([looks[name].colour for name in names]),
        "shape": encoding([SHAPES[looks[name].marker] for name in names]),
        "strokeDash": encoding([DASHES[looks[name].line] for name in names]),
    }


def points(panel: str, x: Field, y: Field, look: Mapping[str, Any], details: Sequence[Mapping[str, Any]]) -> Row:
    """Points with bars in both directions, and the Pareto front of those that are switched on, controls aside.

    Args:
        panel: whose rows are drawn.
        x: a cost, with ``low`` and ``high`` around it.
        y: an error, with ``sd`` around it.
        look: encodings by arm.
        details: what else is shown under the pointer.
    """
    colour = {"color": look["color"]}
    front = {
        "transform": [
            {"filter": "!datum.control"},
            {
                "window": [{"op": "min", "field": y.name, "as": "least"}],
                "frame": [None, 0],
                "sort": [{"field": x.name}, {"field": y.name}],
            },
            {"filter": f"datum.{y.name} <= datum.least"},
        ],
        "mark": {"type": "line", "interpolate": "step-after", "strokeDash": [5, 3], "color": "#888", "strokeWidth": 1},
        "encoding": {"x": x.encoding, "y": y.encoding, "order": {"field": x.name, "type": "quantitative"}},
    }
    upright = {"x": x.encoding, "y": y.encoding | {"field": "below"}, "y2": {"field": "above"}, **colour}
    across = {"x": x.encoding | {"field": "low"}, "x2": {"field": "high"}, "y": y.encoding, **colour}
    tooltip = [ARM, x.tooltip, y.tooltip, *details]
    mark = {"type": "point", "filled": True, "opacity": 1, "size": 90, "clip": True}
    dots = {"x": x.encoding, "y": y.encoding, **colour, "shape": look["shape"], "tooltip": tooltip}
    return {
        "transform": [{"filter": {"field": "panel", "equal": panel}}],
        "layer": [
            front,
            {"transform": _around(y), "mark": {"type": "rule", "clip": True}, "encoding": upright},
            {"mark": {"type": "rule", "clip": True}, "encoding": across},
            {"mark": mark, "encoding": dots},
        ],
    }


def curves(panel: str, x: Field, y: Field, look: Mapping[str, Any], bands: bool, marked: bool = False) -> Row:
    """Lines by arm, with the numbers of the point that is nearest to the pointer.

    Args:
        panel: whose rows are drawn.
        x: what the curves are drawn against.
        y: means, with ``sd`` around them.
        look: encodings by arm.
        bands: whether one standard deviation to both sides is shaded.
        marked: whether all points are visible, and not only the one at the pointer.
    """
    both = {"x": x.encoding, "y": y.encoding, "color": look["color"]}
    near = f"near_{''.join(filter(str.isalnum, panel))}"
    layer: list[Row] = []
    if bands:
        area = both | {"y": y.encoding | {"field": "below"}, "y2": {"field": "above"}}
        layer += [{"transform": _around(y), "mark": {"type": "area", "opacity": 0.13, "clip": True}, "encoding": area}]
    layer += [
        {"mark": {"type": "line", "clip": True}, "encoding": both | {"strokeDash": look["strokeDash"]}},
        {
            "params": [
                {
                    "name": near,
                    "select": {"type": "point", "on": "pointermove", "nearest": True, "clear": "pointerout"},
                }
            ],
            "mark": {"type": "point", "filled": True, "size": 50, "clip": True},
            "encoding": both
            | {
                "shape": look["shape"],
                "opacity": {"condition": {"param": near, "empty": False, "value": 1}, "value": 0.8 * marked},
                "tooltip": {"value": {"expr": _nearest(x, y)}},
            },
        },
    ]
    return {"transform": [{"filter": {"field": "panel", "equal": panel}}], "layer": layer}


def rows_of_arms(panel: str, value: Field, look: Mapping[str, Any]) -> Row:
    """A row for each arm, with its mean and one standard deviation to both sides; the number alone where off the scale.

    Args:
        panel: whose rows are drawn.
        value: means, with ``sd`` around them.
        look: encodings by arm.
    """
    arm = ARM | {"axis": {"title": None}, "scale": {"domain": look["color"]["scale"]["domain"]}}
    both = {"x": value.encoding, "y": arm, "color": look["color"]}
    across = both | {"x": value.encoding | {"field": "below"}, "x2": {"field": "above"}}
    sd = {"field": "sd", "type": "quantitative", "title": "standard deviation", "format": ".3~g"}
    dots = both | {"shape": look["shape"], "tooltip": [ARM, value.tooltip, sd]}
    edge = value.scale["domain"][1]
    beyond = {
        "transform": [{"filter": f"datum.{value.name} > {edge!r}"}],
        "mark": {"type": "text", "align": "right", "fontSize": 11},
        "encoding": {
            "x": {"datum": edge, "type": "quantitative", "scale": dict(value.scale)},
            "y": arm,
            "color": look["color"],
            "text": {"value": {"expr": f"format(datum.{value.name}, '.3~g') + ' →'"}},
        },
    }
    return {
        "transform": [{"filter": {"field": "panel", "equal": panel}}],
        "layer": [
            {"transform": _around(value), "mark": {"type": "rule", "clip": True}, "encoding": across},
            {"mark": {"type": "point", "filled": True, "opacity": 1, "size": 90, "clip": True}, "encoding": dots},
            beyond,
        ],
    }


def _nearest(x: Field, y: Field) -> str:
    """What is shown of the nearest point; Vega-Lite's own list of fields loses names there, for the point is nested."""
    point = "(datum.datum || datum)"
    numbers = [f"{json.dumps(f.title)}: format({point}.{f.name}, {json.dumps(f.format)})" for f in (x, y)]
    return f"{{arm: {point}.arm, {', '.join(numbers)}}}"


def _around(y: Field) -> list[Row]:
    """One standard deviation to both sides."""
    signs = {"below": "-", "above": "+"}
    return [{"calculate": f"datum.{y.name} {sign} datum.sd", "as": end} for end, sign in signs.items()]


def _thinned(rows: Sequence[Row]) -> list[Row]:
    """The rows without those in between of long curves: each arm's in a panel, first and last kept."""
    groups: dict[tuple[Any, Any], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["panel"], row["arm"]), []).append(row)
    thinned = []
    for group in groups.values():
        count = min(len(group), POINTS)
        chosen = {round(i * (len(group) - 1) / max(1, count - 1)) for i in range(count)}
        thinned += [_rounded(group[i]) for i in sorted(chosen)]
    return thinned


def _rounded(row: Row) -> Row:
    """Six digits: more are not seen, and a page is smaller without them."""
    return {key: float(f"{value:.6g}") if isinstance(value, float) else value for key, value in row.items()}


@cache
def library() -> str:
    """Vega, Vega-Lite and Vega-Embed as one script, which gives the page a function ``embed``."""
    from vl_convert import javascript_bundle

    return javascript_bundle("window.embed = vegaEmbed;")
