"""Figures of a comparison's report drawn alone, for ``schemenet figure``."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING

from lightning_modules.comparing.records import read_comparison
from schemes.errors import SchemenetError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MODULES = {"error_against_costs": "costs", "learning_curves": "learning_curves", "evaluations": "evaluations"}
"""Modules of this folder by the names of their figures."""


def _figure(what: str, names: list[str]) -> Callable[[], Figure]:
    if len(names) > 1:
        raise SchemenetError(f"figure {what}: expected the folder of one comparison, got {' '.join(names)}")
    return lambda: _draw(what, names[0])


def _draw(what: str, folder: str) -> Figure:
    from lightning_modules.comparing.report.figures.arms import looks_of
    from lightning_modules.comparing.statistics.summary import summarise
    from lightning_modules.plotting.style import caption

    comparison = read_comparison(folder)
    summaries = summarise(comparison)
    module = import_module(f"lightning_modules.comparing.report.figures.{MODULES[what]}")
    drawn = module.draw(comparison, summaries, looks_of(summaries))
    if drawn is None:
        raise SchemenetError(f"{folder}: no finished run has what figure {what} shows")
    caption(drawn.caption)
    return drawn.figure


KINDS = {what: partial(_figure, what) for what in MODULES}
"""What checks the names of a figure, and returns what draws it."""
