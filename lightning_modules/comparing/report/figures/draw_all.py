"""All pictures of a comparison; one without data is not drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lightning_modules.comparing.records import Comparison
from lightning_modules.comparing.report.csv_files import write_csv
from lightning_modules.comparing.report.figures import coefficients, costs, evaluations, stability
from lightning_modules.comparing.report.figures import learning_curves as curves
from lightning_modules.comparing.report.figures.arms import looks_of
from lightning_modules.comparing.statistics.summary import Summary
from lightning_modules.plotting.command import save

PICTURES = {
    "error_against_costs": costs.draw,
    "learning_curves": curves.draw,
    "evaluations": evaluations.draw,
    "coefficients": coefficients.draw,
    "stability": stability.draw,
}
FORMATS = (".png", ".svg", ".pdf")


class Picture(NamedTuple):
    """A picture in the report's folder: its caption, further files of it, and its interactive form if it has one."""

    caption: str
    files: Sequence[str]
    spec: Mapping[str, Any] | None


def write(comparison: Comparison, summaries: Sequence[Summary]) -> dict[str, Picture]:
    """Draw the pictures into the comparison's folder, as PNG, SVG and PDF, with the numbers in them as csv.

    Args:
        comparison: as read from its folders.
        summaries: one for each arm.

    Returns:
        The pictures by the names of their PNG files.
    """
    looks, pictures = looks_of(summaries), {}
    for name, draw in PICTURES.items():
        if (drawn := draw(comparison, summaries, looks)) is None:
            continue
        files = [Path(f"{name}{ending}") for ending in FORMATS]
        for file in files:
            save(drawn.figure, comparison.folder / file)
            drawn.figure.set_layout_engine("none")  # where the panels stand is found once
        if drawn.interactive is not None:
            files.append(Path(f"{name}.csv"))
            write_csv(comparison.folder / files[-1], drawn.interactive.rows)
        spec = drawn.interactive.spec if drawn.interactive is not None else None
        pictures[f"{name}.png"] = Picture(drawn.caption, [str(file) for file in files], spec)
    return pictures
